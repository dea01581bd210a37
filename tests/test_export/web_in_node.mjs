// FOLDER IMAGES.json OUT.json: what the page's own code finds, in Node.
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [folder, images, out] = process.argv.slice(2);
const at = (name) => pathToFileURL(`${folder}/${name}`).href;
const ort = await import(at('ort/ort.wasm.min.mjs'));
const { Detector, resize } = await import(at('detector.js'));
ort.env.wasm.wasmPaths = at('ort/');
ort.env.wasm.numThreads = 1;
const metadata = JSON.parse(readFileSync(`${folder}/model.json`));
const detector = await Detector.load(ort, readFileSync(`${folder}/model.onnx`), metadata);
const results = [];
for (const { file, width, height, resized } of JSON.parse(readFileSync(images))) {
  const data = new Uint8Array(readFileSync(file));
  const found = await detector.detect(data, width, height, 0.3);
  for (const one of found) if (one.mask) one.mask.data = Array.from(one.mask.data);
  const small = resized && Array.from(resize(data, width, height, ...resized));
  results.push({ found, small });
}
writeFileSync(out, JSON.stringify(results));
