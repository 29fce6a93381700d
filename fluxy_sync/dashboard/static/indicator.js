/* <fluxy-sync-indicator src="/api/sync/events">: what waits to be synced, live, for any page.
 *
 *   src                 the event stream, or an application's own route that passes it on
 *   label-*             other words: pending ("{n} pending updates"), syncing ("Syncing {n} items..."), synced,
 *                       offline, paused, unauthorized, stale, connecting; {n} is the number of what waits
 *   .record             the last record (GET /api/sync), or null; `stale` is true where it can't be trusted
 *   .state              also as the attribute `state`: one of the names above
 *   .connected          whether the stream is open
 *   .refusal            the status of the answer that refused it last (401: nobody is signed in), or 0
 *   fluxy-sync-change   fired with the record as its detail; it bubbles
 *   ::part(...)         root, icon, text
 *   --fluxy-sync-*      color, background, padding, gap, radius, font, icon-size, and for each state the icon's colour:
 *                       --fluxy-sync-pending, --fluxy-sync-syncing, ...
 *
 * All indicators of one page with the same `src` share one stream. No dependency; nothing inline that a strict
 * Content-Security-Policy would refuse.
 */
(() => {
  "use strict";

  const STALE_MS = 20_000; // the server says something at least each 15 s
  const HIDDEN_MS = 60_000;
  const FIRST_RETRY_MS = 1_000;
  const LAST_RETRY_MS = 30_000;
  const OLDER_STANDS_MS = 5_000;
  const ANNOUNCE_MS = 5_000;
  const DEFAULT_SRC = "/api/sync/events";

  const LABELS = {
    connecting: "Connecting...",
    pending: "{n} pending updates",
    syncing: "Syncing {n} items...",
    synced: "All synced",
    offline: "Offline",
    paused: "Paused",
    unauthorized: "Not authorized",
    stale: "Sync status unknown",
  };
  const CLOSED_GATES = ["offline", "paused", "unauthorized"];

  // 16 x 16, drawn with a line: the shape says what the colour says.
  const ICONS = {
    connecting: ["M4 8h.01", "M8 8h.01", "M12 8h.01"],
    pending: ["M8 1.75a6.25 6.25 0 1 0 0 12.5a6.25 6.25 0 1 0 0-12.5", "M8 4.5V8l2.5 1.5"],
    syncing: ["M14.25 8A6.25 6.25 0 1 1 8 1.75"],
    synced: ["M2.5 8.5l3.75 3.75 7.25-8"],
    offline: ["M4.5 12.5a3 3 0 0 1-.4-5.97 4.1 4.1 0 0 1 7.85-.7 3.4 3.4 0 0 1-.2 6.67z", "M2 14.5l12-13"],
    paused: ["M5.25 3v10", "M10.75 3v10"],
    unauthorized: ["M3.5 7.25h9v6.5h-9z", "M5.25 7V5a2.75 2.75 0 0 1 5.5 0v2"],
    stale: ["M5.5 5.75a2.5 2.5 0 1 1 3.7 2.2c-.8.45-1.2.9-1.2 1.8", "M8 13h.01"],
  };

  const SHEET = new CSSStyleSheet();
  SHEET.replaceSync(`
    :host { display: inline-block; }
    :host([hidden]) { display: none; }
    [part="root"] {
      display: inline-flex; align-items: center; box-sizing: border-box; max-width: 100%;
      gap: var(--fluxy-sync-gap, .5em); padding: var(--fluxy-sync-padding, .4em .75em);
      border-radius: var(--fluxy-sync-radius, 1.25em);
      color: var(--fluxy-sync-color, inherit); background: var(--fluxy-sync-background, rgb(127 127 127 / .14));
      font: var(--fluxy-sync-font, inherit); line-height: 1.25; font-variant-numeric: tabular-nums;
    }
    [part="icon"] {
      flex: none; width: var(--fluxy-sync-icon-size, 1em); height: var(--fluxy-sync-icon-size, 1em);
      fill: none; stroke: var(--fluxy-sync-tint); stroke-width: 1.75; stroke-linecap: round; stroke-linejoin: round;
    }
    :host { --fluxy-sync-tint: currentColor; }
    :host([state="pending"]) { --fluxy-sync-tint: var(--fluxy-sync-pending, #2f7fd6); }
    :host([state="syncing"]) { --fluxy-sync-tint: var(--fluxy-sync-syncing, #2f7fd6); }
    :host([state="synced"]) { --fluxy-sync-tint: var(--fluxy-sync-synced, #2e8b57); }
    :host([state="offline"]) { --fluxy-sync-tint: var(--fluxy-sync-offline, #b7791f); }
    :host([state="paused"]) { --fluxy-sync-tint: var(--fluxy-sync-paused, #b7791f); }
    :host([state="unauthorized"]) { --fluxy-sync-tint: var(--fluxy-sync-unauthorized, #d64545); }
    :host([state="stale"]) { --fluxy-sync-tint: var(--fluxy-sync-stale, #d64545); }
    :host([state="stale"]) [part="text"] { font-style: italic; }
    :host([state="synced"]) [part="text"], .spoken {
      position: absolute; width: 1px; height: 1px; margin: -1px;
      overflow: hidden; clip-path: inset(50%); white-space: nowrap;
    }
    :host([state="syncing"]) [part="icon"] { animation: turn 1s linear infinite; }
    @keyframes turn { to { transform: rotate(1turn); } }
    @media (prefers-reduced-motion: reduce) { :host([state="syncing"]) [part="icon"] { animation: none; } }
    @media (forced-colors: active) { [part="root"] { border: 1px solid; } [part="icon"] { stroke: CanvasText; } }
  `);

  /* One stream, for all indicators that show it.
   *
   * It is read by fetch and not by EventSource, which hides the server's pings: without them a quiet queue can't be
   * told from a dead connection. EventSource also gives up for good at an HTTP error.
   */
  class Feed {
    static #shared = new Map();
    #members = new Set();
    #url;
    #connection = null;
    #timers = {};
    #pause = FIRST_RETRY_MS;
    #record = null;
    #silent = false;
    #onVisible = () => this.#look();
    #onOnline = () => this.#timers.retry && this.#connect();
    connected = false;
    refusal = 0;

    static join(url, member) {
      const feed = Feed.#shared.get(url) ?? new Feed(url);
      Feed.#shared.set(url, feed);
      feed.#members.add(member);
      if (feed.#members.size === 1) feed.#start();
      return feed;
    }

    constructor(url) {
      this.#url = url;
    }

    /** The last record, as far as it can be trusted; null before anything was heard or missed. */
    get record() {
      return this.#silent ? { ...this.#record, stale: true } : this.#record;
    }

    leave(member) {
      this.#members.delete(member);
      if (this.#members.size) return;
      Feed.#shared.delete(this.#url);
      document.removeEventListener("visibilitychange", this.#onVisible);
      removeEventListener("online", this.#onOnline);
      this.#close();
    }

    #start() {
      document.addEventListener("visibilitychange", this.#onVisible);
      addEventListener("online", this.#onOnline);
      this.#connect();
    }

    /** Close the stream of a page that nobody has looked at for long, and open it again once somebody does. */
    #look() {
      clearTimeout(this.#timers.hidden);
      if (document.hidden) this.#after("hidden", HIDDEN_MS, () => this.#close());
      else if (!this.#connection && !this.#timers.retry) this.#reopen();
    }

    #reopen() {
      this.#after("silence", FIRST_RETRY_MS, () => this.#fallSilent());
      this.#connect();
    }

    async #connect() {
      this.#stop("retry");
      const connection = new AbortController();
      this.#connection = connection;
      this.#after("patience", STALE_MS, () => connection.abort());
      try {
        const answer = await fetch(this.#url, {
          headers: { Accept: "text/event-stream" },
          cache: "no-store",
          signal: connection.signal,
        });
        this.refusal = answer.ok ? 0 : answer.status;
        if (answer.ok) await this.#read(answer.body, connection);
      } catch {
        // Refused, cut or given up: they all end in another attempt.
      }
      if (this.#connection === connection) this.#lost();
    }

    async #read(body, connection) {
      const reader = body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done || this.#connection !== connection) return;
        this.#heard(connection);
        const events = (rest + value).split(/\r?\n\r?\n/);
        rest = events.pop();
        for (const event of events) this.#take(event);
      }
    }

    #heard(connection) {
      this.#after("patience", STALE_MS, () => connection.abort());
      this.#after("silence", STALE_MS, () => this.#fallSilent());
    }

    #take(event) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (!lines.length) return;
      const record = JSON.parse(lines.map((line) => line.slice(5)).join("\n"));
      this.#pause = FIRST_RETRY_MS;
      this.connected = true;
      this.#offer(record);
    }

    /** Show a record, unless a newer one of the same dashboard is shown; the store may have been restored, though. */
    #offer(record) {
      this.#stop("older");
      const shown = this.#record;
      if (shown && shown.boot === record.boot && record.rev < shown.rev) {
        this.#after("older", OLDER_STANDS_MS, () => this.#show(record));
      } else {
        this.#show(record);
      }
    }

    #show(record) {
      this.#record = record;
      this.#silent = false;
      this.#tell();
    }

    #fallSilent() {
      this.#silent = true;
      this.#tell();
    }

    #lost() {
      this.#connection = null;
      this.connected = false;
      this.#stop("patience");
      this.#after("retry", this.#pause * (0.5 + Math.random() / 2), () => this.#connect());
      this.#pause = Math.min(this.#pause * 2, LAST_RETRY_MS);
      // A dashboard that is being started again is waited for; who may know nothing is shown nothing.
      if (this.#record && this.refusal !== 401) this.#tell();
      else this.#fallSilent();
    }

    #close() {
      const connection = this.#connection;
      this.#connection = null;
      this.connected = false;
      for (const name of Object.keys(this.#timers)) this.#stop(name);
      connection?.abort();
    }

    #tell() {
      for (const member of this.#members) member.changed();
    }

    #after(name, ms, then) {
      this.#stop(name);
      this.#timers[name] = setTimeout(() => {
        delete this.#timers[name];
        then();
      }, ms);
    }

    #stop(name) {
      clearTimeout(this.#timers[name]);
      delete this.#timers[name];
    }
  }

  function stateOf(record) {
    if (!record) return "connecting";
    if (record.stale || typeof record.pending !== "number") return "stale";
    if (CLOSED_GATES.includes(record.gate)) return record.gate;
    if (record.is_syncing) return "syncing";
    return record.pending ? "pending" : "synced";
  }

  function svg(name, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  function span(attributes) {
    const node = document.createElement("span");
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  class SyncIndicator extends HTMLElement {
    static observedAttributes = ["src", ...Object.keys(LABELS).map((name) => `label-${name}`)];
    #feed = null;
    #icon = svg("svg", { part: "icon", viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" });
    #text = span({ part: "text", "aria-hidden": "true" });
    #spoken = span({ class: "spoken" });
    #announcing = null;

    constructor() {
      super();
      const root = span({ part: "root", role: "status" });
      root.append(this.#icon, this.#text, this.#spoken);
      const shadow = this.attachShadow({ mode: "open" });
      shadow.adoptedStyleSheets = [SHEET];
      shadow.append(root);
    }

    get record() {
      return this.#feed?.record ?? null;
    }

    get state() {
      return stateOf(this.record);
    }

    get connected() {
      return this.#feed?.connected ?? false;
    }

    get refusal() {
      return this.#feed?.refusal ?? 0;
    }

    connectedCallback() {
      const src = new URL(this.getAttribute("src") || DEFAULT_SRC, document.baseURI);
      src.username = src.password = ""; // fetch refuses an address that holds them
      this.#feed = Feed.join(src.href, this);
      this.#render();
    }

    disconnectedCallback() {
      clearTimeout(this.#announcing);
      this.#announcing = null;
      this.#feed?.leave(this);
      this.#feed = null;
    }

    attributeChangedCallback(name) {
      if (!this.#feed) return;
      if (name === "src") {
        this.disconnectedCallback();
        this.connectedCallback();
      } else {
        this.#render();
      }
    }

    /** Called by the stream. */
    changed() {
      this.#render();
      this.dispatchEvent(new CustomEvent("fluxy-sync-change", { detail: this.record, bubbles: true, composed: true }));
    }

    #render() {
      const state = this.state;
      const text = this.#words(state, this.record?.pending);
      const isNew = this.getAttribute("state") !== state;
      if (this.#text.textContent !== text) this.#text.textContent = text;
      if (isNew) {
        this.setAttribute("state", state);
        this.#icon.replaceChildren(...ICONS[state].map((d) => svg("path", { d })));
      }
      this.#announce(isNew);
    }

    #words(state, pending) {
      const label = (name) => (this.getAttribute(`label-${name}`) ?? LABELS[name]).replaceAll("{n}", format(pending));
      return CLOSED_GATES.includes(state) && pending ? `${label(state)}, ${label("pending")}` : label(state);
    }

    /** Speak a new state at once, and numbers now and then: nobody listens to each tick of a counter. */
    #announce(now) {
      if (now) this.#speak();
      else this.#announcing ??= setTimeout(() => this.#speak(), ANNOUNCE_MS);
    }

    #speak() {
      clearTimeout(this.#announcing);
      this.#announcing = null;
      if (this.#spoken.textContent !== this.#text.textContent) this.#spoken.textContent = this.#text.textContent;
    }
  }

  function format(count) {
    return typeof count === "number" ? count.toLocaleString("en") : "";
  }

  if (!customElements.get("fluxy-sync-indicator")) customElements.define("fluxy-sync-indicator", SyncIndicator);
})();
