// Computes, so that the page stays awake: one request after the other, each {id, samples, depth}.

import { loadModel, secondsOf } from "./model.js";

const loading = loadModel();
let last = loading.then(({ facts }) => postMessage({ facts })).catch((problem) => postMessage({ broken: problem.message }));

onmessage = ({ data }) => {
  last = last.then(() => answer(data));
};

async function answer({ id, samples, depth }) {
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
