// The gate and the counts: what the queue does now, and why.

import { make, setText } from "./rows.js";
import { GATES, UNKNOWN, UNKNOWN_GATE, heldFor, isKnown, sentence } from "./words.js";
import { clock, duration, many, number, rate, size } from "./words.js";

const COUNTS = ["pending", "syncing", "retrying", "held", "dead"];
const RATE_S = 10; // what delivered_per_s looks back on
const ASKED_TO_WAIT_S = 0.3; // what is shorter is the jitter of an opening gate
const ICONS = {
  open: "M2.5 8.5l3.75 3.75 7.25-8",
  offline: "M4.5 12.5a3 3 0 0 1-.4-5.97 4.1 4.1 0 0 1 7.85-.7 3.4 3.4 0 0 1-.2 6.67zM2 14.5l12-13",
  paused: "M5.25 3v10M10.75 3v10",
  unauthorized: "M3.5 7.25h9v6.5h-9zM5.25 7V5a2.75 2.75 0 0 1 5.5 0v2",
  unknown: "M5.5 5.75a2.5 2.5 0 1 1 3.7 2.2c-.8.45-1.2.9-1.2 1.8M8 13h.01",
};
const byId = (id) => document.getElementById(id);

/** Write down the record; `elapsed` is how long ago it was heard (s), 0 while it can't be trusted. */
export function showSummary(record, elapsed) {
  showGate(record, elapsed);
  showCounts(record, elapsed);
}

function showGate(record, elapsed) {
  const known = GATES[record.gate];
  const gate = known ?? UNKNOWN_GATE;
  byId("gate").dataset.gate = known ? record.gate : "unknown";
  byId("gate-icon").setAttribute("d", ICONS[record.gate] ?? ICONS.unknown);
  setText(byId("gate-name"), gate.name);
  setText(byId("gate-why"), why(record, gate, elapsed));
  setText(byId("gate-since"), since(record.since));
  setText(byId("namespace"), record.namespace ?? "");
}

function why(record, gate, elapsed) {
  const wait = (record.opens_in_s ?? 0) - elapsed;
  if (record.gate === "open" && wait >= ASKED_TO_WAIT_S) {
    return `The upstream asked everybody to wait: ${duration(Math.max(1, wait))} more.`;
  }
  const reason = record.gate === "open" ? "" : (record.reason_text ?? record.reason);
  return [reason && `${sentence(reason)}.`, gate.meaning].filter(Boolean).join(" ");
}

function since(when) {
  if (!when) return "";
  const time = new Date(when);
  const ago = Math.max(0, (Date.now() - time) / 1000);
  return `Since ${clock(time, new Date())}, ${duration(ago)} ago`;
}

function showCounts(record, elapsed) {
  const oldest = isKnown(record.oldest_age_s) ? record.oldest_age_s + elapsed : null;
  // A delivery would have been told: after a while without a record there was none.
  const perSecond = elapsed > RATE_S && isKnown(record.delivered_per_s) ? 0 : record.delivered_per_s;
  for (const name of COUNTS) put(name, number(record[name]), record[name] > 0);
  put("oldest", isKnown(record.pending) && oldest === null ? "none" : duration(oldest), oldest !== null);
  put("rate", rate(perSecond), perSecond > 0);
  note("pending", record.pending ? `on ${many(record.lanes, "lane")}, ${size(record.bytes)}` : "");
  note("syncing", record.syncing ? "being sent now" : "");
  note("retrying", record.retrying ? "to be tried again" : "");
  note("held", record.held ? heldFor(record.held_for) : "");
  note("dead", record.dead ? "gave up" : "");
  note("rate", isKnown(record.delivered_total) ? `${number(record.delivered_total)} in all` : "");
}

function put(name, text, matters) {
  const node = document.querySelector(`[data-value="${name}"]`);
  if (node.textContent !== text) node.replaceChildren(...text.split(/( [a-z]+ ?)/).map(part));
  node.parentElement.toggleAttribute("data-quiet", !matters && text !== UNKNOWN);
}

/** Units are set smaller than their numbers. */
function part(text) {
  return make("span", text.startsWith(" ") ? { class: "sync-unit" } : {}, text);
}

function note(name, text) {
  setText(document.querySelector(`[data-note="${name}"]`), text);
}
