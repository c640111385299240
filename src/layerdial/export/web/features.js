// Samples to log-mel, as layerdial's runtime computes it: frames here, the two matrix products in ONNX Runtime.
// Shapes: S samples, T frames, F mel bins.

const SHIFT = 160;
const WINDOW = 400;
const WHISPER_FRAMES = 3000; // 30 s
const LEAST = Math.fround(1e-10);

/** Return the function from samples to features that `kind` names: {data (T * F), frames: T}. */
export function featuresOf(kind, products) {
  const found = { "log-mel": kaldiMel, "whisper-mel": whisperMel }[kind];
  if (!found) throw new Error(`This page cannot compute features of the kind ${kind}.`);
  return (samples) => found(samples, products);
}

/** Kaldi's: windows centred, the signal mirrored at its ends. Shorter sound than a frame is padded to one. */
async function kaldiMel(samples, products) {
  if (samples.length < SHIFT) samples = padded(samples, SHIFT);
  const { length } = samples;
  const frames = Math.floor((length + SHIFT / 2) / SHIFT);
  const cut = framed(frames, SHIFT / 2 - WINDOW / 2, (place) => samples[mirrored(place, length)]);
  return { data: await products(cut, frames, "log_mel"), frames };
}

/** Whisper's: the signal mirrored at its start and followed by silence; logarithms within 8 of the loudest. */
async function whisperMel(samples, products) {
  const { length } = samples;
  const frames = whisperFrames(length);
  const at = (place) => (Math.abs(place) < length ? samples[Math.abs(place)] : 0);
  const data = await products(framed(frames, -WINDOW / 2, at), frames, "energies");
  let loudest = -Infinity;
  for (let i = 0; i < data.length; i++) {
    data[i] = Math.log10(Math.max(data[i], LEAST));
    loudest = Math.max(loudest, data[i]);
  }
  for (let i = 0; i < data.length; i++) data[i] = (Math.max(data[i], loudest - 8) + 4) / 4;
  return { data, frames };
}

/** Return how many frames hold any of so many samples; 30 s have 3000. */
function whisperFrames(length) {
  const touched = Math.ceil((length + WINDOW / 2) / SHIFT);
  return length <= WHISPER_FRAMES * SHIFT ? Math.min(touched, WHISPER_FRAMES) : touched;
}

/** Return the windows (T, 400), the first from sample `start` on; `at` gives a sample at any place. */
function framed(frames, start, at) {
  const cut = new Float32Array(frames * WINDOW);
  for (let t = 0; t < frames; t++) {
    for (let i = 0; i < WINDOW; i++) cut[t * WINDOW + i] = at(start + t * SHIFT + i);
  }
  return cut;
}

/** Return the place within a signal that is mirrored at its ends, each end twice. */
function mirrored(place, length) {
  const period = 2 * length;
  const within = ((place % period) + period) % period;
  return within < length ? within : period - 1 - within;
}

/** Return samples followed by silence. */
export function padded(samples, length) {
  const longer = new Float32Array(length);
  longer.set(samples);
  return longer;
}
