// Files of sound as samples at 16 kHz, one channel, read by the browser's own decoders.

import { RATE } from "./microphone.js";

/** Return the samples of a file. Throws an error in words for what the browser cannot read. */
export async function readSound(file) {
  const bytes = await file.arrayBuffer();
  const context = new OfflineAudioContext(1, 1, RATE);
  const sound = await context.decodeAudioData(bytes).catch(() => {
    throw new Error(`${file.name} is no sound that this browser can read; WAV, MP3 and FLAC mostly are.`);
  });
  return mixed(Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i)));
}

/** Return the mean of channels. */
function mixed(channels) {
  if (channels.length === 1) return channels[0].slice();
  return channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
}

/** Return arrays of samples, one after the other, as one. */
export function joined(parts) {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
