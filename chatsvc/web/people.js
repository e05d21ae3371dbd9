// Who people are: contacts, those who were asked and who ask, and whoever has written.
// What they look like on the page is not known here.

import { person } from "./client.js";
import { written } from "./forms.js";

/** Milliseconds between two looks at the contacts while the page is seen; nobody pushes a request. */
const LOOK = 30_000;

export class People {
  #client;
  /** Everybody who was ever seen. @type {Map<number, import("./client.js").Person>} */
  known = new Map();
  /** Ids of contacts, of who was asked, and of who asks. */
  contacts = new Set();
  pending = new Set();
  requesting = new Set();
  /** @type {Set<number>} */
  #asked = new Set();

  /** @param {import("./client.js").Client} client */
  constructor(client) {
    this.#client = client;
    setInterval(() => client.online && client.me && !document.hidden && this.refresh(), LOOK);
  }

  /** Show who was seen before. */
  async load() {
    const { store, me } = this.#client;
    if (!me) return;
    for (const one of await store.people(me.userid)) this.known.set(one.userid, one);
    const lists = await store.get("contacts");
    if (lists) this.#use(lists);
  }

  clear() {
    for (const all of [this.known, this.contacts, this.pending, this.requesting, this.#asked]) all.clear();
  }

  /** Ask for the contacts again. A failure is no matter: they are asked for again soon. */
  async refresh() {
    try {
      const answer = await this.#client.ask("FETCHCONTACT");
      const lists = {};
      for (const kind of ["contacts", "pending", "requesting"]) {
        lists[kind] = answer[kind].map((/** @type {any} */ one) => one.userid);
        for (const one of answer[kind]) await this.#learn(person(one));
      }
      await this.#client.store.set("contacts", lists);
      this.#use(lists);
      this.#client.emit("people");
    } catch {
      return;
    }
  }

  /** Who has that id; asked for if nobody knows. @param {number} id @returns {import("./client.js").Person | undefined} */
  get(id) {
    if (id === this.#client.me?.userid) return this.#client.me;
    const known = this.known.get(id);
    if (!known && !this.#asked.has(id)) void this.#ask(id);
    return known;
  }

  /** The person of exactly that name. @param {string} name @returns {Promise<import("./client.js").Person>} */
  async search(name) {
    const found = person(await this.#client.ask("SEARCHUSR", { username: written(name) }));
    await this.#learn(found);
    return found;
  }

  /** Ask somebody to be a contact, or accept. @param {number} userid */
  async add(userid) {
    await this.#client.ask("ADDCONTACT", { userid });
    this.#client.tabs.tell({ kind: "people" });
    await this.refresh();
  }

  async #ask(id) {
    if (!this.#client.online) return;
    this.#asked.add(id);
    try {
      await this.#learn(person(await this.#client.ask("PROFILE", { userid: id })));
      this.#client.emit("people");
    } catch {
      this.#asked.delete(id);
    }
  }

  async #learn(one) {
    const known = this.known.get(one.userid);
    if (known && known.username === one.username && known.avatar === one.avatar) return;
    this.known.set(one.userid, one);
    const owner = this.#client.me?.userid;
    if (owner !== undefined) await this.#client.store.keepPerson(owner, one);
  }

  #use(lists) {
    this.contacts = new Set(lists.contacts);
    this.pending = new Set(lists.pending);
    this.requesting = new Set(lists.requesting);
  }
}
