// Keeps what the page loads, so that it works without a network. What it answers carries the headers that let
// WebAssembly use several threads.

const FIXED = /\?|\/onnxruntime-web-/; // addresses that name their version: what is kept is good for ever

async function answer(request) {
  const cache = await caches.open('matting');
  const kept = await cache.match(request);
  if (kept && FIXED.test(request.url)) return kept;
  try {
    const { ok, body, status, statusText, headers } = await fetch(request, { cache: 'no-cache' });
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
  const { method, url } = event.request;
  if (method === 'GET' && url.startsWith(location.origin)) event.respondWith(answer(event.request));
});
