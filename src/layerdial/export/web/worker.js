// Computes, so that the page stays awake: one request after the other, each {id, samples, depth}.
// Of requests that wait only the latest is computed.

import { loadModel, secondsOf } from "./model.js";

const loading = loadModel();
let last = loading.then(({ facts }) => postMessage({ facts })).catch((problem) => postMessage({ broken: problem.message }));

let latest = 0;

onmessage = ({ data }) => {
  latest = data.id;
  last = last.then(() => answer(data));
};

async function answer({ id, samples, depth }) {
  if (id !== latest) return;
  try {
    const { facts, transcribe } = await loading;
    const { subset } = facts.depths.find((row) => row.depth === depth);
    const start = performance.now();
    const text = await transcribe(samples, subset);
    postMessage({ id, text, depth, subset, ms: performance.now() - start, seconds: secondsOf(samples) });
  } catch (problem) {
    postMessage({ id, error: problem.message });
  }
}
