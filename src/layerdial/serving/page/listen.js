// The microphone over the Realtime protocol: the server finds the pauses, and sends the text of what was said before each.

import { openSocket, Refusal, sentence } from "./client.js";
import { openMicrophone, RATE } from "./microphone.js";

const PART = RATE / 10; // samples of a message
const TRANSCRIPTION = "conversation.item.input_audio_transcription.";

/** Begin to listen. `heard(event)` gets {delta}, {done: {layerdial, seconds}} or {problem}; `closed()` is called at its end.
 *  Returns {change(wish), stop()}; `stop` gives what was said last time to be answered. */
export async function listen(model, wish, key, heard, closed) {
  const socket = await opened(openSocket(model, key));
  const send = (type, fields) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify({ type, ...fields }));
  const change = (layerdial) => send("session.update", { session: { layerdial } });
  const turns = { open: 0, ending: false };
  const close = await openMicrophone(inParts((audio) => send("input_audio_buffer.append", { audio }))).catch((problem) => {
    socket.close();
    throw problem;
  });
  socket.onmessage = ({ data }) => take(JSON.parse(data), turns, heard, () => socket.close());
  socket.onclose = () => close().then(closed);
  send("session.update", { session: { audio: { input: { format: { type: "audio/pcm", rate: RATE } } }, layerdial: wish } });
  const stop = async () => {
    await close();
    turns.ending = true;
    send("input_audio_buffer.commit");
    send("session.update", { event_id: "last", session: {} }); // its answer follows those to the commit
  };
  return { change, stop };
}

function opened(socket) {
  return new Promise((done, failed) => {
    socket.onopen = () => done(socket);
    socket.onerror = () => failed(new Refusal(0, "The server does not take the microphone's sound; is it still running?"));
  });
}

function take(event, turns, heard, close) {
  if (event.type === "input_audio_buffer.committed") turns.open += 1;
  else if (event.type === `${TRANSCRIPTION}delta`) heard({ delta: event.delta });
  else if (event.type === `${TRANSCRIPTION}completed`) {
    turns.open -= 1;
    heard({ done: { layerdial: event.layerdial, seconds: event.usage.seconds } });
  } else if (event.type === `${TRANSCRIPTION}failed`) {
    turns.open -= 1;
    heard({ problem: sentence(event.error.message) });
  } else if (event.type === "error") heard({ problem: sentence(event.error.message) });
  else if (event.type === "session.updated" && turns.ending) turns.counted = true;
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
