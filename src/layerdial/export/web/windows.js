// Sound of any length as overlapping windows (CTC), or as pieces cut where it is quiet (a decoder), as in the runtime.

import { RATE } from "./microphone.js";

const LONGEST = 30 * RATE;
const CONTEXT = 2 * RATE;
const CORE = LONGEST - 2 * CONTEXT;
const STEP = RATE / 100; // energies are of 10 ms
const WIDTH = 20; // and a quiet stretch has so many

/** Return windows {samples, before, kept} of at most 30 s: `before` samples of context, `kept` that count, context. */
export function windowsOf(samples) {
  const found = [];
  let start = 0;
  let before = 0;
  while (samples.length - start > LONGEST) {
    found.push({ samples: samples.subarray(start, start + before + CORE + CONTEXT), before, kept: CORE });
    start += before + CORE - CONTEXT;
    before = CONTEXT;
  }
  found.push({ samples: samples.subarray(start), before, kept: samples.length - start - before });
  return found;
}

/** Return pieces of at most 30 s, each cut at the quietest place of its last third. */
export function piecesOf(samples) {
  const found = [];
  while (samples.length > LONGEST) {
    const cut = quietest(samples, (LONGEST * 2) / 3, LONGEST);
    found.push(samples.subarray(0, cut));
    samples = samples.subarray(cut);
  }
  return [...found, samples];
}

/** Return the middle of the stretch of 200 ms between two samples that has the least energy. */
function quietest(samples, start, end) {
  const energies = [];
  for (let at = start; at + STEP <= end; at += STEP) {
    energies.push(samples.subarray(at, at + STEP).reduce((sum, x) => sum + x * x, 0));
  }
  let best = 0;
  let least = Infinity;
  for (let i = 0; i + WIDTH <= energies.length; i++) {
    const sum = energies.slice(i, i + WIDTH).reduce((a, b) => a + b, 0);
    if (sum < least) [best, least] = [i, sum];
  }
  return start + (best + WIDTH / 2) * STEP;
}
