// What a decoder that writes tokens may write, when its text is a loop, and when nobody speaks: as in the runtime.

const TOKENS_PER_SECOND = 12;
const FEWEST_TOKENS = 16;
const REPEATS = 4; // of a phrase of two tokens or more, one after the other; of a single token twice as many
const LONGEST_PHRASE = 40;
const NO_SPEECH = 0.6;
const UNSURE = -1.0;
const QUIETEST = -0.6; // in log-mel
const NO_SPEECH_TOKENS = ["<|nospeech|>", "<|nocaptions|>"];

/** Return the rules of a vocabulary: `never` and `notFirst` (V,) are 1 where a token is forbidden. */
export function rulesOf(facts, tokens) {
  const never = new Uint8Array(tokens.length).fill(1, facts.end + 1);
  facts.suppressed.forEach((token) => { never[token] = 1; });
  const notFirst = never.slice();
  facts.not_first.forEach((token) => { notFirst[token] = 1; });
  const noSpeech = tokens.findIndex((token) => NO_SPEECH_TOKENS.includes(token));
  return { never, notFirst, noSpeech, end: facts.end, mostTokens: facts.most_tokens };
}

/** Return rules that forbid these tokens as well. */
export function without(rules, tokens) {
  const [never, notFirst] = [rules.never.slice(), rules.notFirst.slice()];
  tokens.forEach((token) => { never[token] = notFirst[token] = 1; });
  return { ...rules, never, notFirst };
}

/** Return the token that follows, and its log-probability among those that may follow. */
export function bestAllowed(logits, forbidden) {
  let best = -1;
  for (let i = 0; i < logits.length; i++) {
    if (!forbidden[i] && (best < 0 || logits[i] > logits[best])) best = i;
  }
  let sum = 0;
  for (let i = 0; i < logits.length; i++) if (!forbidden[i]) sum += Math.exp(logits[i] - logits[best]);
  return { token: best, logp: -Math.log(sum) };
}

/** Return the probability of a token among all; 0 for a token that there is not. */
export function probability(logits, token) {
  if (token < 0) return 0;
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  return Math.exp(logits[token] - most) / logits.reduce((sum, x) => sum + Math.exp(x - most), 0);
}

/** Return the most tokens that a text of so many seconds may have. */
export function longestText(mostTokens, seconds) {
  return Math.min(mostTokens, FEWEST_TOKENS + roundHalfEven(TOKENS_PER_SECOND * seconds));
}

/** Return the phrase that repeats at the end of tokens; null where there is none. */
export function loopingPhrase(tokens) {
  for (let size = 1; size <= Math.min(LONGEST_PHRASE, Math.floor(tokens.length / REPEATS)); size++) {
    const length = size * repeatsOf(size);
    const tail = tokens.slice(-length);
    if (tokens.length >= length && tail.every((token, i) => token === tail[i % size])) return tail.slice(0, size);
  }
  return null;
}

/** Return the tokens up to the end of the first of the phrases that repeat at their end. */
export function withoutLoop(tokens, phrase) {
  return tokens.slice(0, tokens.length - phrase.length * (repeatsOf(phrase.length) - 1));
}

export const isGood = (written) => !written.looped && written.meanLogp > UNSURE;
export const isSilence = (written) => written.noSpeech > NO_SPEECH && written.meanLogp < UNSURE;
export const isSilent = (mel) => mel.reduce((a, b) => Math.max(a, b), -Infinity) < QUIETEST;

const repeatsOf = (size) => (size > 1 ? REPEATS : 2 * REPEATS);

/** Round as Python does: halves to the even number. */
function roundHalfEven(value) {
  const down = Math.floor(value);
  return value - down === 0.5 ? down + (down % 2) : Math.round(value);
}
