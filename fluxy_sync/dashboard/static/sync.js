// The page /sync: one event stream tells that something changed, and the lists are read again.

import { Api, SIGNED_OUT, act } from "./api.js";
import { Dead } from "./dead.js";
import { Lanes } from "./lanes.js";
import { Plot } from "./plot.js";
import { setText } from "./rows.js";
import { showSummary } from "./summary.js";
import { clock, isKnown, many } from "./words.js";

const LISTS_MS = 1_000; // how often the lists are read at most
const AGAIN_MS = 5_000; // after they couldn't be
const TICK_MS = 1_000;

const byId = (id) => document.getElementById(id);
const page = byId("sync");
const live = byId("live"); // the indicator in the header reads the stream
const pauseAll = byId("pause-all"); // absent in read-only mode
const api = new Api(page.dataset.api);
const plot = new Plot(byId("plot"), byId("plot-words"), byId("plot-table"), byId("plot-readout"));
const lanes = new Lanes(api, pauseAll !== null, () => refresh());
const dead = new Dead(api, pauseAll !== null, () => refresh());

let record = null;
let heardAt = 0;
let goodAt = null;
let wasFresh = false;
let problem = "";
let reading = null;
let wanted = false;

/** Hear of a record, or that the stream was lost or found. */
function changed(next) {
  const isFresh = live.connected && !next.stale;
  if (isFresh && !wasFresh) loadHistory();
  wasFresh = isFresh;
  if (next !== record) take(next);
  show();
}

function take(next) {
  record = next;
  heardAt = performance.now();
  if (next.stale) return;
  goodAt = new Date();
  plot.add(next.pending, next.delivered_total, next.dead);
  refresh();
}

function show() {
  const elapsed = record.stale ? 0 : (performance.now() - heardAt) / 1000;
  showSummary(record, elapsed);
  dead.count(record.dead);
  page.toggleAttribute("data-stale", Boolean(record.stale));
  showProblem();
  if (pauseAll) showSwitch();
}

function showProblem() {
  const text = record.stale && !problem ? staleness() : problem;
  setText(byId("alert"), text);
  byId("alert").hidden = !text;
}

function staleness() {
  if (live.refusal === 401) return SIGNED_OUT;
  const cause = live.connected ? "The store can't be read." : "The dashboard can't be reached.";
  return goodAt
    ? `${cause} What you see was last known at ${clock(goodAt, new Date())}; it will go on by itself.`
    : `${cause} Nothing is known yet.`;
}

function showSwitch() {
  pauseAll.hidden = !isKnown(record.pending);
  setText(pauseAll, record.gate === "paused" ? "Resume everything" : "Pause everything");
}

async function switchAll() {
  const paused = record.gate === "paused";
  const { changed: did, in_flight: flying } = await api.post(paused ? "/resume" : "/pause", {});
  if (paused) return did ? "Everything goes on." : "It wasn't paused any more.";
  return flying ? `Paused; ${many(flying, "request")} in flight still land.` : "Paused: nothing is sent.";
}

/** Read the lists again, at most once in a while, and once more for what changed meanwhile. */
function refresh() {
  wanted = true;
  reading ??= readLists().finally(() => {
    reading = null;
    if (wanted && !record?.stale) refresh();
  });
}

async function readLists() {
  wanted = false;
  const wait = await Promise.all([lanes.load(), dead.load()]).then(() => fine(), (error) => failed(error));
  await new Promise((resolve) => setTimeout(resolve, wait));
}

function fine() {
  problem = "";
  return LISTS_MS;
}

/** Of a dashboard or a store that is away the stream tells; who is signed out isn't asked again and again. */
function failed(error) {
  problem = [0, 503].includes(error.status) ? "" : error.message;
  wanted ||= error.status !== 401;
  return AGAIN_MS;
}

function loadHistory() {
  api.get("/history").then((history) => plot.load(history), () => {});
}

/** Somebody looks again: the plot missed what happened meanwhile. */
function seen() {
  if (document.hidden) return;
  if (wasFresh) loadHistory();
  tick();
}

function tick() {
  if (document.hidden || !record) return;
  show();
  if (record.stale) return;
  lanes.tick();
  dead.tick();
  plot.draw();
}

live.addEventListener("fluxy-sync-change", (event) => changed(event.detail));
document.addEventListener("visibilitychange", seen);
pauseAll?.addEventListener("click", () => act(pauseAll, switchAll));
setInterval(tick, TICK_MS);
if (live.record) changed(live.record);
