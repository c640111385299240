// A decoder that writes tokens, greedily, and what is tried where its text is a loop.

import { bestAllowed, isGood, longestText, loopingPhrase, probability, without, withoutLoop } from "./rules.js";

/** Return {tokens, meanLogp, noSpeech, looped} of sound of so many seconds, one other search included where it loops.
 *  `begin()` returns a function from tokens to logits, an array for each of them. */
export async function decode(begin, prompt, seconds, rules) {
  const found = await greedy(begin(), prompt, seconds, rules);
  if (!found.looped) return found;
  const other = await greedy(begin(), prompt, seconds, without(rules, found.phrase));
  return isGood(other) ? other : found;
}

async function greedy(next, prompt, seconds, rules) {
  const most = longestText(rules.mostTokens, seconds);
  let logits = await next(prompt);
  const found = { tokens: [], meanLogp: 0, looped: false, phrase: [], noSpeech: probability(logits[0], rules.noSpeech) };
  for (let sum = 0, steps = 1; ; steps++) {
    const { token, logp } = bestAllowed(logits.at(-1), found.tokens.length ? rules.never : rules.notFirst);
    sum += logp;
    found.meanLogp = sum / steps;
    if (token === rules.end) return found;
    found.tokens.push(token);
    const phrase = loopingPhrase(found.tokens);
    if (phrase) return { ...found, tokens: withoutLoop(found.tokens, phrase), phrase, looped: true };
    if (found.tokens.length >= most) return { ...found, looped: true };
    logits = await next([token]);
  }
}
