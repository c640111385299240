// WER against time, a point for each depth, drawn as SVG; styles come from classes, since the policy refuses others.

const BOX = { left: 56, right: 440, top: 16, bottom: 212 };

/** Draw the levels {depth, wer, ms}, that of `depth` as the current one. */
export function drawPicture(svg, levels, depth) {
  const [x, most] = [scale(levels.map(({ ms }) => ms), BOX.left, BOX.right), ticks(Math.max(...levels.map(({ wer }) => wer)))];
  const y = (wer) => BOX.bottom - (wer / most.at(-1)) * (BOX.bottom - BOX.top);
  const rows = most.flatMap((wer) => [
    made("line", { class: wer ? "grid" : "axis", x1: BOX.left, x2: BOX.right, y1: y(wer), y2: y(wer) }),
    made("text", { x: BOX.left - 8, y: y(wer) + 5, "text-anchor": "end" }, percent(wer)),
  ]);
  const columns = x.ticks.map((ms) => made("text", { x: x(ms), y: BOX.bottom + 20, "text-anchor": "middle" }, `${ms} ms`));
  const curve = made("polyline", { class: "curve", points: levels.map(({ ms, wer }) => `${x(ms)},${y(wer)}`).join(" ") });
  const points = levels.map((level) => pointOf(level, x(level.ms), y(level.wer), level.depth === depth));
  svg.replaceChildren(...rows, ...columns, curve, ...points);
}

/** Return what the picture shows, in words. */
export function wordsOf(levels, measuredOn, depth) {
  const each = levels.map(({ depth: one, wer, ms }) => `Depth ${one}: ${percent(wer)}, ${Math.round(ms)} ms.`).join(" ");
  const now = depth === null ? "" : ` The last text has depth ${depth}.`;
  return `Word error rate on ${measuredOn}, and the time for 10 s of sound, as measured on this server. ${each}${now}`;
}

function pointOf({ depth }, x, y, now) {
  const group = made("g", { class: now ? "now" : "" });
  const name = made("text", { class: "name", x: x + 14, y: y + 5 }, `${depth}`);
  group.append(made("circle", { class: "point", cx: x, cy: y, r: now ? 8 : 5 }), name);
  return group;
}

/** Return the function from a value to its place on an axis from 0, with `ticks`. */
function scale(values, low, high) {
  const marks = ticks(Math.max(...values));
  const place = (value) => low + (value / marks.at(-1)) * (high - low);
  return Object.assign(place, { ticks: marks });
}

/** Return three to six round numbers from 0 to one above the largest value. */
function ticks(largest) {
  const size = 10 ** Math.floor(Math.log10(largest || 1));
  const step = [0.2, 0.5, 1, 2].map((part) => part * size).find((one) => largest * 1.1 <= 5 * one) ?? 5 * size;
  const count = Math.floor((largest * 1.1) / step) + 1;
  return Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(6)));
}

const percent = (wer) => `${Number((100 * wer).toFixed(1))}\u00a0%`;

function made(name, attributes, text = "") {
  const found = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  found.textContent = text;
  return found;
}
