// The microphone over the Realtime protocol: the server finds the pauses, and sends the text of what was said before each.

import { openSocket, Refusal, quoted } from "./client.js";
import { openMicrophone, RATE } from "./microphone.js";

const PART = RATE / 10; // samples of a message
const TRANSCRIPTION = "conversation.item.input_audio_transcription.";

/** Begin to listen. `heard(event)` gets {delta, now}, {done: {layerdial, seconds}} or {problem}; `closed()` is called at its
 *  end. `now`, of a streaming model alone, has the whole text of the turn as it stands, its depth and its delay.
 *  `wish()` gives depth and deadline. Returns {change(), stop()}: `change` applies a wish to what ends from then on, and
 *  after `stop` what was said last is still answered. */
export async function listen(model, wish, key, heard, closed) {
  const socket = await opened(openSocket(model, key));
  const send = (type, fields) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify({ type, ...fields }));
  const turns = { open: 0, asked: 0, stopped: false, counted: false }; // asked: settings without an answer
  const update = (session) => {
    turns.asked += 1;
    send("session.update", { session });
  };
  const change = (more = {}) => update({ ...more, layerdial: wish() });
  socket.onmessage = ({ data }) => take(JSON.parse(data), turns, heard, () => socket.close());
  change({ audio: { input: { format: { type: "audio/pcm", rate: RATE } } } }); // before any sound
  const silence = once(await openMicrophone(inParts((audio) => send("input_audio_buffer.append", { audio }))).catch((problem) => {
    socket.close();
    throw problem;
  }));
  const end = () => {
    if (!turns.counted) heard({ problem: "The server ended the session; record again." });
    silence().then(closed);
  };
  if (socket.readyState === WebSocket.OPEN) socket.onclose = end;
  else end();
  const stop = async () => {
    await silence();
    send("input_audio_buffer.commit");
    turns.stopped = true;
    update({}); // its answer follows all that the commit brings
  };
  return { change, stop };
}

function once(act) {
  let done = null;
  return () => (done ??= act());
}

function opened(socket) {
  return new Promise((done, failed) => {
    socket.onopen = () => done(socket);
    socket.onerror = () => failed(new Refusal(0, "The server does not take the microphone's sound; is it still running?"));
  });
}

function take(event, turns, heard, close) {
  if (event.type === "input_audio_buffer.committed") turns.open += 1;
  else if (event.type === `${TRANSCRIPTION}delta`) heard({ delta: event.delta, now: event.layerdial });
  else if (event.type === `${TRANSCRIPTION}completed`) {
    turns.open -= 1;
    heard({ done: { layerdial: event.layerdial, seconds: event.usage.seconds } });
  } else if (event.type === `${TRANSCRIPTION}failed`) {
    turns.open -= 1;
    heard({ problem: quoted(event.error.message) });
  } else if (event.type === "error") heard({ problem: quoted(event.error.message) });
  if (event.type === "session.updated" || event.type === "error") turns.asked -= 1;
  if (turns.stopped && turns.asked <= 0) turns.counted = true;
  if (turns.counted && turns.open === 0) close();
}

/** Return a function that takes samples and gives them on as base64 of 16-bit numbers, 100 ms at a time. */
function inParts(give) {
  const part = new Int16Array(PART);
  let filled = 0;
  return (samples) => {
    for (const sample of samples) {
      part[filled] = Math.round(32767 * Math.max(-1, Math.min(1, sample)));
      filled += 1;
      if (filled === PART) {
        give(btoa(String.fromCharCode(...new Uint8Array(part.buffer))));
        filled = 0;
      }
    }
  };
}
