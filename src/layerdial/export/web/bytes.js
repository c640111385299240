// Tokens of a byte-level BPE (GPT-2, Whisper) back to text: a character of a token is a byte.

import { withSingleSpaces } from "./ctc.js";

const ALPHABET = alphabet();

/** Return the text of tokens; those from `end` on are special and write nothing. */
export function textOfBytes(ids, tokens, end) {
  const letters = ids.filter((id) => id < end).flatMap((id) => [...tokens[id]]);
  return withSingleSpaces(new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(letters.flatMap(bytesOf))));
}

function bytesOf(letter) {
  return ALPHABET.has(letter) ? [ALPHABET.get(letter)] : [...new TextEncoder().encode(letter)];
}

/** Return the byte of each character: printable ones stand for themselves, the others for U+0100 and after. */
function alphabet() {
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const others = bytes.filter((byte) => !printable(byte));
  const own = bytes.filter(printable).map((byte) => [String.fromCharCode(byte), byte]);
  return new Map([...own, ...others.map((byte, i) => [String.fromCharCode(256 + i), byte])]);
}
