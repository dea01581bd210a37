// Paste the model's masks into the image. A pasted mask covers a part of the image:
// { left, top, width, height, data }, where data has zeros and ones.
import { samples } from './prepare.js';

// Paste a mask of Mask R-CNN, side × side probabilities within a box, as FCNMaskHead
// does: bilinear interpolation, zero outside.
export function pasteInBox(mask, side, [x1, y1, x2, y2], width, height, threshold) {
  const left = Math.max(Math.floor(x1) - 1, 0);
  const top = Math.max(Math.floor(y1) - 1, 0);
  const part = {
    left,
    top,
    width: Math.max(Math.min(Math.ceil(x2) + 1, width) - left, 0),
    height: Math.max(Math.min(Math.ceil(y2) + 1, height) - top, 0),
  };
  part.data = new Uint8Array(part.width * part.height);
  const columns = Float64Array.from({ length: part.width }, (_, i) => within(left + i, x1, x2, side));
  const value = (row, column) =>
    row < 0 || column < 0 || row >= side || column >= side ? 0 : mask[row * side + column];
  for (let j = 0; j < part.height; j++) {
    const y = within(top + j, y1, y2, side);
    const [row, down] = [Math.floor(y), y - Math.floor(y)];
    for (let i = 0; i < part.width; i++) {
      const column = Math.floor(columns[i]);
      const right = columns[i] - column;
      const above = value(row, column) * (1 - right) + value(row, column + 1) * right;
      const below = value(row + 1, column) * (1 - right) + value(row + 1, column + 1) * right;
      part.data[j * part.width + i] = above * (1 - down) + below * down >= threshold;
    }
  }
  return part;
}

// Coordinate of a pixel's centre along a side of the mask, whose first sample is at 0.
function within(pixel, low, high, side) {
  const at = (pixel + 0.5 - low) / (high - low);
  if (Number.isNaN(at)) return -1;
  if (!Number.isFinite(at)) return side / 2 - 0.5; // a box without area
  return Math.min(Math.max(at * side - 0.5, -1), side);
}

// Paste a mask of RTMDet-Ins: probabilities of the whole padded image at a stride, which
// are resized twice as logits. The factors are those of the height and of the width.
export function pasteImage(mask, [rows, columns], width, height, factors, stride, threshold) {
  const logits = Float32Array.from(mask, (p) => {
    const inside = Math.min(Math.max(p, 1e-30), 1 - 3e-8);
    return Math.log(inside) - Math.log1p(-inside);
  });
  const [h, w] = [rows * stride, columns * stride];
  const [newH, newW] = [Math.ceil(h * (1 / factors[0])), Math.ceil(w * (1 / factors[1]))];
  const large = resizeFloats(resizeFloats(logits, columns, rows, w, h), w, h, newW, newH);
  const limit = Math.log(threshold / (1 - threshold));
  // Crop to the image. Where swapped factors made it smaller, repeat pixels.
  const [cutW, cutH] = [Math.min(newW, width), Math.min(newH, height)];
  const data = new Uint8Array(width * height);
  for (let j = 0; j < height; j++) {
    const row = Math.min(Math.floor(j * (cutH / height)), cutH - 1);
    for (let i = 0; i < width; i++) {
      const column = Math.min(Math.floor(i * (cutW / width)), cutW - 1);
      data[j * width + i] = large[row * newW + column] > limit;
    }
  }
  return { left: 0, top: 0, width, height, data };
}

// cv2.resize with INTER_LINEAR for float32.
function resizeFloats(values, width, height, newWidth, newHeight) {
  const x = samples(width, newWidth);
  const y = samples(height, newHeight);
  const result = new Float32Array(newWidth * newHeight);
  for (let j = 0; j < newHeight; j++) {
    const [above, below] = [y.before[j] * width, y.after[j] * width];
    for (let i = 0; i < newWidth; i++) {
      const [a, b, part] = [x.before[i], x.after[i], x.part[i]];
      const one = values[above + a] * (1 - part) + values[above + b] * part;
      const two = values[below + a] * (1 - part) + values[below + b] * part;
      result[j * newWidth + i] = one * (1 - y.part[j]) + two * y.part[j];
    }
  }
  return result;
}
