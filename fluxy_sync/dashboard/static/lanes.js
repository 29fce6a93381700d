// The lanes: what each head does, why it waits, and a switch to pause each.

import { act } from "./api.js";
import { Rows, cell, make, setCell, setText } from "./rows.js";
import { UNKNOWN, duration, many, number, sentence } from "./words.js";

const PAUSED = "paused";
const OWN_LANE = "~"; // starts the names of lanes that hold one operation without an order
const PAGE = 25;
const MOST = 200;
const byId = (id) => document.getElementById(id);

export class Lanes {
  #api;
  #acts;
  #rows;
  #limit = PAGE;
  #heardAt = 0;

  constructor(api, acts, refresh) {
    this.#api = api;
    this.#acts = acts;
    this.refresh = refresh;
    const fill = (row, lane) => this.#fill(row, lane);
    this.#rows = new Rows(byId("lanes-rows"), byId("lanes-title"), () => this.#create(), fill);
    byId("lanes-more").querySelector("button").addEventListener("click", () => {
      this.#limit = Math.min(MOST, this.#limit * 2);
      refresh();
    });
  }

  async load() {
    const { lanes, more } = await this.#api.get(`/lanes?limit=${this.#limit}`);
    this.#heardAt = performance.now();
    this.#rows.show(lanes, (lane) => lane.lane);
    const count = lanes.length + more;
    setText(byId("lanes-count"), number(count));
    setText(byId("lanes-empty"), "Nothing waits.");
    byId("lanes-empty").hidden = count > 0;
    byId("lanes").hidden = count === 0;
    byId("lanes-more").hidden = !more;
    byId("lanes-more").querySelector("button").hidden = this.#limit >= MOST;
    setText(byId("lanes-more").querySelector("span"), `${many(more, "more lane")}.`);
  }

  tick() {
    this.#rows.tick();
  }

  #create() {
    const name = make("th", { role: "rowheader", scope: "row", "data-cell": "lane" });
    name.append(make("bdi"), make("span", { class: "sync-note" }));
    const state = cell("state", "State");
    state.append(make("span", { class: "sync-badge" }));
    const row = make(
      "tr",
      { role: "row" },
      name,
      state,
      cell("pending", "Pending", "sync-right"),
      cell("age", "Oldest", "sync-right"),
      cell("retries", "Retries", "sync-right"),
      cell("next", "Next try", "sync-right"),
      cell("why", "Why", "sync-why"),
    );
    if (this.#acts) row.append(this.#switch(row));
    return row;
  }

  #switch(row) {
    const button = make("button", { type: "button", class: "btn btn-sm btn-outline-secondary", "data-act": "switch" });
    button.addEventListener("click", () => act(button, () => this.#toggle(row.item)));
    return make("td", { role: "cell", class: "sync-right sync-act" }, button);
  }

  async #toggle({ lane, held_for: heldFor }) {
    const was = heldFor.includes(PAUSED);
    const { in_flight: flying } = await this.#api.post(was ? "/resume" : "/pause", { lane });
    this.refresh();
    if (was) return `Lane ${lane} goes on.`;
    return flying ? `Lane ${lane} is paused; its request in flight still lands.` : `Lane ${lane} is paused.`;
  }

  #fill(row, lane) {
    const elapsed = (performance.now() - this.#heardAt) / 1000;
    const put = (name, text) => setCell(row, name, text);
    setText(row.querySelector("bdi"), lane.lane);
    setText(row.querySelector(".sync-note"), lane.lane.startsWith(OWN_LANE) ? "on its own, without an order" : "");
    const badge = row.querySelector(".sync-badge");
    setText(badge, lane.state);
    badge.dataset.state = lane.state;
    put("pending", number(lane.pending));
    put("age", lane.oldest_age_s === null ? UNKNOWN : duration(lane.oldest_age_s + elapsed));
    put("retries", lane.retries ? number(lane.retries) : UNKNOWN);
    put("next", next(lane, elapsed));
    put("why", why(lane));
    if (this.#acts) label(row.querySelector("button"), lane);
  }
}

function label(button, { lane, held_for: heldFor }) {
  const word = heldFor.includes(PAUSED) ? "Resume" : "Pause";
  setText(button, word);
  button.setAttribute("aria-label", `${word} lane ${lane}`);
}

function next({ state, next_try_in_s: inSeconds }, elapsed) {
  if (state === "syncing") return "now";
  if (state === "held" || inSeconds === null) return UNKNOWN;
  return inSeconds - elapsed >= 0.5 ? `in ${duration(inSeconds - elapsed)}` : "due";
}

function why(lane) {
  const held = lane.held_for_text ?? lane.held_for;
  const error = lane.last_error ? `last error: ${lane.last_error_text ?? lane.last_error}` : "";
  return sentence([...held, error].filter(Boolean).join("; "));
}
