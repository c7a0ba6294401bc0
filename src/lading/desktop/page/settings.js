// Settings → General: which store is used, and the switch between them.

import { act, byId, make, size } from "./dom.js";
import { call, EngineError } from "./engine.js";

const RESTART_SECONDS = 60;
let active = null;

export async function showSettings() {
  const [store, info] = await Promise.all([call("GET", "lading/store"), call("GET", "info")]);
  if (store.Store !== active) {
    active = store.Store;
    byId("containerd").checked = active === "containerd";
  }
  byId("hidden").textContent = hiddenWords(store);
  const facts = { Version: info.ServerVersion, "Image store": store.Store, Driver: info.Driver, "Data root": info.DockerRootDir, Images: info.Images, Containers: `${info.Containers}, ${info.ContainersRunning} of them running`, "Compressed layers": size(store.BlobBytes ?? 0) };
  byId("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
  changed();
}

function hiddenWords({ HiddenImages: images = 0, HiddenContainers: containers = 0 }) {
  if (!images && !containers) return "The other store is empty: nothing is hidden.";
  return `The other store has ${images} ${images === 1 ? "image" : "images"} and ${containers} ${containers === 1 ? "container" : "containers"}, hidden now; switch to see them again.`;
}

const wanted = () => (byId("containerd").checked ? "containerd" : "classic");

function changed() {
  byId("apply").disabled = wanted() === active;
}

export function startSettings(refresh) {
  byId("containerd").addEventListener("change", changed);
  byId("general").addEventListener("submit", async (event) => {
    event.preventDefault();
    const store = wanted();
    await act(event.submitter, async () => {
      byId("applied").textContent = "Restarting…";
      try {
        await call("POST", "lading/store/use", { store, stop: byId("stop").checked ? "1" : "0" });
        await restarted(store);
        byId("applied").textContent = `The ${store} image store is in use.`;
      } catch (error) {
        byId("applied").textContent = "Nothing was changed.";
        throw error;
      }
      await refresh();
    });
    await act(null, showSettings);
  });
}

// The daemon is away for a moment; it is back when it says that it uses the store.
async function restarted(store) {
  for (let i = 0; i < RESTART_SECONDS * 5; i += 1) {
    try {
      if ((await call("GET", "lading/store")).Store === store) return;
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new EngineError(`The daemon did not come back with the ${store} store: see its log.`);
}
