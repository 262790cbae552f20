// The viewer of one pair: linked planes, the mouse and the keyboard.

/** Views of a 2-D image: as chosen, and both images alone. */
const FLAT = [{ name: "axial", plane: "axial" }, { name: "fixed", plane: "axial", mode: "fixed" },
  { name: "moving", plane: "axial", mode: "image" }];
const START = { window: 50, level: 50, zoom: 0 }; // of the sliders, from 0 to 100

class Viewer {
  constructor(host, pair) {
    this.host = host;
    this.pair = pair;
    this.planes = pair.dimension === 2 ? ["axial"] : Object.keys(PLANES);
    this.views = pair.dimension === 2 ? FLAT : this.planes.map((plane) => ({ name: plane, plane }));
    this.cross = [2, 1, 0].map((axis) => Math.floor(pair.shape[axis] / 2)); // x, y, z
    this.state = {
      method: 0, mode: "overlay", curtain: 0, map: "none", opacity: 0.6, shown: "all", ...START,
      contours: this.hasLabels, grid: false, crosshair: true,
    };
    this.focus = this.cross.map((i) => i + 0.5); // middle of what is seen
    this.panes = {};
    this.pending = false;
    this.asked = this.drawn = 0;
    host.replaceChildren(controlsOf(this), this.stage(), this.footer());
    host.addEventListener("keydown", (event) => this.onKey(event));
    this.resizer = new ResizeObserver(() => this.draw());
    this.resizer.observe(this.planesBox);
    this.update();
  }

  dispose() {
    this.resizer.disconnect();
    this.host.replaceChildren();
    this.disposed = true;
  }

  get hasLabels() { return Boolean(this.pair.fixed.labels || this.pair.before.labels); }

  get method() { return this.pair.methods[this.state.method]; }

  hasMap(method, name) { return Boolean(name === "displacement" ? method.field : method[name]); }

  stage() {
    this.planesBox = make("div", { class: "planes" });
    for (const view of this.views) {
      const { name, plane } = view, axis = PLANES[plane].across, count = sizeAlong(this.pair.shape, axis);
      const canvas = make("canvas", { tabindex: 0, role: "img", "data-view": name });
      const range = make("input", { type: "range", min: 0, max: count - 1, "aria-label": `${plane} slice`, "data-slice": name,
        oninput: () => { this.cross[axis] = Number(range.value); this.update(); } });
      const caption = make("figcaption");
      canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        if (event.ctrlKey) this.put("zoom", Number(this.box("zoom").value) - 8 * Math.sign(event.deltaY));
        else this.step(plane, event.deltaY > 0 ? -1 : 1);
      }, { passive: false });
      canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); this.point(view, event); });
      canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) this.point(view, event); });
      const figure = make("figure", { class: "pane", "data-pane": name }, canvas, count > 1 ? range : "", caption);
      this.panes[name] = { figure, canvas, range, caption };
      this.planesBox.append(figure);
    }
    return this.planesBox;
  }

  footer() {
    this.readout = make("p", { class: "readout", "data-readout": "" });
    this.legend = make("p", { class: "legend" });
    const keys = make("dl", { class: "keys" });
    const deep = this.planes.length > 1;
    const has = { "m, n": this.pair.methods.length > 1, "a, 1, 2, 3": deep, "↑ ↓": deep, "Page Up, Page Down": deep, "Home, End": deep };
    for (const [key, what] of KEYS)
      if (has[key] !== false) keys.append(make("div", {}, make("dt", {}, make("kbd", {}, key)), make("dd", {}, what)));
    return make("div", { class: "below" }, this.readout, this.legend, keys);
  }

  // ---- Input --------------------------------------------------------------------------------------------------

  show(name) {
    this.state.shown = name;
    for (const button of this.host.querySelectorAll("[data-plane]"))
      button.setAttribute("aria-pressed", String(button.dataset.plane === name));
    this.update();
  }

  step(plane, by) {
    const axis = PLANES[plane].across;
    this.cross[axis] = Math.max(0, Math.min(sizeAlong(this.pair.shape, axis) - 1, this.cross[axis] + by));
    this.update();
  }

  /** First voxel that is seen along an axis; the cross stays in sight. */
  seenFrom(axis) {
    const count = sizeAlong(this.pair.shape, axis), half = count / (2 * this.zoom), cross = this.cross[axis] + 0.5;
    const near = Math.max(cross - half, Math.min(cross + half, this.focus[axis]));
    this.focus[axis] = Math.max(half, Math.min(count - half, near));
    return this.focus[axis] - half;
  }

  get zoom() { return 8 ** (this.state.zoom / 100); }

  /** Set a control, as if a hand did. */
  put(name, value) {
    const box = this.box(name);
    box.value = value;
    box.dispatchEvent(new Event("input"));
  }

  reset() { for (const [name, value] of Object.entries(START)) this.put(name, value); }

  point({ name, plane }, event) {
    const { column, row, flipped } = PLANES[plane];
    const box = this.panes[name].canvas.getBoundingClientRect();
    const at = (part, axis) => {
      const count = sizeAlong(this.pair.shape, axis);
      return Math.max(0, Math.min(count - 1, Math.floor(this.seenFrom(axis) + (part * count) / this.zoom)));
    };
    const down = (event.clientY - box.top) / box.height;
    this.cross[column] = at((event.clientX - box.left) / box.width, column);
    this.cross[row] = at(flipped ? 1 - down : down, row);
    this.update();
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const plane = this.views.find((view) => view.name === event.target.dataset.view)?.plane;
    const far = { Home: -1e6, End: 1e6, PageUp: 10, PageDown: -10, ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 };
    const { state, pair } = this;
    const toggle = (name) => { const box = this.box(name); if (!box.disabled) box.click(); };
    const choose = (name, by) => {
      const box = this.box(name);
      if (!box) return;
      box.selectedIndex = (box.selectedIndex + by + box.length) % box.length;
      box.dispatchEvent(new Event("change"));
    };
    const actions = {
      m: () => choose("method", 1), n: () => choose("method", -1), v: () => choose("mode", 1),
      b: () => this.put("curtain", state.curtain > 50 ? 0 : 100),
      "+": () => this.put("zoom", state.zoom + 8), "-": () => this.put("zoom", state.zoom - 8), 0: () => this.reset(),
      l: () => this.host.querySelector("[data-share]")?.click(),
      c: () => toggle("contours"), g: () => toggle("grid"), x: () => toggle("crosshair"),
      j: () => {
        const box = this.box("map");
        if (!pair.methods.some((m) => m.jacobian)) return;
        box.value = state.map === "jacobian" ? "none" : "jacobian";
        box.dispatchEvent(new Event("change"));
      },
    };
    if (this.planes.length > 1) ["all", ...this.planes].forEach((name, i) => { actions[i || "a"] = () => this.show(name); });
    if (plane && event.key in far) this.step(plane, far[event.key]);
    else if (event.key in actions && event.target.tagName !== "SELECT") actions[event.key]();
    else return;
    event.preventDefault();
  }

  box(name) { return this.host.querySelector(`[data-control="${name}"]`); }

  // ---- Drawing ------------------------------------------------------------------------------------------------

  /** Draw once per frame, with what is there after loading. */
  update() {
    this.host.dataset.asked = ++this.asked;
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(async () => {
      this.pending = false;
      const number = this.asked;
      const { fixed, before } = this.pair, { method, state } = this;
      const wanted = { fixed: fixed.image, before: before.image, after: method.image };
      if (state.contours) Object.assign(wanted, { fixedLabels: fixed.labels, beforeLabels: before.labels, afterLabels: method.labels });
      if (state.map === "jacobian" || state.map === "uncertainty") wanted.map = method[state.map];
      wanted.field = method.field;
      const volumes = Object.fromEntries(await Promise.all(
        Object.entries(wanted).map(async ([name, asset]) => [name, await loadVolume(asset)])));
      // What took longer to load than a later wish is out of date.
      if (this.disposed || number < this.drawn) return;
      this.volumes = volumes;
      this.drawn = number;
      this.draw();
      this.host.dataset.drawn = number;
    });
  }

  draw() {
    if (!this.volumes || this.disposed) return;
    const { pair, state } = this, room = this.planesBox.clientWidth - 24, narrow = room < 640;
    const lengths = (axis) => sizeAlong(pair.shape, axis) * pair.spacing[axis];
    // A wide 2-D image has the width for itself.
    const alone = pair.dimension === 2 && (narrow || lengths(0) > 1.6 * lengths(1));
    const shown = this.views.filter((view) => (alone ? !view.mode : ["all", view.plane].includes(state.shown)));
    const stacked = narrow || shown.length === 1;
    const wide = shown.map((v) => lengths(PLANES[v.plane].column)), high = shown.map((v) => lengths(PLANES[v.plane].row));
    // One scale for all planes, so that they can be compared; all of them are seen without scrolling.
    const fit = stacked ? room / Math.max(...wide) : (room - 12 * (shown.length - 1)) / wide.reduce((a, b) => a + b);
    const below = window.innerHeight - this.planesBox.getBoundingClientRect().top - window.scrollY - 132;
    const tall = stacked ? Math.max(below, 0.8 * window.innerHeight) : Math.max(below, 280);
    const scale = Math.min(fit, tall / Math.max(...high));
    for (const view of this.views) {
      this.panes[view.name].figure.hidden = !shown.includes(view);
      if (shown.includes(view)) this.drawPlane(view, scale);
    }
    for (const button of this.host.querySelectorAll("[data-end]"))
      button.toggleAttribute("data-reached", Number(button.dataset.end) === state.curtain);
    this.describe();
  }

  drawPlane({ name: viewed, plane, mode = this.state.mode }, scale) {
    const { pair, state, volumes, zoom } = this, place = PLANES[plane], { figure, canvas, range, caption } = this.panes[viewed];
    const index = this.cross[place.across], cut = (volume) => cutSlice(volume, plane, index, pair.shape);
    const fixed = cut(volumes.fixed), ratio = window.devicePixelRatio || 1;
    const width = Math.max(2, Math.floor(fixed.width * pair.spacing[place.column] * scale));
    const height = Math.max(2, Math.round(fixed.height * pair.spacing[place.row] * scale));
    Object.assign(canvas, { width: width * ratio, height: height * ratio });
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    figure.style.setProperty("--share", width);
    const context = canvas.getContext("2d"), across = (zoom * width) / fixed.width, down = (zoom * height) / fixed.height;
    context.scale(ratio, ratio);
    const from = this.seenFrom(place.row), rows = place.flipped ? fixed.height - from - fixed.height / zoom : from;
    const corner = [this.seenFrom(place.column) * across, rows * down];
    const edge = mode === "fixed" ? 0 : (width * state.curtain) / 100;
    const size = { fixed, cut, index, width: width * zoom, height: height * zoom, across, down, mode };
    // Left of the curtain lies what was before, right of it what came out.
    for (const [name, left, right] of [["before", 0, edge], ["after", edge, width]]) {
      if (right <= left) continue;
      context.save();
      context.beginPath();
      context.rect(left, 0, right - left, height);
      context.clip();
      context.translate(-corner[0], -corner[1]);
      this.drawState(context, name, plane, size);
      context.restore();
    }
    this.drawMarks(context, plane, width, height, across, down, edge, corner, mode);
    range.value = index;
    caption.textContent = pair.dimension === 2 ? MODES[mode]
      : `${plane[0].toUpperCase()}${plane.slice(1)} ${index + 1} / ${range.max * 1 + 1}`;
    canvas.setAttribute("aria-label", `${caption.textContent}: ${MODES[mode]} of ${this.method.name}, ` +
      `${state.curtain} % before and ${100 - state.curtain} % after registration`);
  }

  drawState(context, name, plane, { fixed, cut, index, width, height, across, down, mode }) {
    const { pair, state, volumes } = this, place = PLANES[plane];
    const edge = Math.max(...pair.shape.map((n, i) => n * pair.spacing[2 - i])) / 12;
    const tile = [edge / pair.spacing[place.column], edge / pair.spacing[place.row]];
    const colour = this.colouring(plane, cut, index, fixed), moved = name === "after" ? this.method : pair.before;
    const tables = [pair.fixed, moved].map(({ image }) => greyTable(image, state.level / 50 - 0.5, 2 ** ((state.window - 50) / 16)));
    const pixels = composePixels(fixed, cut(volumes[name]), mode, tile, colour, tables);
    const small = new OffscreenCanvas(fixed.width, fixed.height);
    small.getContext("2d").putImageData(pixels, 0, 0);
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, width, height);
    if (name === "after" && mode !== "fixed" && state.grid && volumes.field) drawGrid(context, volumes.field, plane, index, pair, across, down);
    if (!state.contours) return;
    for (const [labels, dotted] of [[volumes.fixedLabels, false], [volumes[`${name}Labels`], true]])
      if (labels && !(dotted && mode === "fixed")) drawContours(context, cut(labels), across, down, dotted);
  }

  /** The colour map of a slice as a function of the pixel, or null. */
  colouring(plane, cut, index, { width, height }) {
    const { state, volumes, pair } = this, place = PLANES[plane];
    if (state.map === "jacobian" && volumes.map) return jacobianColour(cut(volumes.map), pair.jacobianSpan, state.opacity);
    if (state.map === "uncertainty" && volumes.map) {
      const slice = cut(volumes.map);
      return (i) => [...viridis(slice.data[i] / 255), state.opacity];
    }
    if (state.map !== "displacement" || !volumes.field) return null;
    const position = [0, 0, 0], moved = [0, 0, 0];
    position[place.across] = index;
    return (i) => {
      const row = Math.floor(i / width);
      position[place.column] = i % width;
      position[place.row] = place.flipped ? height - 1 - row : row;
      return [...viridis(Math.hypot(...fieldAt(volumes.field, position, pair.shape, moved)) / this.method.largest), state.opacity];
    };
  }

  drawMarks(context, plane, width, height, across, down, edge, corner, mode) {
    const { pair, state } = this, { column, row, flipped, edges } = PLANES[plane];
    if (state.crosshair) {
      const x = (this.cross[column] + 0.5) * across - corner[0], y = this.cross[row] + 0.5;
      const yPixel = (flipped ? sizeAlong(pair.shape, row) - y : y) * down - corner[1];
      const free = pair.dimension === 2 ? 0 : 20; // the letters at the sides stay free
      context.fillStyle = "rgba(120, 200, 255, 0.75)";
      for (const [left, top, right, bottom] of [[free, yPixel, x - 6, yPixel + 1], [x + 6, yPixel, width - free, yPixel + 1],
        [x, 0, x + 1, yPixel - 6], [x, yPixel + 6, x + 1, height]])
        if (right > left && bottom > top) context.fillRect(left, top, right - left, bottom - top);
    }
    if (edge > 0 && edge < width) {
      context.fillStyle = "rgba(255, 255, 255, 0.9)";
      context.fillRect(edge - 1, 0, 2, height);
    }
    context.font = "600 12px system-ui, sans-serif";
    context.fillStyle = "rgba(255, 255, 255, 0.9)";
    context.shadowColor = "black";
    context.shadowBlur = 3;
    const write = (text, x, y, align) => { context.textAlign = align; context.fillText(text, x, y); };
    if (mode === "fixed") write("fixed", 6, height - 24, "left");
    else if (edge > 60) write("before", edge - 6, height - 24, "right");
    if (mode !== "fixed" && width - edge > 60) write("after", edge + 6, height - 24, "left");
    if (pair.dimension === 2) return;
    write(edges[0], 5, height / 2 + 4, "left");
    write(edges[1], width - 5, height / 2 + 4, "right");
    write(edges[2], width / 2 + 9, 14, "center");
    write(edges[3], width / 2 + 9, height - 7, "center");
  }

  /** The line below the planes: what is under the cross, and what the colours mean. */
  describe() {
    const { pair, volumes, state, method } = this, [x, y, z] = this.cross;
    const value = (volume) => {
      const at = [z, y, x].map((i, a) => Math.floor(((i + 0.5) * volume.shape[a]) / pair.shape[a]));
      return volume.data[(at[0] * volume.shape[1] + at[1]) * volume.shape[2] + at[2]];
    };
    const place = pair.direction.map((line, i) =>
      line.reduce((sum, cosine, j) => sum + cosine * this.cross[j] * pair.spacing[j], pair.origin[i]).toFixed(1));
    const words = [`${["x", "y", "z"].slice(0, pair.dimension).map((n, i) => `${n} ${place[i]}`).join(", ")} mm (LPS)`];
    if (volumes.field) {
      const u = fieldAt(volumes.field, this.cross, pair.shape, [0, 0, 0]);
      words.push(`displacement ${Math.hypot(...u).toFixed(1)} mm`);
    }
    if (volumes.map && state.map === "jacobian") {
      const code = value(volumes.map);
      words.push(code ? `Jacobian ${(2 ** (((code - 128) * pair.jacobianSpan) / 127)).toFixed(2)}` : "folded");
    }
    if (volumes.map && state.map === "uncertainty")
      words.push(`uncertainty ${((value(volumes.map) / 255) * method.uncertaintyMax).toFixed(2)} mm`);
    if (volumes.fixedLabels && volumes.afterLabels)
      words.push(`label: ${value(volumes.fixedLabels) || "none"} in the fixed image, ${value(volumes.afterLabels) || "none"} after`);
    this.readout.textContent = words.join(" · ");
    const legend = [];
    if (state.map === "none" || state.mode !== "overlay") legend.push(...(MEANINGS[state.mode] ?? []));
    legend.push(this.windowInWords());
    if (state.contours) legend.push("contours: solid fixed, dotted moving");
    if (state.grid) legend.push(`grid: lines that were straight in the moving image, ${gridStep(Math.max(...pair.shape.map((n, i) => n * pair.spacing[2 - i])))} mm apart`);
    this.legend.replaceChildren(legend.join(" · "));
    if (state.contours && volumes.fixedLabels) this.legend.append(...labelKey(volumes.fixedLabels));
    if (state.map !== "none") this.legend.append(legend.length ? " · " : "", ...this.colourBar());
  }

  /** The intensities shown as black and white. */
  windowInWords() {
    const ends = ({ image }) => greyEnds(image, this.state.level / 50 - 0.5, 2 ** ((this.state.window - 50) / 16)).map((x) => Number(x.toPrecision(3))).join(" to ");
    const [fixed, moving] = [ends(this.pair.fixed), ends(this.method)];
    return fixed === moving ? `grey: ${fixed} in both images` : `grey: ${fixed} fixed, ${moving} moving`;
  }

  colourBar() {
    const { state, method } = this;
    const bar = (kind) => make("span", { class: `bar ${kind}`, role: "img", "aria-label": "colour scale" });
    const scale = (low, kind, high) => make("span", { class: "scale" }, low, bar(kind), high);
    if (state.map === "jacobian")
      return ["volume in the moving image: ", scale("0.35 times ", "jacobian", " 2.8 times"), ", ", scale("folded ", "folded", "")];
    const largest = state.map === "uncertainty" ? method.uncertaintyMax : method.largest;
    if (!this.hasMap(method, state.map)) return [`${MAPS[state.map]}: not known for ${method.name}`];
    return [`${MAPS[state.map]}${state.map === "uncertainty" ? " (standard deviation)" : ""}: `, scale("0 ", "viridis", ` ${largest.toFixed(1)} mm`)];
  }
}
