// Requests to the server that this page came from.

const own = (path) => new URL(`../${path}`, import.meta.url);

/** An answer of the server that is no text; `status` is 0 where there was no answer. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Return the model: {name, nBlocks, depths, levels, measuredOn, streams}; `streams`: its text comes while one speaks. */
export async function readModel(key) {
  const { data } = await (await ask("v1/models", key)).json();
  const { n_blocks: nBlocks, depths, levels, measured_on: measuredOn, streaming: streams } = data[0].layerdial;
  return { name: data[0].id, nBlocks, depths, levels, measuredOn, streams };
}

/** Return the figures of this moment, by their names in /metrics without `layerdial_`. */
export async function readLoad(key) {
  const lines = (await (await ask("metrics", key)).text()).matchAll(/^layerdial_(\w+) (\S+)$/gmu);
  return Object.fromEntries([...lines].map(([, name, value]) => [name, Number(value)]));
}

/** Send a file; `more(delta)` gets the text as it comes. Returns what the server says at its end. */
export async function transcribe(file, fields, key, signal, more) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) if (value !== null) body.append(name, value);
  body.append("stream", "true");
  body.append("file", file);
  for await (const event of events(await ask("v1/audio/transcriptions", key, { method: "POST", body, signal }))) {
    if (event.type === "transcript.text.delta") more(event.delta);
    else if (event.type === "error") throw new Refusal(0, quoted(event.error.message));
    else return { layerdial: event.layerdial, seconds: event.usage.seconds };
  }
  throw new Refusal(0, "The server ended its answer too early; send the file again.");
}

/** Return a websocket of the Realtime protocol; browsers can send a key there only as a subprotocol. */
export function openSocket(model, key) {
  const address = own(`v1/realtime?${new URLSearchParams({ intent: "transcription", model })}`);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(address, key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"]);
}

/** Return a message of the server as a sentence; its first word may be the name of a file. */
export const quoted = (text) => `The server says: ${text}.`;

async function ask(path, key, options = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const found = await fetch(own(path), { ...options, headers }).catch((problem) => {
    if (problem.name === "AbortError") throw problem;
    throw new Refusal(0, "The server does not answer; is it running?");
  });
  if (found.ok) return found;
  const said = await found.json().then(({ error }) => error.message).catch(() => `status ${found.status}`);
  throw new Refusal(found.status, quoted(said));
}

/** Yield the events of a stream. */
async function* events(answer) {
  let left = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const whole = (left + part.value).split("\n\n");
    left = whole.pop();
    for (const event of whole) yield JSON.parse(event.replace(/^data: /u, ""));
  }
}
