// The dead letters: why each gave up, and replay or drop of some or all of them.

import { act, confirmed } from "./api.js";
import { Rows, cell, make, setCell, setText } from "./rows.js";
import { clock, duration, many, number, sentence, size } from "./words.js";

const PAGE = 25;
const MOST = 200;
const byId = (id) => document.getElementById(id);

export class Dead {
  #api;
  #acts;
  #rows;
  #limit = PAGE;
  #total = 0;
  #letters = [];
  #chosen = new Set();

  constructor(api, acts, refresh) {
    this.#api = api;
    this.#acts = acts;
    this.refresh = refresh;
    this.#rows = new Rows(byId("dead-rows"), byId("dead-title"), (letter) => this.#create(letter), fill);
    byId("dead-more").querySelector("button").addEventListener("click", () => {
      this.#limit = Math.min(MOST, this.#limit * 2);
      refresh();
    });
    if (acts) this.#equip();
  }

  #equip() {
    byId("dead-all").addEventListener("change", () => this.#mark());
    byId("dead-replay").addEventListener("click", (event) => act(event.currentTarget, () => this.#replay()));
    byId("dead-drop").addEventListener("click", (event) => act(event.currentTarget, () => this.#drop()));
  }

  /** How many there are, by the record. */
  count(total) {
    this.#total = total ?? 0;
    setText(byId("dead-count"), number(total));
    this.#show();
  }

  async load() {
    const { letters, next } = await this.#api.get(`/dead?limit=${this.#limit}`);
    this.#letters = letters;
    const there = new Set(letters.map((letter) => letter.id));
    this.#chosen = new Set([...this.#chosen].filter((id) => there.has(id)));
    this.#rows.show(letters, (letter) => letter.number);
    byId("dead-more").hidden = next === null;
    byId("dead-more").querySelector("button").hidden = this.#limit >= MOST;
    this.#show();
  }

  tick() {
    this.#rows.tick();
  }

  #show() {
    const shown = this.#letters.length;
    setText(byId("dead-empty"), "None.");
    byId("dead-empty").hidden = shown > 0;
    byId("dead").hidden = shown === 0;
    setText(byId("dead-more").querySelector("span"), `The first ${number(shown)} of ${number(this.#total)}.`);
    if (this.#acts) this.#mark();
  }

  #create(letter) {
    const died = cell("died", "Died", "sync-died");
    const id = cell("id", "Operation", "sync-id");
    id.append(make("code"));
    died.append(make("span"), make("span", { class: "sync-note" }));
    const row = make(
      "tr",
      { role: "row" },
      make("th", { role: "rowheader", scope: "row", "data-cell": "lane" }, make("bdi")),
      cell("reason", "Why it gave up", "sync-why"),
      cell("retries", "Retries", "sync-right"),
      died,
      cell("size", "Size", "sync-right"),
      id,
    );
    if (this.#acts) row.prepend(this.#box(letter));
    return row;
  }

  #box({ id, lane }) {
    const box = make("input", {
      type: "checkbox",
      class: "form-check-input",
      "data-act": "choose",
      "aria-label": `Select operation ${id} of lane ${lane}`,
    });
    box.addEventListener("change", () => {
      if (box.checked) this.#chosen.add(id);
      else this.#chosen.delete(id);
      this.#mark();
    });
    return make("td", { role: "cell", class: "sync-box" }, box);
  }

  /** Make the boxes and the toolbar agree with what is chosen. */
  #mark() {
    const all = byId("dead-all").checked && this.#total > 0;
    byId("dead-all").checked = all;
    byId("dead-toolbar").hidden = this.#total === 0;
    for (const row of byId("dead-rows").children) {
      const box = row.querySelector("input");
      box.checked = all || this.#chosen.has(row.item.id);
      box.disabled = all;
    }
    const count = all ? this.#total : this.#chosen.size;
    setText(byId("dead-all-label"), `All ${number(this.#total)}`);
    setText(byId("dead-selected"), count ? `${number(count)} selected` : "None selected");
    for (const id of ["dead-replay", "dead-drop"]) byId(id).setAttribute("aria-disabled", String(count === 0));
  }

  /** What the request names, and how many that are. */
  #choice() {
    if (byId("dead-all").checked) return { body: { all: true }, count: this.#total };
    const ids = [...this.#chosen];
    if (!ids.length) throw new Error("Select dead letters first.");
    return { body: { ids }, count: ids.length };
  }

  async #replay() {
    const choice = this.#choice();
    const title = `Replay all ${many(choice.count, "dead letter")}?`;
    const text =
      "Each goes back into its lane and is sent again, in the original order. What was never accepted stays here.";
    if (choice.body.all && !(await confirmed(title, text, "Replay"))) return "";
    const { count } = await this.#api.post("/dead/replay", { ...choice.body, to: byId("dead-to").value });
    return this.#done(count, "put back into the queue", "None was put back: they were never accepted, or are gone.");
  }

  async #drop() {
    const choice = this.#choice();
    const text = `${choice.count === 1 ? "It is" : "They are"} deleted for good, and can't be replayed any more.`;
    if (!(await confirmed(`Drop ${many(choice.count, "dead letter")}?`, text, "Drop"))) return "";
    const { count } = await this.#api.post("/dead/drop", choice.body);
    return this.#done(count, "dropped", "None of them is there any more.");
  }

  #done(count, what, nothing) {
    this.#chosen.clear();
    byId("dead-all").checked = false;
    this.refresh();
    return count ? `${many(count, "dead letter")} ${what}.` : nothing;
  }
}

function fill(row, letter) {
  const died = new Date(letter.died_at);
  const now = new Date();
  setText(row.querySelector("bdi"), letter.lane);
  setText(row.querySelector("code"), letter.id);
  setText(row.querySelector(".sync-died span"), clock(died, now));
  setText(row.querySelector(".sync-note"), `${duration((now - died) / 1000)} ago`);
  setCell(row, "reason", sentence(letter.reason_text ?? letter.reason) + (letter.halts ? "; halts its lane" : ""));
  setCell(row, "retries", number(letter.retries));
  setCell(row, "size", size(letter.size));
}
