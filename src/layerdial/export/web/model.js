// A model in this folder, loaded: samples and a subset of its blocks in, text out.

import { bestTokens, greedyCtc, textOfPieces } from "./ctc.js";
import { textOfBytes } from "./bytes.js";
import { decode } from "./decoder.js";
import { featuresOf, padded } from "./features.js";
import { floats, gates, integers, loadGraph, readFloats, readJson, readText } from "./graphs.js";
import { RATE } from "./microphone.js";
import { isSilence, isSilent, rulesOf } from "./rules.js";
import { piecesOf, windowsOf } from "./windows.js";

/** Load the model. Returns {facts, features, transcribe}; `facts.depths` has the subset of each depth. */
export async function loadModel() {
  const facts = await readJson("web.json");
  const manifest = await readJson("model/manifest.json");
  const tokens = tokensIn(await readText("model/tokens.txt"));
  const features = featuresOf(manifest.features.kind, await loadProducts(facts.features));
  const load = (name) => loadGraph(`model/${name}`, facts.weights[name] && `model/${facts.weights[name]}`);
  const transcribe = manifest.decoder
    ? withDecoder(await load("encoder.onnx"), await load("decoder.onnx"), manifest.decoder, tokens, features)
    : withCtc(await load("model.onnx"), manifest, tokens, features, facts.samples_per_frame);
  return { facts, features, transcribe };
}

/** Return the tokens of a `tokens.txt`, one "token id" a line. */
function tokensIn(text) {
  return text.split("\n").filter(Boolean).map((line) => line.slice(0, line.lastIndexOf(" ")));
}

/** Return what computes `output` of windows (T, 400): their spectrum's squares, summed by mel filters. */
async function loadProducts({ spectrum, mel }) {
  const graph = await loadGraph("features/kaldi_fbank.onnx");
  const matrices = {
    spectrum: floats(await readFloats("features/spectrum.f32"), spectrum),
    mel: floats(await readFloats("features/mel.f32"), mel),
  };
  return async (windows, frames, output) => {
    const made = await graph.run({ frames: floats(windows, [frames, spectrum[0]]), ...matrices }, [output]);
    return made[output].data;
  };
}

/** Return the transcription by a CTC model: the best token of each frame, over overlapping windows. */
function withCtc(graph, manifest, tokens, features, samplesPerFrame) {
  return async (samples, subset) => {
    const ids = [];
    for (const window of windowsOf(samples)) {
      const { data, frames } = await features(window.samples);
      const x = floats(data, [1, frames, data.length / frames]);
      const { log_probs: logProbs } = await graph.run({ x, x_lens: integers([frames], [1]), gates: gates(subset) });
      const best = bestTokens(logProbs.data, logProbs.dims[1], logProbs.dims[2]);
      const counted = window.before + window.kept;
      const last = counted === window.samples.length ? best.length : Math.floor(counted / samplesPerFrame);
      ids.push(...best.slice(Math.floor(window.before / samplesPerFrame), last));
    }
    return textOfPieces(greedyCtc(ids), tokens, manifest.silent_tokens);
  };
}

/** Return the transcription by an encoder and a decoder: one piece after the other, cut where it is quiet. */
function withDecoder(encoder, decoder, facts, tokens, features) {
  const rules = rulesOf(facts, tokens);
  const written = async (samples, subset) => {
    const mel = await features(samples);
    if (isSilent(mel.data)) return "";
    const memory = await encode(encoder, mel, subset, facts);
    const seconds = mel.frames / 100;
    const found = await decode(() => steps(decoder, memory, facts), facts.prompt, seconds, rules);
    const whole = subset.replaceAll("0", "1");
    if (found.looped && subset !== whole) return written(samples, whole);
    return isSilence(found) ? "" : textOfBytes(found.tokens, tokens, facts.end);
  };
  return async (samples, subset) => {
    const texts = [];
    for (const piece of piecesOf(samples)) texts.push(await written(piece, subset));
    return texts.filter(Boolean).join(" ");
  };
}

const everyBlock = (facts) => gates("1".repeat(facts.n_blocks));
const caches = (facts, ...names) => names.flatMap((name) => Array.from({ length: facts.n_blocks }, (_, i) => `${name}_${i}`));

/** Return what the encoder makes of log-mel, by the names of the decoder's inputs. */
async function encode(encoder, { data, frames }, subset, facts) {
  const width = data.length / frames;
  if (facts.pads_input) {
    data = followedBySilence(data, facts.longest * width);
    frames = facts.longest;
  }
  const feed = {
    x: floats(data, [1, frames, width]),
    x_lens: integers([frames], [1]),
    gates: gates(subset),
    decoder_gates: everyBlock(facts),
  };
  return encoder.run(feed, ["frames", ...caches(facts, "keys", "values")]);
}

function followedBySilence(data, length) {
  const loudest = data.reduce((a, b) => Math.max(a, b), -Infinity);
  const longer = padded(data, length);
  return longer.fill(Math.max(loudest - 2, (-10 + 4) / 4), data.length);
}

/** Return a decoder without tokens yet: a function from tokens to logits, an array for each of them. */
function steps(decoder, memory, facts) {
  const past = caches(facts, "past_keys", "past_values");
  const present = caches(facts, "present_keys", "present_values");
  const nothing = floats(new Float32Array(0), [1, facts.n_heads, 0, facts.head_width]);
  let kept = Object.fromEntries(past.map((name) => [name, nothing]));
  return async (tokens) => {
    const feed = { ...memory, ...kept, tokens: integers(tokens, [1, tokens.length]), decoder_gates: everyBlock(facts) };
    const made = await decoder.run(feed, ["logits", ...present]);
    kept = Object.fromEntries(past.map((name, i) => [name, made[present[i]]]));
    const vocabulary = made.logits.dims[2];
    return tokens.map((_, i) => made.logits.data.subarray(i * vocabulary, (i + 1) * vocabulary));
  };
}

export const secondsOf = (samples) => samples.length / RATE;
