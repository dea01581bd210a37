// ADDRESS PLAYWRIGHT CHROMIUM SCREENSHOT FILES…: the page itself, in a browser. Writes
// as JSON to stdout what it says and finds for each file, and asks other machines for.
import { pathToFileURL } from 'node:url';

const [address, playwright, executablePath, screenshot, ...files] = process.argv.slice(2);
const { chromium } = await import(pathToFileURL(`${playwright}/index.mjs`).href);
const browser = await chromium.launch({
  executablePath,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
  ],
});
const page = await browser.newPage({ viewport: { width: 800, height: 860 } });
const asked = [];
const errors = [];
page.on('request', (request) => asked.push(request.url()));
page.on('console', (message) => { if (message.type() === 'error') errors.push(message.text()); });
page.on('pageerror', (error) => errors.push(error.message));
const says = () => page.textContent('#status');
const changes = async (before) => {
  await page.waitForFunction(
    (text) => document.getElementById('status').textContent !== text, before, { timeout: 60000 },
  );
  return says();
};

await page.goto(address);
// The model may be there before this asks for the first time.
await page.waitForFunction(
  () => !document.getElementById('status').textContent.includes('is being loaded'),
  null, { timeout: 60000 },
);
let said = await says();
const results = [{ said }];
for (const file of files) {
  await page.evaluate(() => {
    window.detections = null;
    document.getElementById('status').textContent = '';
  });
  await page.setInputFiles('#file', file);
  said = await changes('');
  const found = await page.evaluate(() => window.detections?.map(({ mask, ...one }) => ({
    ...one, area: mask?.data.reduce((sum, pixel) => sum + pixel, 0),
  })));
  results.push({ said, found });
  if (found) await page.screenshot({ path: screenshot, type: 'jpeg', quality: 80 });
}
await page.evaluate(() => { document.getElementById('status').textContent = ''; });
await page.click('#camera');
const camera = await changes('');
await page.click('#camera');
const refused = await page.evaluate(() => fetch('https://example.org/').then(() => false, () => true));
const bare = await browser.newPage();
await bare.addInitScript(() => { delete globalThis.WebAssembly; });
await bare.goto(address);
await bare.waitForTimeout(300);
const without = await bare.textContent('#status');
const isolated = await page.evaluate(() => self.crossOriginIsolated);
process.stdout.write(JSON.stringify({ results, camera, without, refused, isolated, asked, errors }));
await browser.close();
