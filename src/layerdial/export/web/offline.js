// Keeps the whole folder in the browser's cache, so that the page works without a network after the first visit.

const TRIES_MS = 600_000;

/** Return whether everything is kept; the model is best loaded after that, for it is then fetched once. */
export async function keepOffline() {
  if (!("serviceWorker" in navigator)) return false;
  try {
    const registration = await navigator.serviceWorker.register("keep.js");
    return await Promise.race([ready(), refused(registration), late()]);
  } catch {
    return false;
  }
}

const ready = () => navigator.serviceWorker.ready.then(() => true);
const late = () => new Promise((done) => { setTimeout(done, TRIES_MS, false); });

function refused({ installing }) {
  return new Promise((done) => {
    installing?.addEventListener("statechange", () => {
      if (installing.state === "redundant") done(false);
    });
  });
}
