// Requests to the dashboard, and what a person hears of them.

import { make, setText } from "./rows.js";

export const SIGNED_OUT = "You are signed out. Reload the page to sign in again.";
const TOAST_MS = { success: 5_000, danger: 10_000 };

/** An answer that isn't what was asked for; its message is for people. */
export class Refused extends Error {
  constructor(status, message) {
    super(status === 401 ? SIGNED_OUT : message);
    this.status = status;
  }
}

export class Api {
  #base;

  constructor(path) {
    this.#base = new URL(path, location.origin).href;
  }

  get(path) {
    return this.#send(path, {});
  }

  post(path, body) {
    const headers = { "Content-Type": "application/json", "X-XSRFToken": cookie("_xsrf") };
    return this.#send(path, { method: "POST", headers, body: JSON.stringify(body) });
  }

  async #send(path, options) {
    const answer = await fetch(this.#base + path, { cache: "no-store", redirect: "manual", ...options }).catch(() => {
      throw new Refused(0, "The dashboard can't be reached.");
    });
    // Where people sign in elsewhere (OAuth), who is signed out is sent there.
    if (answer.type === "opaqueredirect") throw new Refused(401, "");
    const body = await answer.json().catch(() => null);
    if (answer.ok && body !== null) return body;
    throw new Refused(answer.status, body?.error ?? `The dashboard answered ${answer.status}.`);
  }
}

function cookie(name) {
  const found = document.cookie.split("; ").find((part) => part.startsWith(`${name}=`));
  return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
}

/** Say something in Flower's own toasts. */
export function toast(message, kind = "success") {
  const close = make("button", {
    type: "button",
    class: "btn-close btn-close-white me-2 m-auto",
    "data-bs-dismiss": "toast",
    "aria-label": "Close",
  });
  const content = make("div", { class: "d-flex" }, make("div", { class: "toast-body" }, message), close);
  const look = `toast align-items-center text-bg-${kind} border-0`;
  const role = kind === "danger" ? "alert" : "status";
  const node = make("div", { class: look, role, "aria-atomic": "true" }, content);
  document.getElementById("toast-container").append(node);
  node.addEventListener("hidden.bs.toast", () => node.remove());
  globalThis.bootstrap.Toast.getOrCreateInstance(node, { delay: TOAST_MS[kind] }).show();
}

/** Do something, one at a time per button, and say how it went. Nothing is disabled: that would drop the focus. */
export async function act(button, work) {
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  try {
    const message = await work();
    if (message) toast(message);
  } catch (error) {
    toast(error.message, "danger");
  } finally {
    button.removeAttribute("aria-busy");
  }
}

/** Ask before what can't be undone. */
export function confirmed(title, text, yes) {
  const dialog = document.getElementById("confirm");
  setText(document.getElementById("confirm-title"), title);
  setText(document.getElementById("confirm-text"), text);
  setText(document.getElementById("confirm-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
