// Keeps what the page loads, so that it works without a network. What it answers carries the headers that let
// WebAssembly use several threads. Whatever else is served at this address it leaves alone.

const { scope } = registration;
const PAGE = /^(index\.html)?$/, PARTS = /^((page|png|matting)\.js|matting\.json)$/;
const FIXED = /^((matting\.onnx|check\.bin)\?|onnxruntime-web-)/; // names with a version: what is kept is good for ever

async function answer(request, name) {
  const cache = await caches.open(scope);
  const kept = await cache.match(request);
  if (kept && FIXED.test(name)) return kept;
  try {
    const response = await fetch(request, { cache: 'no-cache' });
    if (!response.status) return response; // to another address, which the browser asks for next
    if (response.ok && PAGE.test(name) && !(await response.clone().text()).includes('"page.js"')) {
      await Promise.all([registration.unregister(), caches.delete(scope)]); // another site is here now
      return response;
    }
    const { ok, body, status, statusText, headers } = response;
    const isolated = new Headers(headers);
    isolated.set('Cross-Origin-Opener-Policy', 'same-origin');
    isolated.set('Cross-Origin-Embedder-Policy', 'require-corp');
    const fresh = new Response(body, { status, statusText, headers: isolated });
    if (ok) {
      await cache.delete(request, { ignoreSearch: true });
      await cache.put(request, fresh.clone()).catch(() => {}); // no room: the next visit loads it again
    }
    return fresh;
  } catch (error) {
    if (kept) return kept;
    throw error;
  }
}

addEventListener('install', () => skipWaiting());
addEventListener('fetch', (event) => {
  const { method, url } = event.request, [address] = url.split('#'), name = address.slice(scope.length);
  const isOwn = address.startsWith(scope) && [PAGE, PARTS, FIXED].some((names) => names.test(name));
  if (method === 'GET' && isOwn) event.respondWith(answer(event.request, name));
});
