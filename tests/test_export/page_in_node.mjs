// FOLDER JOBS.json: what the page's own modules find, in Node, as JSON on stdout. A job
// has a file of RGBA pixels, their width and height, and mostly a size to resize to.
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [folder, jobs] = process.argv.slice(2);
const at = (name) => pathToFileURL(`${folder}/${name}`).href;
const ort = await import(at('ort/ort.wasm.min.mjs'));
const { Detector } = await import(at('detector.js'));
const { prepare, resize } = await import(at('prepare.js'));
ort.env.wasm.wasmPaths = at('ort/');
ort.env.wasm.numThreads = 1;
const metadata = JSON.parse(readFileSync(`${folder}/model.json`));
const detector = await Detector.load(ort, readFileSync(`${folder}/model.onnx`), metadata);
const results = [];
for (const { file, width, height, resized } of JSON.parse(readFileSync(jobs))) {
  const pixels = new Uint8ClampedArray(readFileSync(file));
  const found = await detector.detect(pixels, width, height);
  for (const { mask } of found) if (mask) mask.data = Array.from(mask.data);
  const { tensor, shape, size } = prepare(pixels, width, height, metadata);
  results.push({
    found,
    resized: resized && Array.from(resize(pixels, width, height, ...resized)),
    input: { data: Array.from(tensor), shape, size },
  });
}
process.stdout.write(JSON.stringify(results));
