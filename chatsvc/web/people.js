// Who people are: contacts, those who were asked and who ask, who is blocked, and whoever has written.
// What they look like on the page is not known here.

import { person } from "./client.js";
import { written } from "./forms.js";

/**
 * Milliseconds between two looks at the contacts while the page is seen: where nobody tells of requests, and where the
 * server does, but not of new names and pictures.
 */
const LOOK = 30_000;
const LOOK_RARELY = 600_000;
/** The server's lists of people, each a relation to them. */
const LISTS = ["contacts", "pending", "requesting", "blocked"];
/** The list of each relation that the server tells of; "none" is in none. */
const LIST_OF = { contact: "contacts", pending: "pending", requesting: "requesting", blocked: "blocked" };

export class People {
  #client;
  /** Everybody who was ever seen. @type {Map<number, import("./client.js").Person>} */
  known = new Map();
  /** Ids of contacts, of who was asked, and of who asks. */
  contacts = new Set();
  pending = new Set();
  requesting = new Set();
  /** Ids of those from whom nothing is taken. */
  blocked = new Set();
  /** When they were looked at last. */
  #looked = 0;
  /** How many changes the server has told. */
  #changes = 0;
  /** @type {Set<number>} */
  #asked = new Set();

  /** @param {import("./client.js").Client} client */
  constructor(client) {
    this.#client = client;
    setInterval(() => this.#look(), LOOK);
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
    for (const all of [this.known, ...LISTS.map((list) => this[list]), this.#asked]) all.clear();
  }

  /** Ask for the contacts again. A failure is no matter: they are asked for again soon. */
  async refresh() {
    const before = this.#changes;
    this.#looked = Date.now();
    try {
      const answer = await this.#client.ask("FETCHCONTACT");
      if (this.#changes !== before) return await this.refresh(); // what was told meanwhile may be newer
      const lists = LISTS.map((list) => [list, answer[list] ?? []]);
      this.#use(Object.fromEntries(lists.map(([list, people]) => [list, people.map((one) => one.userid)])));
      for (const [, people] of lists) for (const one of people) await this.#learn(person(one));
      await this.#changed();
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
  add(userid) {
    return this.#change("ADDCONTACT", userid);
  }

  /** End a relation, on both sides. @param {number} userid */
  remove(userid) {
    return this.#change("REMOVECONTACT", userid);
  }

  /** End it, and take nothing from that person any more. @param {number} userid */
  block(userid) {
    return this.#change("BLOCKCONTACT", userid);
  }

  /** @param {number} userid */
  unblock(userid) {
    return this.#change("UNBLOCKCONTACT", userid);
  }

  /**
   * A relation has changed elsewhere: the body of a push.
   * @param {{userid: number | null, relation: string | null}} body
   */
  async heard({ userid, relation }) {
    this.#changes++;
    if (userid === null) return this.refresh();
    const asksNow = relation === "requesting" && !this.requesting.has(userid);
    for (const list of LISTS) this[list].delete(userid);
    this[LIST_OF[String(relation)]]?.add(userid);
    await this.#changed();
    if (!this.known.has(userid)) await this.#ask(userid);
    if (asksNow) this.#client.emit("request", { person: this.known.get(userid) });
  }

  #look() {
    const { online, me, features } = this.#client;
    if (!online || !me || document.hidden) return;
    if (!features.has("contacts") || Date.now() - this.#looked >= LOOK_RARELY) void this.refresh();
  }

  async #change(kind, userid) {
    await this.#client.ask(kind, { userid });
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

  async #changed() {
    this.#client.emit("people");
    this.#client.marks.sendSoon(); // who is a contact now may be owed some
    await this.#client.store.set(
      "contacts",
      Object.fromEntries(LISTS.map((list) => [list, [...this[list]]])),
    );
  }

  #use(lists) {
    for (const list of LISTS) this[list] = new Set(lists[list]);
  }
}
