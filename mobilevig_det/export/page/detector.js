// A detector of tools/export.py: pixels in, boxes and masks out. No DOM here.

// OpenCV's bilinear resize of 8-bit pixels, in its fixed-point arithmetic.
export function resize(data, width, height, newWidth, newHeight) {
  if (width === newWidth && height === newHeight) return data;
  const [x, xWeights] = samples(width, newWidth);
  for (let i = 0; i < newWidth; i++) {
    if (x[i] < 0 || x[i] >= width - 1) xWeights[i] = 0;
    x[i] = Math.max(x[i], 0);
  }
  const [y, yWeights] = samples(height, newHeight);
  const result = new Uint8Array(newWidth * newHeight * 3);
  const row = (at) => {
    const sums = new Int32Array(newWidth * 3);
    for (let i = 0; i < newWidth; i++) {
      const one = (at * width + x[i]) * 3;
      const next = (at * width + Math.min(x[i] + 1, width - 1)) * 3;
      for (let c = 0; c < 3; c++) {
        sums[i * 3 + c] =
          data[one + c] * (2048 - xWeights[i]) + data[next + c] * xWeights[i];
      }
    }
    return sums;
  };
  for (let j = 0; j < newHeight; j++) {
    // At the edges both are the same row, weighted (and rounded) all the same.
    const above = row(Math.max(y[j], 0));
    const below = row(Math.min(y[j] + 1, height - 1));
    const weight = yWeights[j];
    for (let i = 0; i < above.length; i++) {
      const sum =
        (((2048 - weight) * (above[i] >> 4)) >> 16) + ((weight * (below[i] >> 4)) >> 16);
      result[j * above.length + i] = (sum + 2) >> 2;
    }
  }
  return result;
}

// For each new pixel: the old one before it, and 2048 times how far on it is.
function samples(size, newSize) {
  const before = new Int32Array(newSize);
  const weights = new Int32Array(newSize);
  for (let i = 0; i < newSize; i++) {
    const at = Math.fround((i + 0.5) * (size / newSize) - 0.5);
    const floor = Math.floor(at);
    weights[i] = Math.round(Math.fround(at - floor) * 2048);
    before[i] = Math.min(floor, size - 1);
  }
  return [before, weights];
}

function padded(data, width, height, newWidth, newHeight, value) {
  const result = new Uint8Array(newWidth * newHeight * 3).fill(value);
  for (let j = 0; j < height; j++) {
    result.set(data.subarray(j * width * 3, (j + 1) * width * 3), j * newWidth * 3);
  }
  return result;
}

// MMDetection's Resize, Pad and DetDataPreprocessor. data: RGB, Uint8Array.
export function prepare(data, width, height, metadata) {
  let newWidth = width;
  let newHeight = height;
  if (metadata.resize) {
    [newWidth, newHeight] = metadata.resize.scale;
    if (metadata.resize.keep_ratio) {
      const long = Math.max(newWidth, newHeight) / Math.max(width, height);
      const short = Math.min(newWidth, newHeight) / Math.min(width, height);
      newWidth = Math.floor(width * Math.min(long, short) + 0.5);
      newHeight = Math.floor(height * Math.min(long, short) + 0.5);
    }
  }
  if (newWidth < 1 || newHeight < 1) throw new Error('The image is too narrow.');
  data = resize(data, width, height, newWidth, newHeight);
  const scale = [newWidth / width, newHeight / height];
  if (metadata.pad) {
    const right = Math.max(newWidth, metadata.pad.size[1]);
    const bottom = Math.max(newHeight, metadata.pad.size[0]);
    data = padded(data, newWidth, newHeight, right, bottom, metadata.pad.value);
    [newWidth, newHeight] = [right, bottom];
  }
  const upTo = (side) => Math.ceil(side / metadata.pad_size_divisor) * metadata.pad_size_divisor;
  const [w, h] = [upTo(newWidth), upTo(newHeight)];
  const tensor = new Float32Array(3 * h * w).fill(metadata.pad_value);
  for (let c = 0; c < 3; c++) {
    const channel = metadata.bgr_to_rgb ? c : 2 - c; // a tensor is RGB or BGR
    const [mean, std] = [Math.fround(metadata.mean[c]), Math.fround(metadata.std[c])];
    for (let j = 0; j < newHeight; j++) {
      for (let i = 0; i < newWidth; i++) {
        const value = data[(j * newWidth + i) * 3 + channel];
        tensor[(c * h + j) * w + i] = Math.fround(value - mean) / std;
      }
    }
  }
  return { tensor, shape: [1, 3, h, w], size: [newHeight, newWidth], scale };
}

// A mask of a box, as MMDetection's FCNMaskHead pastes it. Returns the part of the
// image round the box: { left, top, width, height, data } with 0 or 1 in data.
export function pasteInBox(mask, side, box, width, height, threshold) {
  const left = Math.max(Math.floor(box[0]) - 1, 0);
  const top = Math.max(Math.floor(box[1]) - 1, 0);
  const right = Math.min(Math.ceil(box[2]) + 1, width);
  const bottom = Math.min(Math.ceil(box[3]) + 1, height);
  const at = (pixel, low, high) => {
    const place = (pixel + 0.5 - low) / (high - low);
    if (Number.isNaN(place)) return -1;
    return Number.isFinite(place) ? Math.min(Math.max(place * side - 0.5, -1), side) : side / 2 - 0.5;
  };
  const value = (y, x) => (x < 0 || y < 0 || x >= side || y >= side ? 0 : mask[y * side + x]);
  const part = { left, top, width: Math.max(right - left, 0), height: Math.max(bottom - top, 0) };
  part.data = new Uint8Array(part.width * part.height);
  for (let j = 0; j < part.height; j++) {
    const y = at(top + j, box[1], box[3]);
    const y0 = Math.floor(y);
    for (let i = 0; i < part.width; i++) {
      const x = at(left + i, box[0], box[2]);
      const x0 = Math.floor(x);
      const above = value(y0, x0) * (1 - x + x0) + value(y0, x0 + 1) * (x - x0);
      const below = value(y0 + 1, x0) * (1 - x + x0) + value(y0 + 1, x0 + 1) * (x - x0);
      part.data[j * part.width + i] = above * (1 - y + y0) + below * (y - y0) >= threshold;
    }
  }
  return part;
}

export class Detector {
  // ort: the module of onnxruntime-web; model: an address or bytes.
  static async load(ort, model, metadata) {
    const detector = new Detector();
    detector.ort = ort;
    detector.metadata = metadata;
    detector.session = await ort.InferenceSession.create(model, { executionProviders: ['wasm'] });
    return detector;
  }

  // By falling score: [{ box: [x1, y1, x2, y2], label, score, mask }], in pixels of
  // the image. data: RGB, Uint8Array.
  async detect(data, width, height, scoreThr = 0) {
    const { ort, metadata } = this;
    const { tensor, shape, size, scale } = prepare(data, width, height, metadata);
    const outputs = await this.session.run({
      image: new ort.Tensor('float32', tensor, shape),
      size: new ort.Tensor('int64', BigInt64Array.from(size.map(BigInt)), [2]),
    });
    const found = [];
    for (let i = 0; i < outputs.scores.data.length; i++) {
      if (outputs.scores.data[i] < scoreThr) continue;
      const box = Array.from(outputs.boxes.data.slice(4 * i, 4 * i + 4), (side, k) => side / scale[k % 2]);
      const one = { box, label: Number(outputs.labels.data[i]), score: outputs.scores.data[i] };
      if (metadata.masks?.kind === 'box') {
        const side = outputs.masks.dims[1];
        const mask = outputs.masks.data.subarray(i * side * side, (i + 1) * side * side);
        one.mask = pasteInBox(mask, side, box, width, height, metadata.masks.threshold);
      }
      found.push(one);
    }
    return found;
  }
}
