// Images: a tree of names, platforms and attestations; pull with live progress, delete, prune.

import { act, byId, confirmed, make, redraw, short, size } from "./dom.js";
import { call, follow } from "./engine.js";

const open = new Set();

export async function showImages() {
  const images = await call("GET", "images/json", { manifests: "1" });
  images.sort((a, b) => title(a).localeCompare(title(b)));
  redraw(byId("images"), images.length ? images.map(row) : [make("li", { class: "soft" }, "There are no images yet.")]);
}

const names = (image) => (image.RepoTags ?? []).filter((name) => name !== "<none>:<none>");
const title = (image) => names(image)[0] ?? `\uffff${image.Id}`;

function row(image) {
  const manifests = image.Manifests ?? [];
  const platforms = manifests.filter((each) => each.Kind === "image");
  const attestations = Map.groupBy(
    manifests.filter((each) => each.Kind === "attestation"),
    (each) => each.AttestationData?.For,
  );
  const list = make("ul", { hidden: !open.has(image.Id), id: `of-${short(image.Id)}` }, ...platforms.map((each) => platform(image, each, attestations.get(each.ID) ?? [])));
  const shown = names(image);
  return make(
    "li",
    { class: "image", "data-id": image.Id },
    make(
      "div",
      { class: "row" },
      platforms.length ? twist(image, list) : null,
      ...(shown.length ? shown.map((name) => make("span", { class: "name" }, name)) : [make("span", { class: "name soft" }, "<none>")]),
      make("span", { class: "id", title: image.Id }, short(image.Id)),
      make("span", { class: "soft" }, `${size(image.Size)}${platforms.length > 1 ? `, ${platforms.filter((each) => each.Available).length} of ${platforms.length} platforms here` : ""}`),
      image.Containers > 0 ? make("span", { class: "badge" }, "in use") : null,
      remove(image, shown),
    ),
    list,
  );
}

function twist(image, list) {
  return make(
    "button",
    {
      class: "twist",
      "aria-expanded": String(open.has(image.Id)),
      "aria-controls": list.id,
      "aria-label": `Platforms of ${names(image)[0] ?? short(image.Id)}`,
      onclick: (event) => {
        const shown = !open.delete(image.Id) && Boolean(open.add(image.Id));
        list.hidden = !shown;
        event.currentTarget.setAttribute("aria-expanded", String(shown));
        event.currentTarget.textContent = shown ? "▾" : "▸";
      },
    },
    open.has(image.Id) ? "▾" : "▸",
  );
}

function platform(image, manifest, attestations) {
  const { os, architecture, variant } = manifest.ImageData?.Platform ?? manifest.Descriptor?.platform ?? {};
  const name = [os, architecture, variant].filter(Boolean).join("/") || "unknown";
  return make(
    "li",
    { class: manifest.Available ? "" : "absent" },
    make(
      "div",
      { class: "row" },
      make("span", { class: "name" }, name),
      make("span", { class: "id", title: manifest.ID }, short(manifest.ID)),
      make("span", { class: "soft" }, manifest.Available ? `${size(manifest.Size.Total)} here, ${size(manifest.Size.Content)} of it compressed` : "not pulled"),
    ),
    attestations.length ? make("ul", {}, ...attestations.map(attestation)) : null,
  );
}

function attestation(manifest) {
  return make(
    "li",
    { class: manifest.Available ? "" : "absent" },
    make("div", { class: "row" }, make("span", { class: "badge" }, "attestation"), make("span", { class: "id", title: manifest.ID }, short(manifest.ID)), make("span", { class: "soft" }, size(manifest.Size.Total))),
  );
}

function remove(image, shown) {
  const what = shown[0] ?? short(image.Id);
  return make(
    "button",
    {
      class: "danger push",
      "aria-label": `Delete ${what}`,
      onclick: (event) =>
        act(event.currentTarget, async () => {
          const force = await confirmed(`Delete ${what}?`, "Delete", "also if a container uses it");
          if (force === null) return;
          for (const each of shown.length ? shown : [image.Id]) await call("DELETE", `images/${each}`, { force: force ? "1" : "0" });
          await showImages();
        }),
    },
    "Delete",
  );
}

export function startImages() {
  byId("pull").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = byId("pull-name").value.trim();
    const platform = byId("pull-platform").value.trim();
    act(event.submitter, () => pull(name, platform));
  });
  byId("prune").addEventListener("click", (event) =>
    act(event.currentTarget, async () => {
      const all = await confirmed("Remove images that have no name?", "Remove", "also named images that no container uses");
      if (all === null) return;
      const result = await call("POST", "images/prune", { filters: JSON.stringify({ dangling: [all ? "false" : "true"] }) });
      byId("pulling").hidden = false;
      byId("pull-title").textContent = "Removed unused images";
      byId("pull-status").textContent = `${size(result.SpaceReclaimed ?? 0)} freed`;
      byId("pull-layers").replaceChildren();
      await showImages();
    }),
  );
}

async function pull(name, platform) {
  const rows = new Map();
  byId("pulling").hidden = false;
  byId("pull-title").textContent = `Pulling ${name}`;
  byId("pull-status").textContent = "";
  byId("pull-layers").replaceChildren();
  try {
    for await (const each of follow("POST", "images/create", { fromImage: withTag(name), ...(platform ? { platform } : {}) })) progress(each, rows);
  } catch (error) {
    byId("pull-status").textContent = "failed";
    throw error;
  }
  byId("pull-name").value = "";
  await showImages();
}

// Without a tag or digest the API pulls every tag of a repository; people mean the latest.
function withTag(name) {
  return name.includes("@") || name.lastIndexOf(":") > name.lastIndexOf("/") ? name : `${name}:latest`;
}

function progress({ id, status, progressDetail }, rows) {
  if (!id || /^Pulling from /.test(status)) {
    byId("pull-status").textContent = status;
    return;
  }
  if (!rows.has(id)) {
    const bar = make("progress", { max: 1, "aria-label": id });
    const words = make("span", { class: "soft" });
    rows.set(id, { bar, words });
    byId("pull-layers").append(make("li", {}, make("span", { class: "id" }, id), words, bar));
  }
  const { bar, words } = rows.get(id);
  words.textContent = status;
  if (progressDetail?.total) {
    bar.max = progressDetail.total;
    bar.value = progressDetail.current ?? 0;
  } else if (/complete|exists/i.test(status)) {
    bar.value = bar.max;
  }
}
