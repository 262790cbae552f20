// What is drawn into a plane: grey values, colour maps, contours and the deformed grid.

/** Okabe and Ito's colours, which colour-blind people tell apart, without black. */
const LABEL_COLOURS = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2"];

/** Anchors of viridis, which is even in lightness and legible in grey. */
const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37],
];
const SHRINKING = [0, 114, 178], GROWING = [230, 159, 0];
const LOG2_SHOWN = 1.5; // log2 of the Jacobian at which the colours are full

function viridis(value) {
  const at = Math.max(0, Math.min(1, value)) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((v, i) => v + (at - low) * (VIRIDIS[low + 1][i] - v));
}

/** Intensities shown as black and white: level (of the middle) and width are in widths of the image's own window. */
function greyEnds(image, level, width) {
  const [low, high] = image.window || [0, 255];
  return [low + (level - width / 2) * (high - low), low + (level + width / 2) * (high - low)];
}

/** Grey levels of the 256 codes of an image; between its knots, codes and intensities run evenly. */
function greyTable(image, level, width) {
  const knots = image.knots || [[0, 0], [255, 255]], [black, white] = greyEnds(image, level, width);
  return Uint8ClampedArray.from({ length: 256 }, (_, code) => {
    const next = Math.max(1, knots.findIndex(([at]) => at >= code)), [a, b] = [knots[next - 1], knots[next]];
    const value = a[1] + ((code - a[0]) / (b[0] - a[0])) * (b[1] - a[1]);
    return (255 * (value - black)) / (white - black);
  });
}

/** Pixels of one state (before or after) as an ImageData; tables are the grey levels of both images. */
function composePixels(fixed, moved, mode, tile, colour, tables) {
  const image = new ImageData(fixed.width, fixed.height);
  for (let i = 0; i < fixed.data.length; i++) {
    const f = tables[0][fixed.data[i]], m = tables[1][moved.data[i]];
    let rgb = [m, m, m];
    if (mode === "fixed") rgb = [f, f, f];
    // Below a colour map the overlay is grey: two kinds of colours could not be told apart.
    else if (mode === "overlay") rgb = colour ? Array(3).fill((f + m) / 2) : [m, f, m];
    else if (mode === "difference") rgb = Array(3).fill(128 + (m - f) / 2);
    else if (mode === "checkerboard") {
      const square = Math.floor((i % fixed.width) / tile[0]) + Math.floor(Math.floor(i / fixed.width) / tile[1]);
      if (square % 2 === 0) rgb = [f, f, f];
    }
    const over = colour && colour(i);
    for (let k = 0; k < 3; k++) image.data[4 * i + k] = over ? rgb[k] + over[3] * (over[k] - rgb[k]) : rgb[k];
    image.data[4 * i + 3] = 255;
  }
  return image;
}

/** Colour (r, g, b, opacity) of a pixel of a Jacobian slice; span is the largest log2 J that can be told. */
function jacobianColour(slice, span, opacity) {
  return (i) => {
    const code = slice.data[i];
    // Folds are a pattern, not a colour: it is seen by everybody and on any background.
    if (code === 0) return (i + Math.floor(i / slice.width)) % 2 ? [240, 228, 66, 1] : [0, 0, 0, 1];
    const level = ((code - 128) * span) / 127 / LOG2_SHOWN;
    return [...(level < 0 ? SHRINKING : GROWING), opacity * Math.min(1, Math.abs(level))];
  };
}

/** Borders between labels as one path per label, smooth: between the centres of pixels, corners cut. */
function contourPaths(slice, across, down) {
  const paths = new Map(), { width, height, data } = slice;
  const corners = [[0, 0], [1, 0], [1, 1], [0, 1]], middles = [[0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5]];
  const at = (r, c) => (r < 0 || c < 0 || r >= height || c >= width ? 0 : data[r * width + c]);
  for (let r = -1; r < height; r++) {
    for (let c = -1; c < width; c++) {
      const here = corners.map(([x, y]) => at(r + y, c + x));
      if (here[0] === here[1] && here[1] === here[2] && here[2] === here[3]) continue;
      // The smallest label of a cell lies outside the borders of the others: each border is drawn once.
      for (const label of [...new Set(here)].sort((a, b) => a - b).slice(1)) {
        const ends = middles.filter((_, k) => (here[k] === label) !== (here[(k + 1) % 4] === label));
        if (!paths.has(label)) paths.set(label, new Path2D());
        for (let k = 0; k + 1 < ends.length; k += 2) {
          const place = ([x, y]) => [(c + 0.5 + x) * across, (r + 0.5 + y) * down];
          paths.get(label).moveTo(...place(ends[k]));
          paths.get(label).lineTo(...place(ends[k + 1]));
        }
      }
    }
  }
  return paths;
}

/** The colours of the labels of a volume, for the legend: twenty at most. */
function labelKey(volume) {
  volume.labels ??= [...new Set(volume.data)].filter(Boolean).sort((a, b) => a - b);
  const keys = volume.labels.slice(0, 20).map((label) => {
    const swatch = make("span", { class: "swatch" });
    swatch.style.background = LABEL_COLOURS[(label - 1) % LABEL_COLOURS.length];
    return make("span", { class: "label-key" }, swatch, `${label}`);
  });
  return [...keys, volume.labels.length > 20 ? " …" : ""];
}

/** Draw the contours of a label slice, solid or dotted. */
function drawContours(context, slice, across, down, dotted) {
  context.save();
  context.lineWidth = 1;
  for (const [label, path] of contourPaths(slice, across, down)) {
    context.strokeStyle = LABEL_COLOURS[(label - 1) % LABEL_COLOURS.length];
    context.globalAlpha = dotted ? 0.8 : 1;
    context.setLineDash(dotted ? [2, 2] : []);
    context.stroke(path);
  }
  context.restore();
}

/** Distance between the lines of the grid: the round number of millimetres below a sixteenth of the image. */
function gridStep(extent) {
  const wanted = extent / 16, power = 10 ** Math.floor(Math.log10(wanted));
  return [5, 2, 1].find((n) => n * power <= wanted) * power;
}

/** Lines that were straight in the moving image: where the mapped coordinate is a multiple of the step. */
function drawGrid(context, field, plane, index, pair, across, down) {
  const place = PLANES[plane];
  const width = sizeAlong(pair.shape, place.column), height = sizeAlong(pair.shape, place.row);
  const cells = [Math.min(width - 1, 96), Math.min(height - 1, 96)];
  const step = gridStep(Math.max(...pair.shape.map((n, i) => n * pair.spacing[2 - i])));
  const mapped = [[], []];
  const position = [0, 0, 0], moved = [0, 0, 0];
  position[place.across] = index;
  for (let r = 0; r <= cells[1]; r++) {
    for (let c = 0; c <= cells[0]; c++) {
      position[place.column] = (c * (width - 1)) / cells[0];
      position[place.row] = (r * (height - 1)) / cells[1];
      fieldAt(field, position, pair.shape, moved);
      for (const [i, axis] of [place.column, place.row].entries())
        mapped[i].push(position[axis] * pair.spacing[axis] + moved[axis]);
    }
  }
  const path = new Path2D();
  const onScreen = (c, r) => {
    const row = (r * (height - 1)) / cells[1];
    return [((c * (width - 1)) / cells[0] + 0.5) * across, ((place.flipped ? height - 1 - row : row) + 0.5) * down];
  };
  for (const values of mapped) tracePaths(path, values, cells, step, onScreen);
  context.save();
  context.lineWidth = 1.2;
  context.strokeStyle = "rgba(255, 217, 90, 0.85)";
  context.stroke(path);
  context.restore();
}

/** Marching squares: lines on which values, given at the corners of cells, are multiples of the step. */
function tracePaths(path, values, cells, step, onScreen) {
  const row = cells[0] + 1;
  const corners = [[0, 0], [1, 0], [1, 1], [0, 1]];
  for (let r = 0; r < cells[1]; r++) {
    for (let c = 0; c < cells[0]; c++) {
      const here = corners.map(([dc, dr]) => values[(r + dr) * row + c + dc] / step);
      const first = Math.ceil(Math.min(...here)), last = Math.floor(Math.max(...here));
      for (let level = first; level <= last; level++) {
        const points = [];
        for (let k = 0; k < 4; k++) {
          const a = here[k] - level, b = here[(k + 1) % 4] - level;
          if (a < 0 === b < 0) continue;
          const part = a / (a - b), from = corners[k], to = corners[(k + 1) % 4];
          points.push(onScreen(c + from[0] + part * (to[0] - from[0]), r + from[1] + part * (to[1] - from[1])));
        }
        for (let k = 0; k + 1 < points.length; k += 2) {
          path.moveTo(...points[k]);
          path.lineTo(...points[k + 1]);
        }
      }
    }
  }
}
