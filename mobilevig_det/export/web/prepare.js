// Convert pixels to the model's input: MMDetection's Resize, Pad and
// DetDataPreprocessor. Pixels are RGBA, as a canvas has them; alpha is not used.

// Width and height to resize an image to.
export function sizeFor(width, height, resize) {
  if (!resize) return [width, height];
  if (!resize.keep_ratio) return resize.scale;
  const [long, short] = [Math.max(...resize.scale), Math.min(...resize.scale)];
  const factor = Math.min(long / Math.max(width, height), short / Math.min(width, height));
  return [Math.floor(width * factor + 0.5), Math.floor(height * factor + 0.5)];
}

// For each new pixel along a side: the indices of the old pixels before and after it,
// and the weight of the one after, as in cv2.resize.
export function samples(size, newSize) {
  const before = new Int32Array(newSize);
  const after = new Int32Array(newSize);
  const part = new Float32Array(newSize);
  const step = 1 / (newSize / size); // size / newSize could differ in the last bit
  for (let i = 0; i < newSize; i++) {
    const at = Math.fround((i + 0.5) * step - 0.5);
    const floor = Math.floor(at);
    before[i] = Math.min(Math.max(floor, 0), size - 1);
    after[i] = Math.min(Math.max(floor + 1, 0), size - 1);
    part[i] = at - floor;
  }
  return { before, after, part };
}

// Round half to even.
function round(x) {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.floor(x + 0.5);
  return floor % 2 ? floor + 1 : floor;
}

// Weights of both pixels, in 2048ths.
function weights({ part }) {
  const one = Int32Array.from(part, (x) => round(Math.fround(1 - x) * 2048));
  return [one, Int32Array.from(part, (x) => round(x * 2048))];
}

// cv2.resize with INTER_LINEAR for 8-bit pixels, in its fixed-point arithmetic. A canvas
// resizes differently, which would move boxes.
export function resize(pixels, width, height, newWidth, newHeight) {
  if (width === newWidth && height === newHeight) return pixels;
  const x = samples(width, newWidth);
  const y = samples(height, newHeight);
  const [left, right] = weights(x);
  const [top, bottom] = weights(y);
  const line = (row) => {
    const sums = new Int32Array(newWidth * 3);
    for (let i = 0; i < newWidth; i++) {
      const [a, b] = [(row * width + x.before[i]) * 4, (row * width + x.after[i]) * 4];
      for (let c = 0; c < 3; c++) {
        sums[i * 3 + c] = (pixels[a + c] * left[i] + pixels[b + c] * right[i]) >> 4;
      }
    }
    return sums;
  };
  const result = new Uint8ClampedArray(newWidth * newHeight * 4).fill(255);
  let lines = new Map(); // each is used for several new lines
  for (let j = 0; j < newHeight; j++) {
    const [a, b] = [y.before[j], y.after[j]];
    const above = lines.get(a) ?? line(a);
    const below = a === b ? above : (lines.get(b) ?? line(b));
    lines = new Map([[a, above], [b, below]]);
    for (let i = 0; i < newWidth; i++) {
      for (let c = 0; c < 3; c++) {
        const at = i * 3 + c;
        const sum = ((top[j] * above[at]) >> 16) + ((bottom[j] * below[at]) >> 16);
        result[(j * newWidth + i) * 4 + c] = (sum + 2) >> 2;
      }
    }
  }
  return result;
}

// Returns the tensor (1, 3, H, W) and its shape, the size [height, width] before the last
// padding, and the scale factors of x and y.
export function prepare(pixels, width, height, metadata) {
  const [newWidth, newHeight] = sizeFor(width, height, metadata.resize);
  if (newWidth < 1 || newHeight < 1) {
    throw new Error(`${width} × ${height} pixels are too narrow for this model`);
  }
  const resized = resize(pixels, width, height, newWidth, newHeight);
  const { pad, mean, std, pad_size_divisor: divisor } = metadata;
  const [w, h] = [Math.max(newWidth, pad?.size[1] ?? 0), Math.max(newHeight, pad?.size[0] ?? 0)];
  const upTo = (side) => Math.ceil(side / divisor) * divisor;
  const shape = [1, 3, upTo(h), upTo(w)];
  const area = shape[2] * shape[3];
  const tensor = new Float32Array(3 * area).fill(metadata.pad_value);
  for (let c = 0; c < 3; c++) {
    // The tensor has the channels of a BGR image, swapped or not.
    const [rgb, bgr] = metadata.bgr_to_rgb ? [c, 2 - c] : [2 - c, c];
    const [shift, divided] = [Math.fround(mean[c]), Math.fround(std[c])];
    const normalised = (value) => Math.fround(Math.fround(value - shift) / divided);
    const values = Float32Array.from({ length: 256 }, (_, value) => normalised(value));
    for (let j = 0; j < h; j++) {
      const row = c * area + j * shape[3];
      if (pad) tensor.fill(normalised(pad.value[bgr]), row, row + w);
      if (j >= newHeight) continue;
      for (let i = 0; i < newWidth; i++) {
        tensor[row + i] = values[resized[(j * newWidth + i) * 4 + rgb]];
      }
    }
  }
  return { tensor, shape, size: [h, w], scale: [newWidth / width, newHeight / height] };
}
