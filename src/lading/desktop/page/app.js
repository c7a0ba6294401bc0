// The page: three tabs, kept up to date by the daemon's events.

import { showContainers, startContainers } from "./containers.js";
import { act, byId } from "./dom.js";
import { call, follow } from "./engine.js";
import { showImages, startImages } from "./images.js";
import { showSettings, startSettings } from "./settings.js";

const RETRY_MILLISECONDS = 1000;
const show = { images: showImages, containers: showContainers, settings: showSettings };
const tabs = [...document.querySelectorAll("[role=tab]")];
const current = () => tabs.find((tab) => tab.getAttribute("aria-selected") === "true");

function select(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", String(chosen));
    each.tabIndex = chosen ? 0 : -1;
    byId(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  tab.focus();
  history.replaceState(null, "", `#${tab.id.replace("tab-", "")}`); // not location.hash: that would move the focus
  return refresh();
}

const refresh = () => act(null, show[current().id.replace("tab-", "")]);

const moves = { ArrowRight: 1, ArrowLeft: -1 };
for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key in moves) select(tabs[(index + moves[event.key] + tabs.length) % tabs.length]);
  });
}

// What happens elsewhere shows here: many events at once are one refresh.
async function live() {
  let waiting = false;
  let away = false;
  for (;;) {
    try {
      const info = await call("GET", "info");
      byId("engine").textContent = `Lading ${info.ServerVersion} on ${info.Name}`;
      if (away) refresh(); // no event tells what happened meanwhile
      for await (const event of follow("GET", "events")) {
        if (waiting || !["image", "container"].includes(event.Type)) continue;
        waiting = true;
        setTimeout(() => {
          waiting = false;
          refresh();
        }, 150);
      }
    } catch (error) {
      byId("engine").textContent = error.message;
    }
    away = true;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MILLISECONDS));
  }
}

startImages();
startContainers();
startSettings(refresh);
select(tabs.find((tab) => `#${tab.id.replace("tab-", "")}` === location.hash) ?? tabs[0]);
live();
