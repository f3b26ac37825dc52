// The network, in a worker: takes a picture and its plate, {data: RGBA, width, height}, and answers with the cut-out,
// RGBA of 8 bits: the subject's colours and alpha, not multiplied.

const MEAN_LIMIT = 1e-4; // of alpha's difference from the toolkit; rounding makes a hundredth of it
let ort, session, settings;

async function fetched(name) {
  const answer = await fetch(name).catch(() => null);
  if (!answer?.ok) throw Error(`${name.split('?')[0]} is missing: copy the whole folder that export_web.py wrote`);
  return answer;
}

// Returns a runtime's name once it gives the toolkit's results, and by how much alpha differs.
async function start() {
  settings = await (await fetched('matting.json')).json();
  const model = new Uint8Array(await (await fetched(`matting.onnx?${settings.sha256}`)).arrayBuffer());
  const gpu = await navigator.gpu?.requestAdapter().catch(() => null);
  for (const backend of gpu ? ['webgpu', 'wasm'] : ['wasm']) {
    try {
      const bundle = `./${settings.runtime}/ort.${backend}.bundle.min.mjs`;
      ort = await import(bundle).catch((error) => fetched(bundle).then(() => { throw error; }));
      ort.env.logLevel = 'error';
      session = await ort.InferenceSession.create(model, { executionProviders: [backend] });
      const { worst, mean } = await check();
      if (!(mean <= MEAN_LIMIT)) throw Error(`alpha differs from the toolkit's by ${mean} in the mean`);
      const { numThreads: threads } = ort.env.wasm;
      return { backend: backend === 'webgpu' ? 'WebGPU' : `WebAssembly, ${threads} thread${threads > 1 ? 's' : ''}`, worst };
    } catch (error) {
      if (backend === 'wasm') throw error;
      console.warn(`WebGPU is not used: ${error.message}`);
    }
  }
}

// Compares alpha of a drawn picture with the toolkit's own.
async function check() {
  const { width, height } = settings.check, size = 4 * width * height;
  const bytes = await (await fetched(`check.bin?${settings.sha256}`)).arrayBuffer();
  const [src, bgr] = [0, size].map((from) => ({ data: new Uint8Array(bytes, from, size), width, height }));
  const expected = new Float32Array(bytes, 2 * size), { pha } = await run(src, bgr);
  let worst = 0, sum = 0;
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) {
    const difference = Math.abs(pha.data[y * pha.dims[3] + x] - expected[i]);
    worst = Math.max(worst, difference);
    sum += difference;
  }
  return { worst, mean: sum / expected.length };
}

const run = (src, bgr) => session.run({ src: tensor(src), bgr: tensor(bgr) });

// Planes of 0..1, with the border repeated up to sides that the network takes.
function tensor({ data, width, height }) {
  const [across, down] = [width, height].map((side) => Math.ceil(side / settings.sides_multiple_of) * settings.sides_multiple_of);
  const plane = across * down, planes = new Float32Array(3 * plane);
  for (let y = 0, to = 0; y < down; y++) for (let x = 0; x < across; x++, to++) {
    const from = 4 * (Math.min(y, height - 1) * width + Math.min(x, width - 1));
    for (let c = 0; c < 3; c++) planes[c * plane + to] = data[from + c] / 255;
  }
  return new ort.Tensor('float32', planes, [1, 3, down, across]);
}

async function matte(src, bgr) {
  const { pha, fgr } = await run(src, bgr);
  const { width, height } = src, across = pha.dims[3], plane = pha.dims[2] * across;
  const data = new Uint8ClampedArray(4 * width * height);
  for (let y = 0, to = 0; y < height; y++) for (let x = 0; x < width; x++, to += 4) {
    const from = y * across + x;
    for (let c = 0; c < 3; c++) data[to + c] = 255 * fgr.data[c * plane + from];
    data[to + 3] = 255 * pha.data[from];
  }
  return { data, width, height };
}

const started = start();
addEventListener('message', async ({ data: pair }) => {
  try {
    const answer = await started.then((about) => (pair ? matte(pair.src, pair.bgr) : about));
    postMessage(answer, answer.data ? [answer.data.buffer] : []);
  } catch (error) {
    const text = error?.message ?? String(error), memory = /alloc|memory|array length|^\d+$/i.test(text);
    const size = pair && `${pair.src.width} × ${pair.src.height}`;
    postMessage({ error: pair && memory ? `${size} pixels are too many for this browser's memory: choose a smaller size` : text });
  }
});
