// Numbers, times and states in words.

export const UNKNOWN = "\u2014";

const NUMBER = new Intl.NumberFormat("en");
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const UNITS = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];
const SIZES = ["B", "kB", "MB", "GB", "TB"];

export const GATES = {
  open: { name: "Open", meaning: "Operations are sent as they come." },
  offline: { name: "Offline", meaning: "What is queued waits here, safe on disk." },
  paused: { name: "Paused", meaning: "Nothing is sent until someone resumes." },
  unauthorized: {
    name: "Unauthorized",
    meaning: "The upstream refuses the gateway's credentials. Nothing is lost: one operation is tried each 30 s.",
  },
};
export const UNKNOWN_GATE = { name: "Unknown", meaning: "Nothing could be read yet." };

export const isKnown = (value) => typeof value === "number" && Number.isFinite(value);
export const number = (value) => (isKnown(value) ? NUMBER.format(value) : UNKNOWN);
export const compact = (value) => COMPACT.format(value);
export const many = (count, one, more = `${one}s`) => `${number(count)} ${count === 1 ? one : more}`;

/** Deliveries per second: with a digit after the point where that says something. */
export function rate(value) {
  if (!isKnown(value)) return UNKNOWN;
  if (value > 0 && value < 0.05) return "<0.1";
  return NUMBER.format(value < 10 ? Math.round(value * 10) / 10 : Math.round(value));
}

/** A length of time in two neighbouring units: "3 d 4 h", "12 s". */
export function duration(seconds) {
  if (!isKnown(seconds)) return UNKNOWN;
  const left = Math.max(0, Math.round(seconds));
  const at = UNITS.findIndex(([, length]) => left >= length);
  if (at < 0) return "0 s";
  const [unit, length] = UNITS[at];
  const [smaller, part] = UNITS[at + 1] ?? ["", 1];
  const rest = smaller ? Math.floor((left % length) / part) : 0;
  return `${Math.floor(left / length)} ${unit}${rest ? ` ${rest} ${smaller}` : ""}`;
}

/** A time of day, with the date where that isn't today's. */
export function clock(time, now) {
  const day = DAY.format(time);
  return day === DAY.format(now) ? CLOCK.format(time) : `${day}, ${CLOCK.format(time)}`;
}

export const minute = (time) => CLOCK.format(time).slice(0, 5);

/** Bytes in the unit that keeps them short: "980 B", "1.2 kB". */
export function size(count) {
  if (!isKnown(count)) return UNKNOWN;
  let [left, at] = [count, 0];
  for (; left >= 999.5 && at < SIZES.length - 1; at++) left /= 1000;
  return `${at && left < 9.95 ? left.toFixed(1) : Math.round(left)} ${SIZES[at]}`;
}

/** Why lanes are held, with how many: "2 paused, 1 halted". Codes that name something are counted together. */
export function heldFor(counts) {
  const names = {
    key: "without their key",
    task: "without their task",
    credentials: "refused (401)",
    "worker-error": "where the worker failed",
  };
  const totals = new Map();
  for (const [code, count] of Object.entries(counts ?? {})) {
    const kind = code.split(":")[0];
    totals.set(kind, (totals.get(kind) ?? 0) + count);
  }
  const parts = [...totals].map(([kind, count]) => `${number(count)} ${names[kind] ?? kind}`);
  return parts.length ? `lanes: ${parts.join(", ")}` : "";
}

export const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");
