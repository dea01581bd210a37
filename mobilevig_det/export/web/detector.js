// Run an exported detector in onnxruntime-web: from pixels to boxes and masks. It uses no
// DOM, so that it also runs in Node.
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

  // Detect objects in an image; pixels are RGBA, 8 bits each. Returns detections with a
  // score of at least scoreThr, in descending order of score: { box: [x1, y1, x2, y2],
  // label, score, mask }. Boxes are in pixels of the image, label is an index of
  // metadata.classes, and mask is as in masks.js, if the model has masks.
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
    // MMDetection 3.3 uses x's factor for the height; so do files without this key.
    const { kind, stride, threshold, swapped = true } = this.metadata.masks;
    const factors = swapped ? scale : [scale[1], scale[0]];
    const area = dims[1] * dims[2];
    const mask = data.subarray(i * area, (i + 1) * area);
    return kind === 'box'
      ? pasteInBox(mask, dims[1], box, width, height, threshold)
      : pasteImage(mask, dims.slice(1), width, height, factors, stride, threshold);
  }
}
