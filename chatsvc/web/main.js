// The page: it opens what this browser has kept, connects, and shows the login or the chats.
// Each part has a module of its own; here they hear of each other.

import { Client } from "./client.js";
import { el, icon } from "./dom.js";
import { personName } from "./forms.js";
import { Store } from "./store.js";
import { Tabs } from "./tabs.js";
import { texts } from "./texts.js";
import { useTheme } from "./theme.js";
import { ChatView } from "./view_chat.js";
import { describe, ListView } from "./view_list.js";
import { loginView } from "./view_login.js";
import { showProfile } from "./view_profile.js";

class Page {
  #client;
  #store;
  #banner = el("div", { class: "banner", role: "status" });
  #announcer = el("div", { class: "visually-hidden", "aria-live": "polite" });
  #place = el("div", { class: "place" });
  /** @type {ListView | null} */
  #list = null;
  /** @type {ChatView | null} */
  #chat = null;
  #user = 0;
  /** Requests that came while nobody looked. @type {Set<number>} */
  #requests = new Set();
  #timer = 0;
  #bannerTimer = 0;

  /** @param {Store} store */
  constructor(store) {
    this.#store = store;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const tabs = new Tabs((news) => this.#heard(news));
    this.#client = new Client(store, tabs, `${scheme}//${location.host}/ws`);
    this.#client.addEventListener("change", (event) =>
      this.#changed(/** @type {CustomEvent} */ (event).detail),
    );
    document.addEventListener("visibilitychange", () => this.#read());
    addEventListener("focus", () => this.#read());
    addEventListener("keydown", (event) => this.#key(event));
    // A file that misses its place must not take the page away.
    for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
    document.body.append(this.#banner, this.#place, this.#announcer);
  }

  async start() {
    await this.#client.start();
    this.#show();
    this.#status();
  }

  // What has changed.

  #changed({ what, messages, message, person, peer }) {
    if (what === "status") this.#status();
    else if (what === "me") this.#show();
    else if (what === "people") this.#peopleChanged();
    else if (what === "presence") this.#chat?.showPresence();
    else if (what === "request") this.#requested(person);
    else if (what === "messages") this.#added(messages, true);
    else if (what === "changed") this.#chat?.update(message);
    else if (what === "progress") this.#chat?.progress(message);
    else if (what === "removed") this.#chat?.remove(message);
    else if (what === "marks" && this.#chat?.peer === peer) this.#chat?.showMarks();
    if (what !== "progress" && what !== "marks") this.#refreshSoon();
  }

  /** What another tab tells. */
  #heard(news) {
    const me = this.#client.me?.userid;
    if (news.kind === "session") location.reload();
    else if (news.kind === "messages" && news.messages[0].owner === me) this.#added(news.messages, false);
    else if (news.kind === "changed") this.#chat?.update(news.message);
    else if (news.kind === "removed") this.#chat?.remove(news.message);
    else if (news.kind === "people") void this.#client.people.refresh();
    this.#refreshSoon();
  }

  #added(messages, isOurs) {
    for (const message of messages) this.#client.typing.stop(message.userid);
    this.#chat?.add(messages);
    this.#read();
    const fresh = messages.filter((/** @type {any} */ one) => one.userid !== one.owner);
    const last = fresh[fresh.length - 1];
    if (!last) return;
    const name = personName(this.#client.people.get(last.userid)?.username ?? "");
    this.#announcer.textContent = texts.says(name, describe(last));
    if (isOurs) this.#notify(name, describe(last), last.peer);
  }

  /** Somebody wants to be a contact. @param {import("./client.js").Person | undefined} person */
  #requested(person) {
    if (!person) return;
    const name = personName(person.username);
    this.#announcer.textContent = texts.says(name, texts.wants);
    if (!this.#isSeen) this.#requests.add(person.userid);
    this.#notify(name, texts.wants, person.userid);
  }

  /** @param {string} name @param {string} what @param {number} peer whose conversation is shown then */
  #notify(name, what, peer) {
    if (!document.hidden || !this.#client.tabs.leads) return;
    if (!("Notification" in globalThis) || Notification.permission !== "granted") return;
    const note = new Notification(name, {
      body: what.slice(0, 200),
      tag: `chat ${peer}`,
      icon: "/icon.svg",
    });
    note.onclick = () => {
      focus();
      void this.#open(peer);
      note.close();
    };
  }

  /** Many messages that come together cost one look at the list. */
  #refreshSoon() {
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      void this.#refresh();
    }, 30);
  }

  async #refresh() {
    const { me, people } = this.#client;
    const conversations = me ? await this.#store.conversations(me.userid) : [];
    const shown = conversations.filter((one) => !people.blocked.has(one.peer));
    this.#list?.show(shown);
    const unread = shown.reduce((sum, one) => sum + one.unread, this.#requests.size);
    document.title = unread ? `(${unread}) ${texts.app}` : texts.app;
  }

  #peopleChanged() {
    if (this.#chat && this.#client.people.blocked.has(this.#chat.peer)) this.#back();
    this.#chat?.showPerson();
  }

  /** Say that there is no connection, unless there is one again at once. */
  #status() {
    clearTimeout(this.#bannerTimer);
    const show = () => {
      const { online, me, trouble } = this.#client;
      const why = trouble.startsWith(texts.notKept) ? trouble : texts.offline;
      this.#banner.textContent = online ? "" : me ? why : texts.connecting;
    };
    if (this.#client.online) show();
    else this.#bannerTimer = setTimeout(show, 800);
  }

  // What is shown.

  #show() {
    const me = this.#client.me;
    const user = me?.userid ?? -1;
    if (user === this.#user) {
      this.#list?.showMe();
      return;
    }
    const wasIn = this.#user > 0;
    this.#user = user;
    this.#chat?.end();
    this.#chat = this.#list = null;
    if (!me) {
      this.#place.replaceChildren(loginView(this.#client, wasIn ? texts.elsewhere : ""));
      return;
    }
    this.#list = new ListView(this.#client, {
      choose: (peer) => this.#open(peer),
      profile: () => showProfile(this.#client),
    });
    this.#place.replaceChildren(el("main", { class: "columns" }, this.#list.element, nothingChosen()));
    void this.#refresh();
  }

  /** @param {number} peer */
  async #open(peer) {
    this.#chat?.end();
    const chat = new ChatView(this.#client, peer, { back: () => this.#back() });
    this.#place.querySelector(".chat")?.replaceWith(chat.element);
    this.#place.firstElementChild?.classList.add("in-chat");
    this.#list?.choose(peer);
    this.#chat = chat;
    await chat.load();
    if (matchMedia("(pointer: fine)").matches) chat.focus();
    this.#read();
  }

  #back() {
    this.#chat?.end();
    this.#chat?.element.replaceWith(nothingChosen());
    this.#chat = null;
    this.#place.firstElementChild?.classList.remove("in-chat");
    this.#list?.choose(null);
    this.#list?.focusSearch();
  }

  get #isSeen() {
    return !document.hidden && document.hasFocus();
  }

  /** What is shown to somebody who looks has been read. */
  #read() {
    if (!this.#isSeen) return;
    if (this.#requests.size) this.#refreshSoon();
    this.#requests.clear();
    if (!this.#chat) return;
    const { peer } = this.#chat;
    const owner = Number(this.#client.me?.userid);
    void this.#store.read(owner, peer).then((last) => {
      if (!last) return;
      this.#client.marks.read(last);
      this.#client.tabs.tell({ kind: "read" });
      this.#refreshSoon();
    });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.isComposing || event.defaultPrevented) return;
    if (event.key === "k" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.#list?.focusSearch();
    } else if (event.key === "Escape" && this.#chat && !document.querySelector("dialog, :popover-open")) {
      this.#back();
    }
  }
}

function nothingChosen() {
  return el(
    "section",
    { class: "chat nothing", "aria-label": texts.choose },
    el("div", { class: "logo" }, icon("chat")),
    el("p", { class: "quiet" }, texts.choose),
  );
}

async function begin() {
  try {
    const store = await Store.open();
    useTheme((await store.get("theme")) ?? "auto");
    await new Page(store).start();
  } catch (error) {
    document.body.append(
      el("main", { class: "center" }, el("p", { class: "card", role: "alert" }, texts.noStorage)),
    );
    throw error;
  }
}

void begin();
