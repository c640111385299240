// The page of a server: sound in, the text and what it cost out. The server computes.

import { readLoad, readModel, transcribe } from "./client.js";
import { dial } from "./dial.js";
import { takeDrops } from "./drop.js";
import { listen } from "./listen.js";
import { drawPicture, wordsOf } from "./picture.js";

const at = (id) => document.getElementById(id);
const DEADLINES_MS = [100, 200, 300, 500, 1000, 2000, 5000, 10000, null];
const LOAD_EVERY_MS = 1000;
const page = { key: "", model: null, depth: null, deadline: null, file: null, sending: null, session: null, changing: false, answers: 0, certain: 0 };

begin();

async function begin() {
  try {
    page.model = await readModel(page.key);
  } catch (problem) {
    at("key-form").hidden = problem.status !== 401;
    if (problem.status !== 401) return fail(problem.message);
    at("key").focus();
    return page.key ? fail(problem.message) : say("This server needs a key.");
  }
  at("key-form").hidden = true;
  ready(page.model);
  showLoad();
}

function ready({ name, nBlocks, depths }) {
  page.words = (depth) => (depth === null ? "auto: what the load allows" : `${depth} of ${nBlocks} blocks`);
  const inTime = (ms) => (ms === null ? "the server's own" : `${ms} ms`);
  page.depth = dial(at("depth"), at("depth-value"), [...depths, null], page.words, changed);
  page.deadline = dial(at("deadline"), at("deadline-value"), DEADLINES_MS, inTime, changed);
  for (const id of ["depth", "deadline", "file", "record"]) at(id).disabled = false;
  at("model").textContent = `Model: ${name}, depths ${depths.join(", ")}. Sound is sent to this server and nowhere else.`;
  showPicture(null);
  fail("");
  say("Ready.");
}

const wish = () => ({ depth: page.depth(), deadline_ms: page.deadline() });

function changed() {
  if (page.session) page.session.change();
  else if (page.file) send();
}

// ------------------------------------------------------------------------------------------------------- a file

function takeFile(file) {
  if (!file || at("file").disabled) return;
  page.file = file;
  send();
}

/** Send the file; what was sent before is given up, and the server then frees its place. */
async function send() {
  page.sending?.abort();
  const { signal } = page.sending = new AbortController();
  clear();
  say(`Sending ${page.file.name}.`);
  try {
    const fields = { model: page.model.name, ...wish() };
    show(await transcribe(page.file, fields, page.key, signal, (delta) => signal.aborted || write(delta)));
    mark();
    say("Ready.");
  } catch (problem) {
    if (!signal.aborted) fail(problem.message);
  }
}

// --------------------------------------------------------------------------------------------------- the microphone

async function toggleRecording() {
  if (page.changing) return;
  if (page.session) return stopRecording();
  page.changing = true;
  page.sending?.abort();
  page.file = null;
  clear();
  at("file").disabled = true;
  say("Opening the microphone.");
  try {
    page.session = await listen(page.model.name, wish, page.key, heard, ended);
    use({ recording: true });
    say(page.model.streams ? "Recording. Text comes as you speak." : "Recording. Text comes at each pause.");
  } catch (problem) {
    use({ recording: false });
    fail(problem.message);
  }
  page.changing = false;
}

function stopRecording() {
  page.changing = true;
  say("Waiting for the last text.");
  page.session.stop();
}

function heard({ delta, now, done, problem }) {
  if (delta) write(at("text").textContent && page.turned ? ` ${delta}` : delta);
  if (delta) page.turned = false;
  if (now) showNow(now, delta);
  if (done || problem) endTurn();
  if (done) show(done);
  if (problem) fail(problem);
}

/** Show what of the turn may still change, and the depth and the delay of this moment. */
function showNow({ text, depth, delay_ms: delay }, delta) {
  page.certain += delta.length;
  at("rest").textContent = text.slice(page.certain);
  at("rest").hidden = !at("rest").textContent;
  at("blocks").textContent = page.words(depth);
  at("delay").textContent = `${Math.round(delay)} ms`;
}

function endTurn() {
  page.turned = true;
  page.certain = 0;
  at("rest").textContent = "";
  at("rest").hidden = true;
}

function ended() {
  page.session = null;
  page.changing = false;
  use({ recording: false });
  mark();
  if (!at("error").textContent) say("Ready.");
}

function use({ recording }) {
  at("record").textContent = recording ? "Stop" : "Record";
  at("record").setAttribute("aria-pressed", String(recording));
  at("file").disabled = recording;
}

// ---------------------------------------------------------------------------------------------------- what is shown

function clear() {
  fail("");
  at("text").textContent = at("reason").textContent = "";
  endTurn();
  page.turned = false;
}

function write(delta) {
  at("text").append(delta);
}

/** Say so where there is no text at the end of all sound. */
function mark() {
  if (!at("text").textContent && !at("error").textContent) at("text").textContent = "(no speech)";
}

function show({ layerdial, seconds }) {
  at("blocks").textContent = page.words(layerdial.depth);
  at("delay").textContent = `${Math.round(layerdial.took_ms)} ms`;
  at("length").textContent = `${seconds.toFixed(1)} s`;
  at("factor").textContent = (layerdial.took_ms / 1000 / seconds).toFixed(3);
  const late = layerdial.late ? "missed" : "kept";
  at("reason").textContent = `Why this depth: ${layerdial.reason}. Deadline of ${Math.round(layerdial.deadline_ms)} ms: ${late}.`;
  showPicture(layerdial.depth);
  page.answers += 1;
  at("text").dataset.answer = page.answers;
}

function showPicture(depth) {
  const { levels, measuredOn } = page.model;
  at("picture-part").hidden = !levels.length;
  if (!levels.length) return;
  drawPicture(at("picture"), levels, depth);
  at("picture-words").textContent = wordsOf(levels, measuredOn, depth);
}

async function showLoad() {
  const found = document.hidden ? null : await readLoad(page.key).catch(() => null);
  at("load").textContent = found ? found.load.toFixed(2) : "-";
  at("queued").textContent = found ? `${found.queued}` : "-";
  setTimeout(showLoad, LOAD_EVERY_MS);
}

function say(text) {
  at("state").textContent = text;
}

function fail(text) {
  at("error").textContent = text;
  if (text) say("");
}

at("record").addEventListener("click", toggleRecording);
at("file").addEventListener("click", () => { at("file").value = ""; }); // or the same file again would be no change
at("file").addEventListener("change", () => takeFile(at("file").files[0]));
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  fail("");
  page.key = at("key").value.trim();
  begin();
});
takeDrops(at("drop"), takeFile);
