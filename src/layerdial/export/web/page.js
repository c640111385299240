// The page: sound in, the text and what it cost out. A worker computes.

import { dial } from "./dial.js";
import { takeDrops } from "./drop.js";
import { openMicrophone, RATE } from "./microphone.js";
import { keepOffline } from "./offline.js";
import { joined, readSound } from "./sound.js";

const at = (id) => document.getElementById(id);
const LONGEST_RECORDING_S = 300;
const page = { worker: null, depth: null, samples: null, asked: 0, recording: null };

start().catch((problem) => fail(problem.message));

async function start() {
  const offline = await keepOffline();
  page.worker = new Worker("worker.js", { type: "module" });
  page.worker.onerror = () => fail("The model cannot be loaded; load the page again.");
  page.worker.onmessage = ({ data }) => {
    if (data.facts) ready(data.facts, offline);
    else if (data.broken) fail(data.broken);
    else if (data.id === page.asked) show(data);
  };
}

function ready(facts, offline) {
  const words = (depth) => `${depth} of ${facts.n_blocks} blocks`;
  const depths = facts.depths.map((row) => row.depth);
  page.depth = dial(at("depth"), at("depth-value"), depths, words, transcribe);
  page.words = words;
  at("depth").disabled = depths.length < 2;
  at("file").disabled = at("record").disabled = false;
  at("model").textContent = `Model: ${facts.name}. Licence of its weights: ${facts.licence}. Sound never leaves this device.`;
  say(offline ? "Ready. This page now works without a network." : "Ready.");
}

function transcribe() {
  if (!page.samples) return;
  fail("");
  say("Computing.");
  at("text").setAttribute("aria-busy", "true");
  page.asked += 1;
  page.worker.postMessage({ id: page.asked, samples: page.samples, depth: page.depth() });
}

function show({ id, text, error, depth, subset, ms, seconds }) {
  at("text").setAttribute("aria-busy", "false");
  if (error) return fail(error);
  at("text").textContent = text || "(no speech)";
  at("blocks").textContent = page.words(depth);
  at("blocks").title = `blocks ${[...subset].flatMap((run, i) => (run === "1" ? [i] : [])).join(", ")}, counted from 0`;
  at("delay").textContent = `${Math.round(ms)} ms`;
  at("length").textContent = `${seconds.toFixed(1)} s`;
  at("factor").textContent = (ms / 1000 / seconds).toFixed(3);
  say("Ready.");
  at("text").dataset.answer = id;
}

function take(samples) {
  if (!samples.length) return fail("There is no sound in it; record again, or choose another file.");
  page.samples = samples;
  transcribe();
}

async function takeFile(file) {
  if (!file || at("file").disabled) return;
  fail("");
  say(`Reading ${file.name}.`);
  await readSound(file).then(take, (problem) => fail(problem.message));
}

async function toggleRecording() {
  if (page.recording) return stopRecording();
  fail("");
  const parts = [];
  page.recording = { parts, close: async () => {} };
  try {
    let left = LONGEST_RECORDING_S * RATE;
    page.recording.close = await openMicrophone((samples) => {
      parts.push(samples);
      left -= samples.length;
      if (left < 0) stopRecording();
    });
    at("record").textContent = "Stop";
    at("record").setAttribute("aria-pressed", "true");
    say("Recording.");
  } catch (problem) {
    page.recording = null;
    fail(problem.message);
  }
}

async function stopRecording() {
  const { parts, close } = page.recording ?? {};
  if (!close) return;
  page.recording = null;
  at("record").textContent = "Record";
  at("record").setAttribute("aria-pressed", "false");
  await close();
  take(joined(parts));
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
takeDrops(at("drop"), takeFile);
