// Greedy CTC, and the text of word pieces.

const BLANK = 0;
const SPACE = "\u2581"; // SentencePiece's sign for the start of a word
const SPACES = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;

/** Return the best token of each frame, of log-probabilities (T, V). */
export function bestTokens(logProbs, frames, vocabulary) {
  return Array.from({ length: frames }, (_, t) => argmax(logProbs.subarray(t * vocabulary, (t + 1) * vocabulary)));
}

/** Return the labels of the best token of each frame: repeats merged, then blanks removed. */
export function greedyCtc(ids) {
  return ids.filter((id, i) => id !== BLANK && (i === 0 || id !== ids[i - 1]));
}

/** Return the text of pieces; those of `silent` tokens write nothing. */
export function textOfPieces(ids, tokens, silent) {
  const written = ids.map((id) => (silent.includes(id) ? "" : tokens[id])).join("");
  return withSingleSpaces(written.replaceAll(SPACE, " "));
}

/** Return the text with single spaces; spaces are those of Python's `split`. */
export function withSingleSpaces(text) {
  return text.split(SPACES).filter(Boolean).join(" ");
}

/** Return the index of the largest value, the first of equal ones. */
export function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}
