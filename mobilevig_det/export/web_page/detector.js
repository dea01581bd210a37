// An exported detector in onnxruntime-web: pixels in, boxes and masks out. No DOM, so
// that it runs in Node, too.
import { pasteImage, pasteInBox } from './masks.js';
import { prepare } from './prepare.js';

export class Detector {
  // ort: the module onnxruntime-web; model: the bytes of model.onnx; metadata: model.json.
  static async load(ort, model, metadata) {
    if (metadata.format !== 1 || metadata.part !== 'detector') {
      throw new Error('model.json is not that of a detector of tools/export.py');
    }
    const session = await ort.InferenceSession.create(model, { executionProviders: ['wasm'] });
    return new Detector(ort, session, metadata);
  }

  constructor(ort, session, metadata) {
    Object.assign(this, { ort, session, metadata });
  }

  // Returns by falling score, from scoreThr on, { box: [x1, y1, x2, y2], label, score,
  // mask }, in pixels of the picture; label is a place in metadata.classes; mask as in
  // masks.js, if the model has masks. pixels: RGBA, 8 bits each.
  async detect(pixels, width, height, scoreThr = 0) {
    const { ort, metadata } = this;
    const { tensor, shape, size, scale } = prepare(pixels, width, height, metadata);
    const { boxes, labels, scores, masks } = await this.session.run({
      image: new ort.Tensor('float32', tensor, shape),
      size: new ort.Tensor('int64', BigInt64Array.from(size, BigInt), [2]),
    });
    const found = [];
    for (const [i, score] of scores.data.entries()) {
      if (score < scoreThr) break;
      const box = Array.from(boxes.data.subarray(4 * i, 4 * i + 4), (at, k) => at / scale[k % 2]);
      const one = { box, label: Number(labels.data[i]), score };
      if (masks) one.mask = this.paste(masks, i, box, width, height, scale);
      found.push(one);
    }
    return found;
  }

  paste({ data, dims }, i, box, width, height, scale) {
    // MMDetection 3.3, and files that don't say, take x's factor for the height.
    const { kind, stride, threshold, swapped = true } = this.metadata.masks;
    const factors = swapped ? scale : [scale[1], scale[0]];
    const area = dims[1] * dims[2];
    const mask = data.subarray(i * area, (i + 1) * area);
    return kind === 'box'
      ? pasteInBox(mask, dims[1], box, width, height, threshold)
      : pasteImage(mask, dims.slice(1), width, height, factors, stride, threshold);
  }
}
