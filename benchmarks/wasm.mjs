// node wasm.mjs RUNTIME MODEL.onnx HEIGHT WIDTH: run the model once per line of stdin.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [runtime, model, height, width] = process.argv.slice(2);
const ort = await import(pathToFileURL(`${runtime}/ort.wasm.min.mjs`).href);
ort.env.wasm.wasmPaths = pathToFileURL(`${runtime}/`).href;
// Node's fetch() reads no local files.
ort.env.wasm.wasmBinary = readFileSync(`${runtime}/ort-wasm-simd-threaded.wasm`).buffer;
ort.env.wasm.numThreads = 1; // more threads work in browsers only
const session = await ort.InferenceSession.create(readFileSync(model));
const image = Float32Array.from({ length: 3 * height * width }, Math.random);
for await (const line of createInterface({ input: process.stdin })) {
  await session.run({ image: new ort.Tensor('float32', image, [1, 3, Number(height), Number(width)]) });
  console.log(line);
}
process.exit(0);
