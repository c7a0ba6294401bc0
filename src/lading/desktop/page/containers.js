// Containers: what runs, its logs, start and stop.

import { act, byId, make, redraw } from "./dom.js";
import { call, output } from "./engine.js";

const TAIL = "1000";

export async function showContainers() {
  const containers = await call("GET", "containers/json", { all: "1" });
  const nothing = make("tr", {}, make("td", { colspan: "5", class: "soft" }, "There are no containers yet."));
  redraw(byId("containers"), containers.length ? containers.map(row) : [nothing]);
}

const nameOf = (container) => (container.Names[0] ?? container.Id.slice(0, 12)).replace(/^\//, "");

function row(container) {
  const name = nameOf(container);
  const running = container.State === "running" || container.State === "paused";
  return make(
    "tr",
    { "data-id": container.Id },
    make("th", { scope: "row" }, name),
    make("td", {}, container.Image),
    make("td", { class: running ? "running" : "soft" }, container.Status),
    make("td", { class: "id" }, container.Command),
    make(
      "td",
      {},
      make("button", { "aria-label": `Logs of ${name}`, onclick: (event) => act(event.currentTarget, () => logs(container.Id, name)) }, "Logs"),
      " ",
      running ? change(container, "stop", "Stop") : change(container, "start", "Start"),
    ),
  );
}

function change(container, verb, label) {
  return make(
    "button",
    {
      "aria-label": `${label} ${nameOf(container)}`,
      onclick: (event) =>
        act(event.currentTarget, async () => {
          await call("POST", `containers/${container.Id}/${verb}`);
          await showContainers();
        }),
    },
    label,
  );
}

async function logs(id, name) {
  const text = await output(`containers/${id}/logs`, { stdout: "1", stderr: "1", tail: TAIL });
  byId("logs").hidden = false;
  byId("logs-title").textContent = `Logs of ${name}`;
  byId("logs-text").textContent = text || "It wrote nothing.";
  byId("logs-text").focus();
}

export function startContainers() {
  byId("logs-close").addEventListener("click", () => {
    byId("logs").hidden = true;
  });
}
