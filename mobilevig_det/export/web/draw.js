// Draw an image with masks, boxes and class names on a canvas.

const COLORS = [
  [220, 20, 60], [0, 110, 220], [40, 160, 60], [235, 140, 0], [150, 60, 200],
  [0, 160, 170], [230, 80, 160], [120, 90, 40], [100, 110, 130], [170, 170, 0],
];
const WIDTH = 640; // smaller images are enlarged to this width

// picture: ImageData; its pixels are changed.
export function draw(canvas, picture, found, classes) {
  found = [...found].reverse(); // the highest score on top
  for (const { mask, label } of found) if (mask) tint(picture, mask, color(label));
  const original = new OffscreenCanvas(picture.width, picture.height);
  original.getContext('2d').putImageData(picture, 0, 0);
  const zoom = Math.max(WIDTH / picture.width, 1);
  canvas.width = Math.round(picture.width * zoom);
  canvas.height = Math.round(picture.height * zoom);
  const context = canvas.getContext('2d');
  context.drawImage(original, 0, 0, canvas.width, canvas.height);
  const letters = Math.max(canvas.width / 45, 14);
  context.lineWidth = letters / 7;
  context.font = `${letters}px sans-serif`;
  context.textBaseline = 'top';
  for (const { box, label } of found) {
    const [x1, y1, x2, y2] = box.map((at) => at * zoom);
    context.strokeStyle = `rgb(${color(label)})`;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  for (const { box, label, score } of found) {
    const [x1, y1] = box.map((at) => at * zoom);
    const text = `${classes[label]} ${score.toFixed(2)}`;
    context.fillStyle = `rgb(${color(label)})`;
    context.fillRect(x1, y1, context.measureText(text).width + 6, letters + 4);
    context.fillStyle = 'white';
    context.fillText(text, x1 + 3, y1 + 3);
  }
}

function color(label) {
  return COLORS[label % COLORS.length];
}

function tint(picture, mask, rgb) {
  for (let j = 0; j < mask.height; j++) {
    for (let i = 0; i < mask.width; i++) {
      if (!mask.data[j * mask.width + i]) continue;
      const at = ((mask.top + j) * picture.width + mask.left + i) * 4;
      for (let c = 0; c < 3; c++) picture.data[at + c] = (picture.data[at + c] + rgb[c]) / 2;
    }
  }
}
