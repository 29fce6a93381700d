/* Keeps the page fresh without reloading it. Every page comes from the server as HTML; without this script the same
 * forms work by reloading.
 */
(() => {
  "use strict";

  let asked = 0;
  let drawn = 0;
  let refreshing = false;
  let again = false;

  const byId = (id) => document.getElementById(id);

  /** Make one list like another, and leave alone what hasn't changed: somebody may be typing in it. */
  function merge(list, fresh) {
    let at = list.firstElementChild;
    for (const theirs of [...fresh.children]) {
      const mine = byId(theirs.id);
      const isSame = mine?.dataset.version === theirs.dataset.version;
      const item = isSame ? mine : document.adoptNode(theirs);
      if (at && mine === at) {
        at = at.nextElementSibling;
        if (!isSame) mine.replaceWith(item);
      } else {
        if (!isSame) mine?.remove();
        list.insertBefore(item, at);
      }
    }
    while (at) {
      const next = at.nextElementSibling;
      at.remove();
      at = next;
    }
    // So that :empty holds.
    if (!list.firstElementChild) list.textContent = "";
  }

  function replace(mine, theirs) {
    if (!mine || !theirs || mine.isEqualNode(theirs)) return;
    const hadFocus = mine.contains(document.activeElement);
    mine.replaceWith(document.adoptNode(theirs));
    if (hadFocus) byId(mine.id).querySelector("button").focus();
  }

  /** Draw a page's posts and switch, unless newer ones are drawn. */
  function draw(html, number) {
    const page = new DOMParser().parseFromString(html, "text/html");
    if (number > drawn) {
      drawn = number;
      merge(byId("posts"), page.getElementById("posts"));
      replace(byId("upstream"), page.getElementById("upstream"));
    }
    return page;
  }

  function say(said, error) {
    byId("said").textContent = said;
    byId("error").textContent = error;
  }

  async function refresh() {
    again = refreshing;
    if (refreshing) return;
    refreshing = true;
    const number = ++asked;
    try {
      const answer = await fetch("/");
      if (answer.ok) draw(await answer.text(), number);
    } catch {
      // The application is away; the indicator says so, and tells when it is back.
    }
    refreshing = false;
    if (again) refresh();
  }

  async function send(form, submitter) {
    const number = ++asked;
    const answer = await fetch(submitter?.getAttribute("formaction") ?? form.action, {
      method: "POST",
      body: new URLSearchParams(new FormData(form, submitter)),
    });
    if (!answer.headers.get("content-type")?.startsWith("text/html")) throw new Error(`HTTP ${answer.status}`);
    const page = draw(await answer.text(), number);
    say(page.getElementById("said").textContent, page.getElementById("error").textContent);
    if (form.id === "composer") {
      const fresh = page.getElementById("composer").elements;
      form.elements.local_id.value = fresh.local_id.value; // until here, sending it again posts once
      form.elements.content.value = fresh.content.value; // empty, or what couldn't be posted
      form.elements.content.focus();
    }
  }

  document.addEventListener("submit", async (event) => {
    const { target: form, submitter } = event;
    event.preventDefault();
    if (submitter?.ariaBusy === "true") return;
    if (submitter) submitter.ariaBusy = "true";
    try {
      await send(form, submitter);
    } catch {
      say("", "The application can't be reached; what you wrote is still here.");
    }
    if (submitter) submitter.ariaBusy = null;
  });

  document.addEventListener("fluxy-sync-change", refresh);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
})();
