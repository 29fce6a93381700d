// The last hour: what was pending, and deliveries per second, as one SVG of two panels that share their time.

import { compact, many, minute, number, rate } from "./words.js";

const HOUR_S = 3_600;
const BUCKET_S = 15;
const TABLE_S = 300;
const SHORT_S = 5;
const LEFT = 44;
const RIGHT = 10;
// The least end of a scale: half an operation is none.
const PANELS = {
  pending: { title: "Pending", top: 20, height: 104, least: 2 },
  delivered: { title: "Delivered / s", top: 158, height: 64, least: 1 },
};
const AXIS = 238;
const UPRIGHT = { y1: PANELS.pending.top, y2: AXIS - 16 };
const NARROW = 480;
const NOTHING = "Nothing was recorded yet.";

function svg(name, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(node, attributes);
  node.textContent = text;
  return node;
}

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
}

/** A scale's end: the next number whose half is a round one, too. */
export function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 6, 8, 10].map((step) => step * power).find((end) => end >= value);
}

/** For each stretch of time, what was pending at most and the deliveries. A sample holds until the next one. */
export function buckets(samples, from, until, length) {
  const found = [];
  let at = 0;
  let last = null;
  for (let start = from; start < until; start += length) {
    const end = Math.min(start + length, until);
    while (at < samples.length && samples[at][0] <= start) last = samples[at++];
    let highest = last ? last[1] : -1;
    const before = last ?? samples[at];
    while (at < samples.length && samples[at][0] <= end) {
      last = samples[at++];
      highest = Math.max(highest, last[1]);
    }
    // Before the first sample nothing is known: that isn't 0.
    if (!last) continue;
    const delivered = Math.max(0, last[2] - before[2]);
    // A stretch that has only begun says little about a second: the one before it goes on.
    const rate = end - start < SHORT_S && found.length ? found.at(-1).rate : delivered / (end - start);
    found.push({ start, end, pending: highest, delivered, rate });
  }
  return found;
}

export class Plot {
  #samples = [];
  #ahead = 0; // seconds that the server's clock is ahead of this one's

  constructor(svgNode, describe, table, readout) {
    Object.assign(this, { svg: svgNode, describe, table, readout });
    new ResizeObserver(() => this.draw()).observe(svgNode.parentElement);
    svgNode.addEventListener("pointermove", (event) => this.#point(event));
    svgNode.addEventListener("pointerleave", () => this.#unpoint());
  }

  #now() {
    return Date.now() / 1000 + this.#ahead;
  }

  load(history) {
    this.#ahead = Date.parse(history.now) / 1000 - Date.now() / 1000;
    // What was heard meanwhile is newer than what was asked for.
    const last = history.samples.at(-1)?.[0] ?? 0;
    this.#samples = [...history.samples, ...this.#samples.filter(([time]) => time > last)];
    this.draw();
  }

  /** Add what a live record says. */
  add(pending, delivered, dead) {
    const now = this.#now();
    this.#samples.push([now, pending, delivered, dead]);
    // Keep the last sample before the hour: it holds into it.
    while (this.#samples.length > 1 && this.#samples[1][0] < now - HOUR_S) this.#samples.shift();
  }

  draw() {
    const width = Math.round(this.svg.parentElement.clientWidth);
    if (!width) return;
    const until = this.#now();
    this.from = until - HOUR_S;
    this.width = width;
    const start = Math.floor(this.from / BUCKET_S) * BUCKET_S;
    this.points = buckets(this.#samples, start, until, BUCKET_S).filter((point) => point.end > this.from);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${AXIS + 20}`);
    this.cursor = svg("line", { class: "sync-plot-cursor", ...UPRIGHT, visibility: "hidden" });
    const words = this.svg.querySelectorAll("title, desc");
    const panels = [this.#panel("pending", (point) => point.pending), this.#panel("delivered", (point) => point.rate)];
    this.svg.replaceChildren(...words, ...this.#timeAxis(), ...panels.flat(), this.cursor);
    this.#tell(until);
  }

  #x(time) {
    const share = Math.min(1, Math.max(0, (time - this.from) / HOUR_S));
    return LEFT + share * (this.width - LEFT - RIGHT);
  }

  #timeAxis() {
    const step = this.width < NARROW ? 1_200 : 600;
    const zone = new Date().getTimezoneOffset() * 60;
    const first = Math.ceil((this.from - zone) / step) * step + zone;
    const nodes = [];
    for (let time = first; time < this.from + HOUR_S; time += step) {
      const x = this.#x(time).toFixed(1);
      nodes.push(svg("line", { class: "sync-plot-grid", x1: x, x2: x, ...UPRIGHT }));
      if (x < LEFT + 12 || x > this.width - 20) continue;
      const place = { x, y: AXIS + 6, "text-anchor": "middle" };
      nodes.push(svg("text", { class: "sync-plot-tick", ...place }, minute(time * 1000)));
    }
    return nodes;
  }

  #panel(name, value) {
    const { title, top, height, least } = PANELS[name];
    const end = nice(Math.max(least, ...this.points.map(value)));
    const y = (amount) => (top + height - (amount / end) * height).toFixed(1);
    const ticks = [0, end / 2, end].flatMap((amount) => this.#tick(amount, y(amount)));
    const head = svg("text", { class: "sync-plot-name", x: LEFT, y: top - 7 }, title);
    return [...ticks, head, ...this.#line(name, (point) => y(value(point)), y(0))];
  }

  #tick(amount, y) {
    const look = amount ? "sync-plot-grid" : "sync-plot-zero";
    return [
      svg("line", { class: look, x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }),
      svg("text", { class: "sync-plot-tick", x: LEFT - 6, y: Number(y) + 4, "text-anchor": "end" }, compact(amount)),
    ];
  }

  #line(name, y, ground) {
    const { top, height } = PANELS[name];
    const middle = { x: LEFT + 12, y: top + height / 2 };
    if (!this.points.length) return [svg("text", { class: "sync-plot-tick", ...middle }, NOTHING)];
    const at = (time) => this.#x(time).toFixed(1);
    const steps = this.points.map((point) => `${at(point.start)},${y(point)} ${at(point.end)},${y(point)}`).join(" ");
    const [left, right] = [at(this.points[0].start), at(this.points.at(-1).end)];
    const area = `${left},${ground} ${steps} ${right},${ground}`;
    return [
      svg("polygon", { class: `sync-plot-area sync-plot-${name}`, points: area }),
      svg("polyline", { class: `sync-plot-line sync-plot-${name}`, points: steps }),
    ];
  }

  #point(event) {
    const time = this.from + ((event.offsetX - LEFT) / (this.width - LEFT - RIGHT)) * HOUR_S;
    const point = this.points?.find(({ start, end }) => start <= time && time < end);
    if (!point) return this.#unpoint();
    const x = this.#x(time).toFixed(1);
    set(this.cursor, { x1: x, x2: x, visibility: "visible" });
    const words = `${number(point.pending)} pending, ${rate(point.rate)} delivered/s`;
    this.readout.textContent = `${minute(point.start * 1000)}: ${words}`;
  }

  #unpoint() {
    this.cursor?.setAttribute("visibility", "hidden");
    this.readout.textContent = "";
  }

  /** The same in words: a sentence for who can't see the lines, and a table for who wants the numbers. */
  #tell(until) {
    const first = Math.floor((until - HOUR_S) / TABLE_S) * TABLE_S;
    const rows = buckets(this.#samples, first, until, TABLE_S);
    const text = rows.length ? summary(rows) : NOTHING;
    if (this.describe.textContent !== text) this.describe.textContent = text;
    this.table.replaceChildren(...rows.reverse().map(tableRow));
  }
}

function summary(rows) {
  const most = rows.reduce((high, row) => (row.pending > high.pending ? row : high));
  const delivered = rows.reduce((sum, row) => sum + row.delivered, 0);
  const peak = `${many(most.pending, "pending operation")}, about ${minute(most.start * 1000)}`;
  return `At most ${peak}; ${number(delivered)} delivered.`;
}

function tableRow({ start, end, pending, rate: perSecond }) {
  const row = document.createElement("tr");
  const cells = [`${minute(start * 1000)}\u2013${minute(end * 1000)}`, number(pending), rate(perSecond)];
  cells.forEach((text, at) => {
    const cell = document.createElement(at ? "td" : "th");
    if (!at) cell.scope = "row";
    cell.textContent = text;
    row.append(cell);
  });
  return row;
}
