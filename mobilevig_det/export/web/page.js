// The page: detect objects in a photo or in the camera's images, and draw them.
import { Detector } from './detector.js';
import { draw } from './draw.js';

const element = (id) => document.getElementById(id);
const say = (text) => { element('status').textContent = text; };

const video = document.createElement('video');
const sheet = document.createElement('canvas'); // to read pixels from
const context = sheet.getContext('2d', { willReadFrequently: true });

async function get(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer;
}

async function load() {
  if (typeof WebAssembly !== 'object') {
    throw new Error('this browser has no WebAssembly, or it is switched off');
  }
  const ort = await import('./ort/ort.wasm.min.mjs');
  ort.env.wasm.wasmPaths = new URL('./ort/', import.meta.url).href;
  // Threads need the two headers that serve.py sends.
  ort.env.wasm.numThreads = self.crossOriginIsolated
    ? Math.min(navigator.hardwareConcurrency, 8) : 1;
  const metadata = await (await get('model.json')).json();
  const model = new Uint8Array(await (await get('model.onnx')).arrayBuffer());
  const detector = await Detector.load(ort, model, metadata);
  detector.threads = ort.env.wasm.numThreads;
  return detector;
}

// Null if the model can't be loaded.
const loaded = load().then(
  (detector) => {
    const { config, classes } = detector.metadata;
    say(`${config} finds: ${classes.slice(0, 10).join(', ')}${classes.length > 10 ? ', …' : ''}.`);
    return detector;
  },
  (error) => {
    say(`The model cannot be loaded: ${error.message ?? error}`);
    return null;
  },
);

let last = Promise.resolve();

// Detect in one image at a time, in the order of the calls.
function detect(...args) {
  const result = last.then(() => detectNow(...args));
  last = result.catch(() => {});
  return result;
}

async function detectNow(source, width, height) {
  const detector = await loaded;
  [sheet.width, sheet.height] = [width, height];
  context.drawImage(source, 0, 0);
  const picture = context.getImageData(0, 0, width, height);
  const start = performance.now();
  const found = await detector.detect(picture.data, width, height, Number(element('score').value));
  const time = performance.now() - start;
  draw(element('picture'), picture, found, detector.metadata.classes);
  say(`${found.length} found in ${width} × ${height} pixels: ${time.toFixed(0)} ms on `
    + (detector.threads > 1 ? `${detector.threads} threads.` : '1 thread.'));
  window.detections = found; // for the browser's console
}

async function detectFile(file) {
  if (!(await loaded)) return; // the error message stays
  stopCamera();
  let picture;
  try {
    // Like OpenCV: follow the EXIF orientation, and ignore colour profiles.
    picture = await createImageBitmap(file, { colorSpaceConversion: 'none' });
  } catch {
    say(`${file.name} is not an image that this browser can read.`);
    return;
  }
  try {
    await detect(picture, picture.width, picture.height);
  } catch (error) {
    say(`${file.name} cannot be used: ${error.message ?? error}`);
  }
}

function stopCamera() {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
}

async function runCamera() {
  if (!(await loaded)) return;
  try {
    if (!navigator.mediaDevices) throw new Error('it needs http://localhost or https');
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    await video.play();
    while (video.srcObject) {
      await detect(video, video.videoWidth, video.videoHeight);
      await new Promise(requestAnimationFrame);
    }
  } catch (error) {
    say(`The camera cannot be used: ${error.message ?? error}`);
    stopCamera();
  }
}

let latest; // the file to detect in again when the lowest score changes
const use = (file) => { latest = file ?? latest; if (latest) detectFile(latest); };
// Else choosing the same file again would do nothing.
element('file').onclick = (event) => { event.target.value = ''; };
element('file').onchange = (event) => use(event.target.files[0]);
element('score').onchange = () => { if (!video.srcObject) use(); };
element('camera').onclick = () => (video.srcObject ? stopCamera() : runCamera());
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  use(event.dataTransfer.files[0]);
};
