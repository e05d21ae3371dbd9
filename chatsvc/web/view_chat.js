// One conversation: the newest message at the bottom, older ones when somebody scrolls up, and where one writes.
// What a message looks like is in bubble.js.

import { Bubble } from "./bubble.js";
import { Composer } from "./composer.js";
import { el, iconButton } from "./dom.js";
import { face, whereabouts } from "./faces.js";
import { personName } from "./forms.js";
import { PAGE } from "./store.js";
import { texts } from "./texts.js";
import { relationMenu } from "./view_relation.js";

/** Pixels from an end of the list at which one counts as being there. */
const NEAR = 80;
/** What is written and not sent, by whom it is for. @type {Map<number, string>} */
const drafts = new Map();

export class ChatView {
  #client;
  #name;
  /** @type {Map<number, Bubble>} */
  #bubbles = new Map();
  #list = el("div", { class: "messages", role: "log", "aria-live": "off", tabindex: "0" });
  #down = iconButton("down", texts.newMessages, {
    class: "icon-button to-end",
    hidden: true,
    onclick: () => this.#toEnd(),
  });
  #query = el("input", {
    type: "search",
    class: "search",
    "aria-label": texts.searchHere,
    placeholder: texts.searchHere,
    dir: "auto",
    oninput: () => this.#search(),
    onkeydown: (/** @type {KeyboardEvent} */ event) => this.#searchKey(event),
  });
  #searchBar;
  #found = el("span", { class: "quiet", role: "status" });
  #title = el("div", { class: "chat-title" });
  #face = el("div");
  #whereabouts = el("div", { class: "whereabouts" });
  #menu;
  #composer;
  #complete = false;
  #loading = false;

  /** @param {import("./client.js").Client} client @param {number} peer @param {{back: () => void}} actions */
  constructor(client, peer, actions) {
    this.#client = client;
    this.peer = peer;
    const person = client.people.get(peer);
    this.#name = peer === client.me?.userid ? texts.notes : personName(person?.username ?? "");
    this.#list.setAttribute("aria-label", texts.conversationWith(this.#name));
    this.#composer = new Composer(client, peer, this.#name, drafts.get(peer) ?? "");
    this.#menu = relationMenu(client, peer, () => this.#name);
    this.#searchBar = el("div", { class: "search-bar", hidden: true }, this.#query, this.#found);
    this.element = el(
      "section",
      { class: "chat", "aria-label": texts.conversationWith(this.#name) },
      el(
        "header",
        {},
        iconButton("back", texts.back, { class: "icon-button phone-only", onclick: actions.back }),
        this.#title,
        iconButton("search", texts.searchHere, { onclick: () => this.#toggleSearch() }),
        this.#menu,
      ),
      this.#searchBar,
      el("div", { class: "messages-frame" }, this.#list, this.#down),
      this.#composer.element,
      el("div", { class: "drop-hint", "aria-hidden": "true" }, texts.dropHere),
    );
    this.#list.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#acceptFiles();
    this.showPerson();
  }

  /** Show the newest messages. */
  async load() {
    const page = await this.#client.store.page(Number(this.#client.me?.userid), this.peer);
    this.#older(page);
    this.#toEnd();
    await this.#fill();
  }

  /** Who the other one is may have changed. */
  showPerson() {
    const { people, features, me } = this.#client;
    const person = people.get(this.peer);
    if (person && this.peer !== me?.userid) this.#name = personName(person.username);
    const stranger =
      this.peer !== me?.userid && !people.contacts.has(this.peer) && !people.pending.has(this.peer);
    const add = async () => {
      await people.add(this.peer).catch(() => {}); // the button stays, to be pressed again
      this.showPerson();
    };
    this.#title.replaceChildren(
      this.#face,
      el(
        "div",
        {},
        el("h1", {}, el("bdi", {}, this.#name)),
        stranger ? el("small", {}, texts.stranger) : this.#whereabouts,
      ),
    );
    if (stranger) {
      const label = people.requesting.has(this.peer) ? texts.accept : texts.add;
      this.#title.append(el("button", { type: "button", class: "small", onclick: add }, label));
    }
    this.#menu.hidden = this.peer === me?.userid || !features.has("contacts");
    this.showPresence();
  }

  /** Whether the other one is there, or writes, may have changed. */
  showPresence() {
    this.#face.replaceChildren(face(this.#client, this.peer, "small"));
    this.#whereabouts.replaceChildren(whereabouts(this.#client, this.peer) ?? "");
  }

  /** What the other one has got, or read, may have changed. */
  showMarks() {
    for (const bubble of this.#bubbles.values()) bubble.showMark();
  }

  /** Messages have come, or are being sent. @param {import("./store.js").Message[]} messages */
  add(messages) {
    const fresh = messages.filter((one) => one.peer === this.peer && !this.#bubbles.has(Number(one.seq)));
    if (!fresh.length) return;
    const own = fresh.some((one) => one.userid === one.owner);
    const stays = this.#atEnd || own;
    for (const message of fresh) this.#append(message);
    if (this.#query.value) this.#search();
    if (stays) this.#toEnd();
    else this.#down.hidden = false;
  }

  /** @param {import("./store.js").Message} message */
  update(message) {
    this.#atTheSamePlace(() => this.#bubbles.get(Number(message.seq))?.update(message));
  }

  /** @param {import("./store.js").Message} message */
  progress(message) {
    this.#atTheSamePlace(() => this.#bubbles.get(Number(message.seq))?.progress());
  }

  /** @param {import("./store.js").Message} message */
  remove(message) {
    const seq = Number(message.seq);
    this.#bubbles.get(seq)?.element.remove();
    this.#bubbles.delete(seq);
  }

  focus() {
    this.#composer.focus();
  }

  /** It is shown no more. */
  end() {
    drafts.set(this.peer, this.#composer.draft);
    for (const bubble of this.#bubbles.values()) bubble.end();
  }

  // The list.

  get #atEnd() {
    return this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < NEAR;
  }

  /** Change what is shown; who was at the end still is. @param {() => void} change */
  #atTheSamePlace(change) {
    const stays = this.#atEnd;
    change();
    if (stays) this.#toEnd();
  }

  #toEnd() {
    this.#list.scrollTop = this.#list.scrollHeight;
    this.#down.hidden = true;
  }

  #bubble(message) {
    const bubble = new Bubble(this.#client, message);
    this.#bubbles.set(Number(message.seq), bubble);
    const image = bubble.element.querySelector("img");
    // A picture has no height before it is read.
    if (image) image.addEventListener("load", () => this.#down.hidden && this.#toEnd(), { once: true });
    return bubble.element;
  }

  #append(message) {
    const day = texts.day(message.timestamp);
    const before = [...this.#list.querySelectorAll(".day")].pop();
    if (before?.textContent !== day) this.#list.append(separator(day));
    this.#list.append(this.#bubble(message));
  }

  /** Put older messages above. @param {import("./store.js").Message[]} page */
  #older(page) {
    this.#complete = page.length < PAGE;
    const fresh = page.filter((one) => !this.#bubbles.has(Number(one.seq)));
    const fragment = document.createDocumentFragment();
    let day = "";
    for (const message of fresh) {
      const next = texts.day(message.timestamp);
      if (next !== day) fragment.append(separator((day = next)));
      fragment.append(this.#bubble(message));
    }
    const first = this.#list.querySelector(".day");
    if (first?.textContent === day) first.remove();
    if (this.#complete) fragment.prepend(el("p", { class: "beginning quiet" }, texts.start));
    this.#list.prepend(fragment);
  }

  async #more() {
    if (this.#loading || this.#complete) return;
    this.#loading = true;
    const oldest = Math.min(...this.#bubbles.keys());
    const page = await this.#client.store.page(Number(this.#client.me?.userid), this.peer, oldest);
    const below = this.#list.scrollHeight - this.#list.scrollTop;
    this.#older(page);
    this.#list.scrollTop = this.#list.scrollHeight - below;
    this.#loading = false;
  }

  /** As long as there is nothing to scroll, older messages have room. */
  async #fill() {
    while (!this.#complete && this.#list.scrollHeight <= this.#list.clientHeight) await this.#more();
  }

  #scrolled() {
    if (this.#list.scrollTop < NEAR) void this.#more();
    this.#down.hidden = this.#atEnd;
  }

  // Search in what is loaded.

  #toggleSearch() {
    this.#searchBar.hidden = !this.#searchBar.hidden;
    this.#query.value = "";
    this.#search();
    if (this.#searchBar.hidden) this.focus();
    else this.#query.focus();
  }

  /** @param {KeyboardEvent} event */
  #searchKey(event) {
    if (event.key !== "Escape") return;
    event.preventDefault();
    this.#toggleSearch();
  }

  #search() {
    const words = this.#query.value.trim().toLowerCase();
    let count = 0;
    for (const bubble of this.#bubbles.values()) {
      const fits = !words || bubble.has(words);
      bubble.element.hidden = !fits;
      count += Number(fits);
    }
    this.#list.classList.toggle("searching", Boolean(words));
    this.#found.textContent = words ? texts.searchFound(count) : "";
  }

  // Files that are dropped.

  #acceptFiles() {
    const { element } = this;
    const holds = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
    element.addEventListener("dragover", (event) => {
      if (!holds(event)) return;
      event.preventDefault();
      element.classList.add("dropping");
    });
    element.addEventListener("dragleave", (event) => {
      if (!element.contains(/** @type {Node | null} */ (event.relatedTarget)))
        element.classList.remove("dropping");
    });
    element.addEventListener("drop", (event) => {
      element.classList.remove("dropping");
      if (!holds(event)) return;
      event.preventDefault();
      void this.#composer.attach([...(event.dataTransfer?.files ?? [])]);
    });
  }
}

/** @param {string} day */
function separator(day) {
  return el("p", { class: "day" }, day);
}
