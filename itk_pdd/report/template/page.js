// The page around the viewer: which pair is open, sortable tables, light and dark.

const report = JSON.parse(document.getElementById("report-data").textContent);
let viewer = null;

/** Open the page of a pair, or the summary where the address names none. */
function openPage() {
  const [first, ...view] = location.hash.slice(1).split("&"), name = decodeURIComponent(first);
  const pair = report.pairs.find((p) => p.id === name) || (report.single ? report.pairs[0] : null);
  if (viewer) viewer.dispose();
  viewer = null;
  decoded.clear();
  const pages = document.querySelectorAll("[data-page]");
  const wanted = pair ? pair.id : [...pages].some((page) => page.dataset.page === name) ? name : "summary";
  for (const page of pages) page.hidden = !report.single && page.dataset.page !== wanted;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const chooser = document.getElementById("pair-chooser");
  if (chooser) chooser.value = pair ? pair.id : "";
  if (!report.single) window.scrollTo(0, 0);
  const host = pair && document.querySelector(`[data-viewer="${pair.id}"]`);
  if (!host) return;
  if (typeof DecompressionStream === "undefined") {
    host.textContent = "This browser cannot unpack the images of the report; one from 2023 or later can.";
    return;
  }
  viewer = new Viewer(host, pair);
  if (view.length) showView(viewer, view.join("&"));
}

/** Let a click on a header sort its table; what is no number comes last. */
function makeSortable(table) {
  for (const [column, header] of [...table.tHead.rows[0].cells].entries()) {
    const button = make("button", { type: "button", class: "sort", onclick: () => {
      const up = header.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const known = (text) => text !== "" && !Number.isNaN(Number(text));
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [p, q] = [key(a), key(b)];
        if (known(p) !== known(q)) return known(p) ? -1 : 1;
        const order = known(p) ? Number(p) - Number(q) : p.localeCompare(q);
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    } }, ...header.childNodes);
    header.replaceChildren(button);
  }
}

document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
const pairChooser = document.getElementById("pair-chooser");
if (pairChooser) pairChooser.addEventListener("change", () => { location.hash = pairChooser.value || "summary"; });
for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
window.addEventListener("hashchange", openPage);
openPage();
