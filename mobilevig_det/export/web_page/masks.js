// Masks, as the model gives them, put into the picture. A pasted mask is the part of
// the picture that it may be in: { left, top, width, height, data }, data 0 or 1.
import { samples } from './prepare.js';

// Mask R-CNN's: side × side probabilities within a box, as FCNMaskHead pastes them,
// bilinear, and zero outside.
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

// Where a pixel's centre is along a side of the mask, whose first sample is at 0.
function within(pixel, low, high, side) {
  const at = (pixel + 0.5 - low) / (high - low);
  if (Number.isNaN(at)) return -1;
  if (!Number.isFinite(at)) return side / 2 - 0.5; // a box without area
  return Math.min(Math.max(at * side - 0.5, -1), side);
}

// RTMDet-Ins's: probabilities of the whole padded image at a stride, resized twice as
// logits; the factors are of the height and of the width.
export function pasteImage(mask, [rows, columns], width, height, factors, stride, threshold) {
  const logits = Float32Array.from(mask, (p) => {
    const inside = Math.min(Math.max(p, 1e-30), 1 - 3e-8);
    return Math.log(inside) - Math.log1p(-inside);
  });
  const [h, w] = [rows * stride, columns * stride];
  const [newH, newW] = [Math.ceil(h * (1 / factors[0])), Math.ceil(w * (1 / factors[1]))];
  const large = resizeFloats(resizeFloats(logits, columns, rows, w, h), w, h, newW, newH);
  const limit = Math.log(threshold / (1 - threshold));
  // Cut to the picture; of its size by repetition, where the swap left it smaller.
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

// cv2.resize's INTER_LINEAR of float32.
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
