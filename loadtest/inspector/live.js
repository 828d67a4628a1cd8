// Keeps a page up to date: asks whether anything has changed, and takes the parts that may have from the page as it is now.
"use strict";

(() => {
  const EVERY_MS = 1000;
  const state = document.getElementById("live");
  let revision = state.dataset.revision;

  function show(text, name) {
    state.textContent = text;
    state.dataset.state = name;
  }

  async function get(address) {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(answer.status);
    return answer;
  }

  function replace(place, fresh) {
    const active = document.activeElement;
    const held = place.contains(active) ? active.getAttribute("href") : null;
    place.innerHTML = fresh.innerHTML; // made and escaped by the templates of this page
    if (held) place.querySelector(`a[href="${CSS.escape(held)}"]`)?.focus(); // the keyboard keeps its place
  }

  async function look() {
    if (!document.hidden && getSelection().isCollapsed) {
      try {
        const told = await (await get("/requests.json?limit=0")).json();
        if (String(told.revision) !== revision) {
          const text = await (await get(location.href)).text();
          const page = new DOMParser().parseFromString(text, "text/html");
          for (const place of document.querySelectorAll("[data-live]")) {
            const fresh = page.querySelector(`[data-live="${place.dataset.live}"]`);
            if (fresh && fresh.innerHTML !== place.innerHTML) replace(place, fresh);
          }
          revision = page.getElementById("live").dataset.revision;
        }
        show("live", "on");
      } catch {
        show("not live: the receivers do not answer", "off");
      }
    }
    setTimeout(look, EVERY_MS);
  }

  look();
})();
