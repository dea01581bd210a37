// ADDRESS PLAYWRIGHT CHROMIUM OUT.json SCREENSHOT IMAGES…: the page itself, in a browser.
import { writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [address, playwright, executablePath, out, screenshot, ...images] = process.argv.slice(2);
const { chromium } = (await import(pathToFileURL(`${playwright}/index.mjs`).href));
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const page = await browser.newPage({ viewport: { width: 640, height: 480 } });
const results = [];
await page.goto(address);
for (const image of images) {
  await page.setInputFiles('#file', image);
  await page.waitForFunction(() => window.detections !== undefined, null, { timeout: 60000 });
  results.push(await page.evaluate(() => window.detections.map(({ box, label, score }) => ({ box, label, score }))));
  await page.evaluate(() => { window.detections = undefined; });
}
await page.screenshot({ path: screenshot, type: 'jpeg', quality: 80 });
writeFileSync(out, JSON.stringify({
  results, isolated: await page.evaluate(() => self.crossOriginIsolated),
}));
await browser.close();
