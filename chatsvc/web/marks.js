// Marks: how far others have got and read what this user wrote, and telling them how far this user has.
// What a mark looks like is in bubble.js; which messages were read is decided by main.js.

import { Lost, Refused } from "./link.js";

/** Milliseconds in which what comes together is marked together, and before the server is asked again. */
const TOGETHER = 200;
const AGAIN = 5000;

/** @typedef {import("./store.js").Message} Message */
/** @typedef {"delivered" | "read"} Kind */

export class Marks {
  #client;
  /** What others have marked, by who they are. @type {Map<number, import("./store.js").MarksOfPeer>} */
  #ofPeers = new Map();
  /** Up to where they are to be told something, by who they are: one mark stands for all before. */
  #due = {
    /** @type {Map<number, any>} */ read: new Map(),
    /** @type {Map<number, any>} */ delivered: new Map(),
  };
  #timer = 0;

  /** @param {import("./client.js").Client} client */
  constructor(client) {
    this.#client = client;
    client.addEventListener("change", (event) => this.#settle(/** @type {CustomEvent} */ (event).detail));
  }

  /** Show what was known before. */
  async load() {
    const { store, me } = this.#client;
    if (!me) return;
    for (const { peer, marks } of await store.conversations(me.userid)) {
      if (marks) this.#ofPeers.set(peer, marks);
    }
  }

  clear() {
    this.#ofPeers.clear();
    this.#due.read.clear();
    this.#due.delivered.clear();
  }

  /** How a message of this user's fares with whom it is for. @param {Message} message @returns {Kind | null} */
  of(message) {
    const marks = this.#ofPeers.get(message.peer);
    const has = (/** @type {import("./store.js").Mark | undefined} */ mark) =>
      mark !== undefined &&
      (mark.place === null
        ? message.timestamp <= mark.timestamp
        : Number(message.place ?? message.seq) <= mark.place);
    return has(marks?.read) ? "read" : has(marks?.delivered) ? "delivered" : null;
  }

  // What others say, and this user's other devices.

  /** The body of a push. @param {{marks: any[]}} body */
  async heard({ marks }) {
    for (const { userid, targetid, mark, ...message } of marks) {
      const owner = this.#client.me?.userid;
      if (targetid === owner) await this.#keep(userid, mark, message);
      else if (userid === owner && mark === "read") await this.#readElsewhere(targetid, message);
    }
  }

  /** @param {number} peer @param {Kind} kind @param {{timestamp: number, md5encoded: string}} mark */
  async #keep(peer, kind, mark) {
    const owner = this.#client.me?.userid;
    if (owner === undefined) return;
    const marks = await this.#client.store.mark(owner, peer, kind, mark);
    if (owner !== this.#client.me?.userid) return;
    this.#ofPeers.set(peer, marks);
    this.#client.emit("marks", { peer });
  }

  async #readElsewhere(peer, message) {
    await this.#client.store.readUpTo(Number(this.#client.me?.userid), peer, message);
    this.#client.tabs.tell({ kind: "read" });
    this.#client.emit("read", { peer });
  }

  /** A mark may have come before its message, or before that was known to be stored. */
  #settle({ what, messages, message }) {
    if (what !== "messages" && what !== "changed") return;
    for (const peer of new Set((messages ?? [message]).map((/** @type {Message} */ one) => one.peer))) {
      for (const [kind, mark] of Object.entries(this.#ofPeers.get(peer) ?? {})) {
        if (mark.place === null) void this.#keep(peer, /** @type {Kind} */ (kind), mark);
      }
    }
  }

  // What others are told.

  /** Messages are kept in this browser. @param {Message[]} messages in their order */
  got(messages) {
    for (const message of messages) if (message.userid !== message.owner) this.#owe("delivered", message);
  }

  /** This one and all before it were read. @param {Message} message */
  read(message) {
    this.#owe("read", message);
    this.sendSoon();
  }

  /** Whether others are told what was read; all tabs go by it. @returns {Promise<boolean>} */
  async tellsRead() {
    return (await this.#client.store.get("tellsRead")) ?? true;
  }

  /** @param {boolean} tells */
  async setTellsRead(tells) {
    await this.#client.store.set("tellsRead", tells);
  }

  /** @param {Kind} mark @param {Message} message */
  #owe(mark, { peer, seq, timestamp, md5encoded }) {
    this.#due[mark].set(peer, { seq, timestamp, md5encoded });
  }

  /** Tell what is due, in a moment. @param {number} [pause] ms */
  sendSoon(pause = TOGETHER) {
    const { features, inbox } = this.#client;
    if (!features.has("marks") || inbox.working) return; // when all has come in, this is called again
    this.#timer ||= setTimeout(async () => {
      this.#timer = 0;
      try {
        if (await this.tellsRead()) await this.#send("read");
        else this.#due.read.clear();
        await this.#send("delivered");
      } catch (error) {
        if (error instanceof Refused) this.sendSoon(AGAIN);
        else if (!(error instanceof Lost)) throw error; // on the next connection it is told
      }
    }, pause);
  }

  /** @param {Kind} mark */
  async #send(mark) {
    const due = this.#due[mark];
    for (const [userid, owed] of [...due]) {
      if (!this.#client.people.contacts.has(userid)) continue; // who is none yet is told when that changes
      const { seq, timestamp, md5encoded } = owed;
      await this.#client.ask("MARK", { userid, mark, timestamp, md5encoded });
      if (due.get(userid) === owed) due.delete(userid);
      // What was read has come.
      const { delivered } = this.#due;
      if (delivered.get(userid)?.seq <= seq) delivered.delete(userid);
    }
  }
}
