// Keeps the figures of the overview up to date: server-sent events carry the parts that have changed.
"use strict";

(() => {
  const state = document.getElementById("live");
  const SPEAK_EVERY_MS = 15000; // more often would talk without end
  const later = new Map(); // parts with the focus in them: what has it must not vanish
  let source = null;
  let speakAt = 0;

  function show(text, name) {
    state.textContent = text;
    state.dataset.state = name;
  }

  function put(place, html) {
    if (place.contains(document.activeElement)) {
      later.set(place, html);
    } else {
      later.delete(place);
      place.innerHTML = html; // made and escaped by the templates of this page
    }
  }

  function take(parts) {
    for (const [name, html] of Object.entries(parts)) {
      const place = document.querySelector(`[data-live="${name}"]`);
      if (name !== "said") {
        put(place, html);
      } else if (Date.now() >= speakAt) {
        place.textContent = html;
        speakAt = Date.now() + SPEAK_EVERY_MS;
      }
    }
  }

  function follow() {
    if (document.hidden) {
      source?.close(); // a hidden page needs no place among the streams
      source = null;
    } else if (!source) {
      source = new EventSource(state.dataset.source);
      source.onopen = () => show("live", "on");
      source.onmessage = (event) => take(JSON.parse(event.data));
      source.onerror = () =>
        source.readyState === EventSource.CLOSED
          ? show("not live: load the page again", "off")
          : show("connecting again…", "off");
    }
  }

  document.addEventListener("focusout", () => setTimeout(() => later.forEach((html, place) => put(place, html))));
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pagehide", () => source?.close());
  follow();
})();
