// A table's rows, kept while their data changes: focus, selection and scrolling stay where they are.

import { UNKNOWN } from "./words.js";

/** Make an element. Text is only ever set as text: the names of lanes come from users. */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A cell that has its heading with it: on a narrow screen a row is a card. */
export function cell(name, label, look = "") {
  return make("td", { role: "cell", "data-cell": name, "data-label": label, class: look });
}

/** Set a cell's text, and mark one that says nothing: a narrow screen leaves it out. */
export function setCell(row, name, text) {
  const node = row.querySelector(`[data-cell="${name}"]`);
  setText(node, text);
  node.toggleAttribute("data-empty", text === "" || text === UNKNOWN);
}

export class Rows {
  #rows = new Map();

  /**
   * @param {HTMLElement} body
   * @param {HTMLElement} title gets the focus of a row that is gone, where no other is left
   * @param {(item: object) => HTMLElement} create
   * @param {(row: HTMLElement, item: object) => void} fill called on each change
   */
  constructor(body, title, create, fill) {
    Object.assign(this, { body, title, create, fill });
  }

  show(items, keyOf) {
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    const index = focused ? [...this.body.children].indexOf(focused.closest("tr")) : -1;
    const keys = new Set(items.map(keyOf));
    for (const [key, row] of this.#rows) {
      if (!keys.has(key)) {
        row.remove();
        this.#rows.delete(key);
      }
    }
    items.forEach((item, at) => this.#put(item, keyOf(item), at));
    if (focused) this.#restore(focused, index);
  }

  #put(item, key, at) {
    if (!this.#rows.has(key)) this.#rows.set(key, this.create(item));
    const row = this.#rows.get(key);
    row.item = item;
    this.fill(row, item);
    if (this.body.children[at] !== row) this.body.insertBefore(row, this.body.children[at] ?? null);
  }

  /** A row that was moved has lost the focus; of one that is gone, the same control of the next row gets it. */
  #restore(focused, index) {
    if (document.activeElement === focused) return;
    const row = this.body.children[Math.min(index, this.body.children.length - 1)];
    const heir = focused.isConnected ? focused : row?.querySelector(`[data-act="${focused.dataset.act}"]`);
    (heir ?? this.title).focus({ preventScroll: true });
  }

  /** Fill the rows again with what they have: time went on. */
  tick() {
    for (const row of this.#rows.values()) this.fill(row, row.item);
  }
}
