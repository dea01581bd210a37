// The page: a photo or the camera in, a picture with boxes and masks out.
import * as ort from './ort/ort.wasm.min.mjs';
import { Detector } from './detector.js';

const status = document.getElementById('status');
const canvas = document.getElementById('picture');
const context = canvas.getContext('2d', { willReadFrequently: true });
const video = document.createElement('video');
ort.env.wasm.wasmPaths = new URL('./ort/', import.meta.url).href;
// Threads need the two headers that serve.py sends.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1;
const COLORS = [[220, 20, 60], [0, 120, 220], [60, 180, 60], [240, 160, 0], [150, 60, 200]];

let detector;
async function load() {
  const metadata = await (await fetch('model.json')).json();
  detector = await Detector.load(ort, 'model.onnx', metadata);
  status.textContent = `${metadata.family}, ${metadata.classes.length} classes. Drop a photo.`;
}
const loaded = load().catch((error) => { status.textContent = `${error}`; });

async function show(source, width, height) {
  await loaded;
  [canvas.width, canvas.height] = [width, height];
  context.drawImage(source, 0, 0);
  const pixels = context.getImageData(0, 0, width, height);
  const rgb = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) rgb.set(pixels.data.subarray(4 * i, 4 * i + 3), 3 * i);
  const start = performance.now();
  const threshold = Number(document.getElementById('threshold').value);
  const found = await detector.detect(rgb, width, height, threshold);
  const time = performance.now() - start;
  draw(pixels, found);
  status.textContent = `${found.length} found in ${time.toFixed(0)} ms, ${ort.env.wasm.numThreads} threads`;
  window.detections = found; // for the curious, and for tests
}

function draw(pixels, found) {
  for (const { mask, label } of found) {
    for (let i = 0; mask && i < mask.data.length; i++) {
      if (!mask.data[i]) continue;
      const [x, y] = [mask.left + (i % mask.width), mask.top + Math.floor(i / mask.width)];
      const color = COLORS[label % COLORS.length];
      for (let c = 0; c < 3; c++) {
        const at = 4 * (y * pixels.width + x) + c;
        pixels.data[at] = (pixels.data[at] + color[c]) / 2;
      }
    }
  }
  context.putImageData(pixels, 0, 0);
  context.font = '12px sans-serif';
  for (const { box: [x1, y1, x2, y2], label, score } of found) {
    context.strokeStyle = context.fillStyle = `rgb(${COLORS[label % COLORS.length]})`;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.fillText(`${detector.metadata.classes[label]} ${score.toFixed(2)}`, x1 + 2, y1 + 12);
  }
}

async function showFile(file) {
  window.detections = undefined;
  try {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: 'none', premultiplyAlpha: 'none' });
    await show(bitmap, bitmap.width, bitmap.height);
  } catch (error) {
    status.textContent = `This image cannot be used: ${error.message}`;
  }
}

document.getElementById('file').onchange = (event) => showFile(event.target.files[0]);
document.body.ondragover = (event) => event.preventDefault();
document.body.ondrop = (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) showFile(event.dataTransfer.files[0]);
};
document.getElementById('camera').onclick = async () => {
  try {
    if (!video.srcObject) {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
      await video.play();
      while (video.srcObject) {
        await show(video, video.videoWidth, video.videoHeight);
        await new Promise(requestAnimationFrame);
      }
    } else {
      video.srcObject.getTracks().forEach((track) => track.stop());
      video.srcObject = null;
    }
  } catch (error) {
    status.textContent = `No camera: ${error.message}`;
  }
};
