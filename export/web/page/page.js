// What one sees: two pictures or a camera in, what the worker makes of them out.

import { png } from './png.js';

const one = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`[name=${name}]:checked`).value;
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const still = { src: null, bgr: null }; // pictures that were chosen, as ImageBitmap
let backdrop, stream, plate, facing = 'user';
let shown = {}; // picture and cut-out on the stage, {data, width, height} each

function say(text, isError = false) {
  one('message').textContent = text;
  one('message').classList.toggle('error', isError);
}

// Ends what a person began with one line, whatever goes wrong.
const guarded = (action) => async (...words) => {
  try {
    await action(...words);
  } catch (error) {
    say(error.message, true);
  }
};

function pixels(image, longest = Infinity) {
  const sides = [image.videoWidth ?? image.width, image.videoHeight ?? image.height];
  const scale = Math.min(1, longest / Math.max(...sides));
  const [width, height] = sides.map((side) => Math.round(side * scale));
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  context.imageSmoothingQuality = 'high';
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

async function read(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: 'from-image' });
  } catch {
    throw Error(`${file.name}: not a picture that this browser can read`);
  }
}

let worker, turn = Promise.resolve();
function ask(pair) {
  turn = turn.catch(() => {}).then(() => new Promise((resolve, reject) => {
    worker ??= new Worker('matting.js', { type: 'module' });
    worker.onmessage = ({ data }) => (data.error ? reject(Error(data.error)) : resolve(data));
    worker.onerror = () => {
      worker = null;
      reject(Error('matting.js is missing: copy the whole folder that export_web.py wrote'));
    };
    worker.postMessage(pair);
  }));
  return turn;
}

function draw() {
  const { src, com } = shown;
  if (!src) return;
  const canvas = one('result'), context = canvas.getContext('2d');
  const view = com ? chosen('view') : 'src';
  [canvas.width, canvas.height] = [src.width, src.height];
  if (view === 'src') context.putImageData(src, 0, 0);
  if (view === 'pha') {
    const grey = Uint8ClampedArray.from(com.data, (_, i) => (i % 4 < 3 ? com.data[i | 3] : 255));
    context.putImageData(new ImageData(grey, com.width), 0, 0);
  }
  if (view === 'com') {
    context.putImageData(new ImageData(com.data, com.width), 0, 0);
    context.globalCompositeOperation = 'destination-over';
    if (chosen('behind') === 'colour') {
      context.fillStyle = one('colour').value;
      context.fillRect(0, 0, canvas.width, canvas.height);
    } else if (chosen('behind') === 'picture' && backdrop) {
      const scale = Math.max(canvas.width / backdrop.width, canvas.height / backdrop.height);
      const [width, height] = [backdrop.width * scale, backdrop.height * scale];
      context.drawImage(backdrop, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
    }
  }
  one('stage').hidden = false;
  one('controls').hidden = !com;
}

const matteStills = guarded(async () => {
  const { src, bgr } = still, longest = Number(one('longest').value) || Infinity;
  if (!src || !bgr) return say(`Now the ${src ? 'plate: the same scene without the subject' : 'picture with the subject'}`);
  if (src.width !== bgr.width || src.height !== bgr.height) {
    throw Error(`The picture is ${src.width} × ${src.height}, the plate ${bgr.width} × ${bgr.height}: both must be of one size`);
  }
  say('Computing');
  const begun = performance.now(), pair = { src: pixels(src, longest), bgr: pixels(bgr, longest) };
  shown = { src: pair.src, com: await ask(pair) };
  draw();
  say(`${pair.src.width} × ${pair.src.height} in ${((performance.now() - begun) / 1000).toFixed(1)} s`);
});

async function choose(name, file) {
  still[name] = await read(file);
  const small = pixels(still[name], 400), canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [small.width, small.height];
  canvas.getContext('2d').putImageData(small, 0, 0);
  const label = one(name).parentElement;
  label.querySelector('canvas')?.remove();
  label.prepend(canvas);
  await matteStills();
}

for (const name of ['src', 'bgr']) {
  const input = one(name), label = input.parentElement;
  const take = guarded(async (files) => files[0] && choose(name, files[0]));
  input.addEventListener('change', () => take(input.files));
  label.addEventListener('drop', (event) => take(event.dataTransfer.files));
  label.addEventListener('dragover', () => label.classList.add('over'));
  for (const end of ['dragleave', 'drop']) label.addEventListener(end, () => label.classList.remove('over'));
}
// A file that is dropped elsewhere must not take the page's place.
for (const type of ['dragover', 'drop']) addEventListener(type, (event) => event.preventDefault());

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = plate = null;
  one('camera').textContent = 'Use the camera';
  one('plate').hidden = one('turn').hidden = true;
  one('files').hidden = false;
}

async function watch() {
  stop();
  if (!navigator.mediaDevices) throw Error('The camera needs https, or http://localhost');
  one('camera').disabled = true; // asked twice, it would stay on once
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: facing, width: { ideal: 1280 } } });
    one('video').srcObject = stream;
    await one('video').play();
  } catch (error) {
    stop();
    const denied = error.name === 'NotAllowedError';
    throw Error(denied ? 'The camera was not allowed: allow it beside the address' : `No camera can be used (${error.message})`);
  } finally {
    one('camera').disabled = false;
  }
  one('camera').textContent = 'Stop';
  one('plate').hidden = one('turn').hidden = one('stage').hidden = false;
  one('files').hidden = true;
  say('Fix the camera, then take the plate: the scene without you');
  await live(stream);
}

async function live(own) {
  for (let begun = performance.now(); stream === own; begun = performance.now()) {
    const src = pixels(one('video'), Number(one('longest').value) || 640);
    if (plate && plate.width !== src.width) {
      plate = null;
      say('The picture has another size now: take the plate again');
    }
    let com;
    try {
      com = plate && (await ask({ src, bgr: plate }));
    } catch (error) {
      plate = null;
      say(error.message, true);
    }
    if (stream !== own) return;
    shown = { src, com };
    draw();
    if (com) say(`${src.width} × ${src.height}, ${(1000 / (performance.now() - begun)).toFixed(1)} pictures a second`);
    await new Promise(requestAnimationFrame);
  }
}

// Exposure, colours and focus as they are, or as the camera likes, where it can be told.
async function hold(mode) {
  const [track] = stream.getVideoTracks(), can = track.getCapabilities?.() ?? {};
  const modes = ['exposureMode', 'whiteBalanceMode', 'focusMode'].filter((name) => can[name]?.includes(mode));
  await track.applyConstraints({ advanced: modes.map((name) => ({ [name]: mode })) }).catch(() => {});
}

async function takePlate() {
  const own = stream;
  plate = null;
  await hold('continuous');
  for (let seconds = 3; seconds; seconds--) {
    say(`Step out of the picture: ${seconds}`);
    await pause(1000);
    if (stream !== own) return;
  }
  await hold('manual');
  await pause(300);
  if (stream === own) plate = pixels(one('video'), Number(one('longest').value) || 640);
}

async function save() {
  const view = chosen('view'), isCutOut = view === 'com' && chosen('behind') === 'nothing';
  const blob = isCutOut ? await png(shown.com) : await new Promise((resolve) => one('result').toBlob(resolve));
  const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(blob), download: `${view}.png` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const on = (id, type, action) => one(id).addEventListener(type, guarded(action));
on('camera', 'click', () => (stream ? stop() : watch()));
on('turn', 'click', () => { facing = facing === 'user' ? 'environment' : 'user'; return watch(); });
on('plate', 'click', () => {
  one('plate').disabled = true;
  return takePlate().finally(() => { one('plate').disabled = false; });
});
on('save', 'click', save);
on('longest', 'change', () => (stream || (!still.src && !still.bgr) ? null : matteStills()));
on('controls', 'change', draw);
on('colour', 'input', () => { document.querySelector('[value=colour]').checked = true; draw(); });
function showBackdrop() {
  document.querySelector('[value=picture]').checked = true;
  draw();
}
// The first click brings a photo that is there back, the next one chooses another.
on('backdrop', 'click', (event) => {
  if (!backdrop || chosen('behind') === 'picture') return;
  event.preventDefault();
  showBackdrop();
});
on('backdrop', 'change', async () => {
  const [file] = one('backdrop').files;
  if (!file) return; // none was chosen
  backdrop = await read(file);
  showBackdrop();
});

// Only what a service worker hands out is kept for later, and may use threads: so once it is there, begin again.
async function keep() {
  const workers = navigator.serviceWorker; // none without https
  if (!workers || workers.controller || sessionStorage.begun) return;
  await workers.register('sw.js').then(() => workers.ready).then(() => {
    sessionStorage.begun = true;
    location.reload();
    return pause(60_000);
  }, () => {});
}

await keep();
say('Loading the model, which takes a while the first time');
await guarded(async () => {
  const { backend, worst } = await ask();
  one('backend').textContent = backend;
  one('backend').title = `alpha differs from the toolkit's by ${worst.toExponential(0)} at most`;
  document.body.dataset.worst = worst;
  say('Drop or choose a picture and its plate, or use the camera');
})();
