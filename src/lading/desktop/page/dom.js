// Small help with the document. Text is always set as text: names come from images, and images are hostile.

export const byId = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// New content in place of the old; what had the focus keeps it, found again by its name.
export function redraw(place, children) {
  const name = place.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  place.replaceChildren(...children);
  if (name) place.querySelector(`[aria-label="${CSS.escape(name)}"]`)?.focus();
}

export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toPrecision(3) : Math.round(value)} ${units[unit]}`;
}

export const short = (digest) => digest.replace(/^sha256:/, "").slice(0, 12);

let looking = false; // whether the problem that is shown came up when the page looked, not when the user did something

export function problem(error = null) {
  looking = false;
  const place = byId("problem");
  place.hidden = error === null;
  place.textContent = error === null ? "" : error.message;
}

// Runs one action and says what goes wrong. An action of the user has a button: it rests meanwhile, and older trouble is forgotten.
// Trouble with looking is over when a look succeeds.
export async function act(button, action) {
  if (button) {
    problem();
    button.disabled = true;
  }
  try {
    const result = await action();
    if (!button && looking) problem();
    return result;
  } catch (error) {
    problem(error);
    looking = !button;
    return undefined;
  } finally {
    if (button) button.disabled = false;
  }
}

// Asks before something is lost. Resolves to null, or to what the option says (false if there is none).
export function confirmed(text, verb, option = null) {
  const dialog = byId("confirm");
  byId("confirm-text").textContent = text;
  byId("confirm-ok").textContent = verb;
  byId("confirm-option").hidden = option === null;
  byId("confirm-label").textContent = option ?? "";
  byId("confirm-check").checked = false;
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? byId("confirm-check").checked : null), { once: true });
  });
}
