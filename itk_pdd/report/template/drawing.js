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

/** Pixels of one state (before or after) as an ImageData. */
function composePixels(fixed, moved, mode, tile, colour) {
  const image = new ImageData(fixed.width, fixed.height);
  for (let i = 0; i < fixed.data.length; i++) {
    const f = fixed.data[i], m = moved.data[i];
    let rgb = [m, m, m];
    if (mode === "fixed") rgb = [f, f, f];
    else if (mode === "overlay") rgb = [m, f, m];
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

/** Borders between labels as one path per label, along the edges of the pixels. */
function contourPaths(slice, across, down) {
  const paths = new Map();
  const add = (label, x0, y0, x1, y1) => {
    if (!paths.has(label)) paths.set(label, new Path2D());
    const path = paths.get(label);
    path.moveTo(x0 * across, y0 * down);
    path.lineTo(x1 * across, y1 * down);
  };
  const { width, height, data } = slice;
  for (let r = 0; r < height; r++) {
    for (let c = 0; c < width; c++) {
      const here = data[r * width + c];
      const right = c + 1 < width ? data[r * width + c + 1] : here;
      const below = r + 1 < height ? data[(r + 1) * width + c] : here;
      if (here !== right) add(here || right, c + 1, r, c + 1, r + 1);
      if (here !== below) add(here || below, c, r + 1, c + 1, r + 1);
    }
  }
  return paths;
}

/** Draw the contours of a label slice, solid or dotted. */
function drawContours(context, slice, across, down, dotted) {
  context.save();
  context.lineWidth = Math.max(1.5, Math.min(across, down) / 3);
  if (dotted) context.setLineDash([across / 2, across / 2]);
  for (const [label, path] of contourPaths(slice, across, down)) {
    context.strokeStyle = LABEL_COLOURS[(label - 1) % LABEL_COLOURS.length];
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
