"use strict";
// Arrays of the page: decoding, slices, and the displacement field. Arrays have the axes z, y, x.

/** Decoded arrays by their number; one pair at a time is kept. */
const decoded = new Map();

/** The bytes of an asset: text -> base64 -> gzip. */
async function assetBytes(id) {
  const text = atob(document.getElementById(`asset-${id}`).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The volume {shape, data} an asset describes, or null for none; decoded once. */
function loadVolume(asset) {
  if (!asset) return Promise.resolve(null);
  if (!decoded.has(asset.id)) {
    decoded.set(asset.id, assetBytes(asset.id).then((bytes) => {
      if (asset.type === "field") return unpackField(asset, bytes);
      const data = asset.type === "uint16" ? new Uint16Array(bytes.buffer) : bytes;
      return { shape: asset.shape, data };
    }));
  }
  return decoded.get(asset.id);
}

/** Displacements in millimetres from 16-bit differences along x, low bytes first; shape is (component, z, y, x). */
function unpackField(asset, bytes) {
  const count = bytes.length / 2;
  const row = asset.shape[3];
  const data = new Float32Array(count);
  const whole = new Int16Array(1);
  for (let i = 0; i < count; i++) {
    const step = bytes[i] | (bytes[count + i] << 8);
    whole[0] = i % row === 0 ? step : whole[0] + step;
    data[i] = whole[0] * asset.unit;
  }
  return { shape: asset.shape.slice(1), components: asset.shape[0], data };
}

/** The three planes: which axis (0 x, 1 y, 2 z) is fixed, runs along columns and along rows, and what lies at the edges. */
const PLANES = {
  axial: { across: 2, column: 0, row: 1, flipped: false, edges: ["R", "L", "A", "P"] },
  coronal: { across: 1, column: 0, row: 2, flipped: true, edges: ["R", "L", "S", "I"] },
  sagittal: { across: 0, column: 1, row: 2, flipped: true, edges: ["A", "P", "S", "I"] },
};

/** Size of a volume along the axis x, y or z. */
const sizeAlong = (shape, axis) => shape[2 - axis];

/**
 * A slice of a volume on the pixels of the page's grid; a volume of another shape is sampled.
 * Rows run downwards on the screen: along -z in the upright planes.
 */
function cutSlice(volume, plane, index, shape) {
  const place = PLANES[plane];
  const width = sizeAlong(shape, place.column);
  const height = sizeAlong(shape, place.row);
  const stride = [1, volume.shape[2], volume.shape[2] * volume.shape[1]];
  const nearest = (i, axis) => {
    const mine = sizeAlong(volume.shape, axis);
    return Math.min(mine - 1, Math.floor(((i + 0.5) * mine) / sizeAlong(shape, axis)));
  };
  const columns = Int32Array.from({ length: width }, (_, c) => nearest(c, place.column) * stride[place.column]);
  const base = nearest(index, place.across) * stride[place.across];
  const data = new volume.data.constructor(width * height);
  for (let r = 0; r < height; r++) {
    const line = base + nearest(place.flipped ? height - 1 - r : r, place.row) * stride[place.row];
    for (let c = 0; c < width; c++) data[r * width + c] = volume.data[line + columns[c]];
  }
  return { width, height, data };
}

/** Displacement in mm along x, y, z at a continuous voxel position of the page's grid, linearly interpolated. */
function fieldAt(field, position, shape, result) {
  const low = [0, 0, 0], part = [0, 0, 0], step = [1, field.shape[2], field.shape[2] * field.shape[1]];
  let start = 0;
  for (let axis = 0; axis < 3; axis++) {
    const mine = sizeAlong(field.shape, axis), full = sizeAlong(shape, axis);
    const at = full > 1 ? Math.max(0, Math.min(mine - 1, (position[axis] * (mine - 1)) / (full - 1))) : 0;
    low[axis] = Math.min(Math.floor(at), Math.max(0, mine - 2));
    part[axis] = at - low[axis];
    if (mine === 1) step[axis] = 0;
    start += low[axis] * [1, field.shape[2], field.shape[2] * field.shape[1]][axis];
  }
  const count = field.shape[0] * field.shape[1] * field.shape[2];
  for (let component = 0; component < 3; component++) {
    result[component] = 0;
    if (component >= field.components) continue;
    for (let corner = 0; corner < 8; corner++) {
      let weight = 1, offset = component * count + start;
      for (let axis = 0; axis < 3; axis++) {
        const upper = (corner >> axis) & 1;
        weight *= upper ? part[axis] : 1 - part[axis];
        if (upper) offset += step[axis];
      }
      if (weight > 0) result[component] += weight * field.data[offset];
    }
  }
  return result;
}
