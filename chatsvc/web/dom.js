// Making elements: what people write becomes text nodes and nothing else, here and so everywhere.
// What the elements are for is not known here.

/**
 * An element with properties (`class`, `dataset`, `on…` handlers, attributes) and children; strings become text.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Record<string, any>} [props] @param {(Node | string | null | undefined | false)[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  back: "M15 5l-7 7 7 7",
  send: "M5 12h13M12 5l7 7-7 7",
  attach:
    "M20 11l-8.5 8.5a5 5 0 0 1-7-7L13 4a3.3 3.3 0 0 1 4.7 4.7L9.2 17.200a1.700 1.700 0 0 1-2.400-2.400L14 7.500",
  smile: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM8.500 14.500a4 4 0 0 0 7 0M9 9.500h.01M15 9.500h.01",
  search: "M10.500 17a6.500 6.500 0 1 0 0-13 6.500 6.500 0 0 0 0 13zM20 20l-4.800-4.800",
  gear: "M4 7h9M17 7h3M4 17h3M11 17h9M15 9a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM9 19a2 2 0 1 0 0-4 2 2 0 0 0 0 4z",
  close: "M6 6l12 12M18 6L6 18",
  down: "M12 5v13M6 12l6 6 6-6",
  file: "M13 3H6v18h12V8zM13 3v5h5",
  chat: "M4 5h16v11H10l-5 4v-4H4z",
  check: "M5 12.500l4.500 4.500L19 7.500",
  checks: "M1.500 12.500l4.500 4.500L15.500 7.500M11.500 16l1 1L22.500 7.500",
  more: "M12 5.500h.01M12 12h.01M12 18.500h.01",
  clock: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7v5l3 2",
  alert: "M12 8v5M12 16.500h.01M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z",
};

/** A drawing that says nothing to a screen reader. @param {keyof typeof ICONS} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows a drawing. @param {keyof typeof ICONS} name @param {string} label @param {Record<string, any>} props */
export function iconButton(name, label, props) {
  return el(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, ...props },
    icon(name),
  );
}

/** Text that only a screen reader says. @param {string} text */
export function hidden(text) {
  return el("span", { class: "visually-hidden" }, text);
}

/** A field with its label. @param {string} label @param {HTMLInputElement} input @param {string} [hint] */
export function field(label, input, hint) {
  return el("label", { class: "field" }, el("span", {}, label), input, hint && el("small", {}, hint));
}

// Only links that a browser opens as pages become links; what stands around them stays text.
const LINK =
  /https?:\/\/[^\s<>"'\u200b-\u200f\u2028-\u202e\u2066-\u2069]+[^\s<>"'.,;:!?)\]\u200b-\u200f\u2028-\u202e\u2066-\u2069]/g;

/** What somebody wrote, with its links. @param {string} text @returns {(Node | string)[]} */
export function withLinks(text) {
  /** @type {(Node | string)[]} */
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(LINK)) {
    if (!URL.canParse(match[0])) continue;
    parts.push(text.slice(at, match.index));
    const props = { href: match[0], target: "_blank", rel: "noopener noreferrer" };
    parts.push(el("a", props, match[0]));
    at = match.index + match[0].length;
  }
  parts.push(text.slice(at));
  return parts;
}
