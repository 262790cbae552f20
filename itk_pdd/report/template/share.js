// A link to what is seen: slices, planes and controls as words behind the name of the pair in the address.

/** The view of a viewer as words. */
function viewInWords(viewer) {
  const words = new URLSearchParams({ at: viewer.cross.join(" "), middle: viewer.focus.join(" "), planes: viewer.state.shown });
  for (const box of viewer.host.querySelectorAll("[data-control]"))
    words.set(box.dataset.control, box.type === "checkbox" ? Number(box.checked) : box.value);
  return words.toString();
}

/** Show the view that some words describe; what they do not say, or say wrongly, stays as it is. */
function showView(viewer, text) {
  const words = new URLSearchParams(text);
  const place = (name) => {
    const found = (words.get(name) ?? "").split(" ").map(Number);
    return found.length === 3 && found.every((i, axis) => i >= 0 && i < sizeAlong(viewer.pair.shape, axis)) ? found : null;
  };
  viewer.cross = place("at")?.map(Math.floor) ?? viewer.cross;
  for (const box of viewer.host.querySelectorAll("[data-control]")) {
    const value = words.get(box.dataset.control);
    if (value === null || box.disabled) continue;
    if (box.type === "checkbox") { if (box.checked !== (value === "1")) box.click(); continue; }
    if (box.tagName === "SELECT" ? ![...box.options].some((each) => each.value === value) : !(value >= 0 && value <= 100)) continue;
    box.value = value;
    box.dispatchEvent(new Event(box.tagName === "SELECT" ? "change" : "input"));
  }
  viewer.focus = place("middle") ?? viewer.cross.map((i) => i + 0.5); // the zoom has moved it
  if (["all", ...viewer.planes].includes(words.get("planes"))) viewer.show(words.get("planes"));
  viewer.update();
}

/** Put the view into the address of the page, and that into the clipboard where the browser allows it. */
function shareView(viewer) {
  history.replaceState(null, "", `#${encodeURIComponent(viewer.pair.id)}&${viewInWords(viewer)}`);
  navigator.clipboard?.writeText(location.href).catch(() => {});
  viewer.readout.textContent = "The address of this page is a link to this view now.";
}
