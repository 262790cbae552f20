// What the viewer offers: its controls, their names and keys.

const MODES = {
  image: "Moving image", fixed: "Fixed image", overlay: "Overlay", checkerboard: "Checkerboard", difference: "Difference",
};
const MEANINGS = {
  overlay: ["overlay: fixed green, moving magenta, grey where they agree"],
  checkerboard: ["squares of the fixed and of the moving image in turn"],
  difference: ["difference: grey where they agree, bright where the moving image is brighter, dark where the fixed one is"],
};
const MAPS = { none: "None", jacobian: "Volume (Jacobian)", displacement: "Displacement", uncertainty: "Uncertainty" };
const KEYS = [
  ["↑ ↓", "next or previous slice (in a plane)"], ["Page Up, Page Down", "ten slices"], ["Home, End", "first, last slice"],
  ["m, n", "next, previous method"], ["v", "next way to show the images"], ["b", "before or after"],
  ["c, g, j, x", "contours, grid, volume (Jacobian), cross"], ["+, −, 0", "zoom in, out, as at the start"],
  ["a, 1, 2, 3", "all planes, or one"], ["l", "a link to this view"],
];

/** An element with attributes and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** The controls of a viewer: each changes its state and draws. */
function controlsOf(viewer) {
  const { pair, state } = viewer;
  const options = (entries, chosen) =>
    entries.map(([value, text]) => make("option", { value, selected: value === chosen }, text));
  const select = (name, label, entries, chosen, set) => {
    const box = make("select", { "data-control": name, onchange: () => { set(box.value); viewer.update(); } });
    box.append(...options(entries, chosen));
    return make("label", { class: "field" }, make("span", {}, label), box);
  };
  const range = (name, value, set, label) => {
    const box = make("input", { type: "range", min: 0, max: 100, value, "data-control": name, "aria-label": label,
      oninput: () => { set(Number(box.value)); viewer.update(); } });
    return box;
  };
  const slider = (name, label, value, set) =>
    make("label", { class: "field" }, make("span", {}, label), range(name, value, set, label));
  const look = (name, label) => slider(name, label, state[name], (v) => {
    state[name] = v;
    if (name === "zoom") viewer.focus = viewer.cross.map((i) => i + 0.5);
  });
  const end = (text, value) => make("button", { type: "button", "data-end": value, onclick: () => viewer.put("curtain", value) }, text);
  const curtain = make("div", { class: "curtain", role: "group", "aria-label": "After or before registration" },
    end("After", 0), range("curtain", state.curtain, (v) => { state.curtain = v; }, "from after to before"), end("Before", 100));
  const tick = (name, label, can) => {
    const box = make("input", { type: "checkbox", checked: state[name], disabled: !can, "data-control": name,
      onchange: () => { state[name] = box.checked; viewer.update(); } });
    return make("label", { class: "tick" }, box, label);
  };
  const maps = Object.entries(MAPS).filter(([name]) => name === "none" || pair.methods.some((m) => viewer.hasMap(m, name)));
  const planes = ["all", ...viewer.planes].map((name, number) => make("button", {
    type: "button", "data-plane": name, "aria-pressed": name === "all" ? "true" : "false",
    title: number ? `key ${number}` : "key a", onclick: () => viewer.show(name),
  }, name === "all" ? "All planes" : name[0].toUpperCase() + name.slice(1)));
  return make("div", { class: "controls" },
    pair.methods.length === 1 ? "" : select("method", "Method", pair.methods.map((m, i) => [String(i), m.name]), "0", (v) => { state.method = Number(v); }),
    select("mode", "Show", Object.entries(MODES), state.mode, (v) => { state.mode = v; }),
    curtain,
    select("map", "Colour map", maps, state.map, (v) => { state.map = v; }),
    slider("opacity", "Map opacity", 100 * state.opacity, (v) => { state.opacity = v / 100; }),
    look("window", "Window"), look("level", "Level"), look("zoom", "Zoom"),
    make("button", { type: "button", "data-reset": "", title: "key 0", onclick: () => viewer.reset() }, "Reset"),
    // The address of a page within a notebook is no link.
    !["about:", "blob:", "data:"].includes(location.protocol) ? make("button", { type: "button", "data-share": "",
      title: "key l: the address of the page becomes a link to this view", onclick: () => shareView(viewer) }, "Link") : "",
    make("div", { class: "ticks" }, tick("contours", "Contours", viewer.hasLabels),
      tick("grid", "Deformed grid", pair.methods.some((m) => m.field)), tick("crosshair", "Cross", true)),
    viewer.planes.length > 1 ? make("div", { class: "buttons", role: "group", "aria-label": "Planes" }, ...planes) : "");
}
