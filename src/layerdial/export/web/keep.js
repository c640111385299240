// The service worker: it fetches every file once, checks its SHA-256, and answers from what it kept.
// A newer version of the folder is taken when no page of the old one is open, so that they never mix.

importScripts("files.js"); // sets VERSION and FILES

const PREFIX = `layerdial ${self.registration.scope} `; // other folders of the host have caches of their own
const CACHE = PREFIX + VERSION;
const place = (path) => new URL(path, self.registration.scope).href;

self.addEventListener("install", (event) => event.waitUntil(keep()));
self.addEventListener("activate", (event) => event.waitUntil(removeOthers().then(() => self.clients.claim())));
self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});

async function keep() {
  const cache = await caches.open(CACHE);
  const requests = Object.entries(FILES).map(
    ([path, integrity]) => new Request(place(path), { integrity, cache: "no-cache" }),
  );
  await cache.addAll(requests);
}

/** Remove what was kept of other versions of this folder. */
async function removeOthers() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith(PREFIX) && name !== CACHE).map((name) => caches.delete(name)));
}

async function answer(request) {
  const url = new URL(request.url);
  const asked = url.href === place("./") ? place("index.html") : url.origin + url.pathname;
  const cache = await caches.open(CACHE);
  return (await cache.match(asked)) || fetch(request);
}
