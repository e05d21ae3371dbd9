// The list: conversations and contacts with what is new, who wants to be a contact, and finding people.
// Which of them is shown beside it is decided by main.js.

import { el, hidden, iconButton } from "./dom.js";
import { face } from "./faces.js";
import { personName } from "./forms.js";
import { avatar } from "./images.js";
import { texts } from "./texts.js";

/**
 * @typedef {object} Entry
 * @property {number} peer @property {number} unread
 * @property {import("./store.js").Message | null} last
 */

export class ListView {
  #client;
  #actions;
  #list = el("ul", { class: "entries", "aria-label": texts.people });
  #requests = el("section", { class: "requests", "aria-label": texts.requests });
  #found = el("section", { class: "found", "aria-live": "polite" });
  #search = el("input", {
    type: "search",
    class: "search",
    placeholder: texts.find,
    "aria-label": texts.find,
    dir: "auto",
    maxlength: 256,
    autocomplete: "off",
    oninput: () => this.#filter(),
    onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event),
  });
  #me = el("button", { type: "button", class: "me", "aria-label": texts.profile, title: texts.profile });
  /** @type {Entry[]} */
  #entries = [];
  /** @type {number | null} */
  #chosen = null;
  /** What is shown of who wants to be a contact: whether one can decline, and who it is. @type {unknown[]} */
  #asking = [];

  /**
   * @param {import("./client.js").Client} client
   * @param {{choose: (peer: number) => void, profile: () => void}} actions
   */
  constructor(client, actions) {
    this.#client = client;
    this.#actions = actions;
    this.#me.onclick = () => actions.profile();
    this.element = el(
      "nav",
      { class: "sidebar", "aria-label": texts.chats },
      el("header", {}, el("h1", {}, texts.chats), this.#me),
      el("div", { class: "finder" }, this.#search),
      this.#found,
      this.#requests,
      this.#list,
    );
    this.#list.addEventListener("keydown", (event) => this.#move(event));
    this.showMe();
  }

  showMe() {
    this.#me.replaceChildren(avatar(this.#client.me ?? undefined, "small"));
  }

  focusSearch() {
    this.#search.focus();
  }

  /** @param {number | null} peer whose conversation is shown */
  choose(peer) {
    this.#chosen = peer;
    for (const button of this.#list.querySelectorAll("button")) this.#mark(button);
  }

  /** Show conversations, the newest first, then contacts who have written nothing yet. @param {Entry[]} conversations */
  show(conversations) {
    const { contacts, pending } = this.#client.people;
    const written = new Set(conversations.map((one) => one.peer));
    const silent = [...contacts, ...pending].filter((id) => !written.has(id));
    const rest = silent.map((peer) => ({ peer, unread: 0, last: null }));
    rest.sort((a, b) => this.#name(a.peer).localeCompare(this.#name(b.peer)));
    const place = (/** @type {Entry} */ one) => one.last?.seq ?? 0;
    this.#entries = [...[...conversations].sort((a, b) => place(b) - place(a)), ...rest];
    this.#render();
    this.#showRequests();
  }

  #name(peer) {
    return personName(this.#client.people.get(peer)?.username ?? "");
  }

  #render() {
    const wanted = this.#search.value.trim().toLowerCase();
    const active =
      document.activeElement instanceof HTMLElement ? document.activeElement.dataset.peer : undefined;
    const shown = this.#entries.filter((one) => this.#name(one.peer).toLowerCase().includes(wanted));
    const items = shown.map((one) => el("li", {}, this.#entry(one)));
    if (!this.#entries.length && !wanted) items.push(el("li", { class: "quiet nobody" }, texts.nobody));
    this.#replace(items);
    if (active)
      /** @type {HTMLElement | null} */ (
        this.#list.querySelector(`[data-peer="${CSS.escape(active)}"]`)
      )?.focus();
  }

  /** What looks as before stays: somebody may be about to press it. @param {HTMLElement[]} items */
  #replace(items) {
    const before = [...this.#list.children];
    if (before.length !== items.length) this.#list.replaceChildren(...items);
    else items.forEach((item, at) => before[at].isEqualNode(item) || before[at].replaceWith(item));
  }

  /** @param {Entry} entry */
  #entry({ peer, unread, last }) {
    const isMe = peer === this.#client.me?.userid;
    const button = el(
      "button",
      { type: "button", class: "entry", dataset: { peer }, onclick: () => this.#actions.choose(peer) },
      face(this.#client, peer),
      el(
        "span",
        { class: "entry-text" },
        el("bdi", { class: "entry-name" }, isMe ? texts.notes : this.#name(peer)),
        this.#client.presence.of(peer)?.online && hidden(`, ${texts.online}`),
        this.#client.typing.writes(peer)
          ? el("span", { class: "entry-last writes" }, texts.writes)
          : el("span", { class: "entry-last", dir: "auto" }, this.#last(peer, last)),
      ),
      el(
        "span",
        { class: "entry-side" },
        last &&
          el("time", { datetime: new Date(last.timestamp).toISOString() }, texts.shortTime(last.timestamp)),
        unread > 0 &&
          el(
            "span",
            { class: "badge" },
            el("span", { "aria-hidden": "true" }, String(unread)),
            hidden(texts.unread(unread)),
          ),
      ),
    );
    this.#mark(button);
    return button;
  }

  #mark(button) {
    if (Number(button.dataset.peer) === this.#chosen) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }

  #last(peer, last) {
    if (!last) return this.#client.people.pending.has(peer) ? texts.asked : texts.noMessages;
    const what = describe(last);
    return last.userid === this.#client.me?.userid ? texts.you(what) : what;
  }

  #showRequests() {
    const { people, features } = this.#client;
    const canDecline = features.has("contacts");
    const asking = [canDecline, ...[...people.requesting].map((id) => people.get(id))];
    if (asking.length === this.#asking.length && asking.every((one, at) => one === this.#asking[at])) return;
    this.#asking = asking;
    const rows = [...people.requesting].map((id) =>
      this.#row(
        people.get(id),
        canDecline &&
          iconButton("close", texts.decline(this.#name(id)), {
            onclick: () => this.#tried(people.remove(id)),
          }),
        el("button", { type: "button", class: "primary small", onclick: () => this.#add(id) }, texts.accept),
      ),
    );
    this.#requests.replaceChildren(...(rows.length ? [el("h2", {}, texts.requests), ...rows] : []));
  }

  #row(person, ...buttons) {
    const name = el("bdi", { class: "entry-name" }, personName(person?.username ?? ""));
    return el("div", { class: "person-row" }, avatar(person, "small"), name, ...buttons);
  }

  // Finding people.

  #filter() {
    const name = this.#search.value.trim();
    const known = this.#entries.some((one) => this.#name(one.peer) === name);
    const find = el(
      "button",
      { type: "button", class: "find", onclick: () => this.#find(name) },
      texts.findPerson(name),
    );
    this.#found.replaceChildren(...(name && !known ? [find] : []));
    this.#render();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key === "Escape" && this.#search.value) {
      event.preventDefault();
      this.#search.value = "";
      this.#filter();
    } else if (event.key === "Enter" && this.#search.value.trim()) {
      const first = this.#list.querySelector("button");
      if (first) first.click();
      else void this.#find(this.#search.value.trim());
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      this.#list.querySelector("button")?.focus();
    }
  }

  async #find(name) {
    try {
      const found = await this.#client.people.search(name);
      const isContact =
        this.#client.people.contacts.has(found.userid) || found.userid === this.#client.me?.userid;
      const add = el(
        "button",
        { type: "button", class: "primary small", onclick: () => this.#add(found.userid) },
        texts.add,
      );
      const write = el(
        "button",
        { type: "button", class: "small", onclick: () => this.#open(found.userid) },
        texts.message,
      );
      this.#found.replaceChildren(this.#row(found, write, !isContact && add));
    } catch (error) {
      this.#found.replaceChildren(el("p", { class: "quiet" }, /** @type {Error} */ (error).message));
    }
  }

  async #add(id) {
    if (await this.#tried(this.#client.people.add(id))) this.#open(id);
  }

  /** Whether something was done; if not, it is said why. @param {Promise<unknown>} work */
  async #tried(work) {
    try {
      await work;
      return true;
    } catch (error) {
      this.#found.replaceChildren(el("p", { class: "quiet" }, /** @type {Error} */ (error).message));
      return false;
    }
  }

  #open(peer) {
    this.#search.value = "";
    this.#found.replaceChildren();
    this.#actions.choose(peer);
  }

  /** @param {KeyboardEvent} event */
  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const buttons = [...this.#list.querySelectorAll("button")];
    const at = buttons.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    if (at + step < 0) this.focusSearch();
    else buttons[Math.min(at + step, buttons.length - 1)]?.focus();
  }
}

/** What a message is, in a line. @param {import("./store.js").Message} message */
export function describe(message) {
  if (message.contenttype === "image") return texts.picture;
  return message.contenttype === "file" ? texts.file(personName(message.content)) : message.content;
}
