// What this browser keeps (IndexedDB): the device's token, who is logged in, messages, people, what was read.
// The server gives each message to a device once, so what is not kept here is gone from this page.

const NAME = "chatsvc";
/** How many messages are read at a time when somebody scrolls up. */
export const PAGE = 50;

/**
 * @typedef {object} Message
 * @property {number} [seq] its place in this browser
 * @property {number} owner whose mailbox it is in
 * @property {number} peer the other one
 * @property {number} userid @property {number} targetid
 * @property {"plaintext" | "image" | "file"} contenttype
 * @property {string} content as it is shown; of an image, base64 of the picture
 * @property {number} timestamp ms
 * @property {string} md5encoded @property {string | null} filemd5
 * @property {"waiting" | "stored" | "failed"} state
 * @property {string} [why] it failed
 * @property {number} [size] of its file
 */
/**
 * @typedef {object} Conversation
 * @property {number} owner @property {number} peer
 * @property {number} unread
 * @property {Message | null} last
 */

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {IDBTransaction} transaction @returns {Promise<void>} */
function committed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

/** @param {any} message */
function identity({ owner, userid, targetid, md5encoded, timestamp }) {
  return [owner, userid, targetid, md5encoded, timestamp];
}

export class Store {
  /** @type {IDBDatabase} */
  #db;

  /** @param {IDBDatabase} db */
  constructor(db) {
    this.#db = db;
    db.onversionchange = () => db.close(); // a newer page wants to change it
  }

  /** @returns {Promise<Store>} */
  static async open() {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      const db = request.result;
      db.createObjectStore("meta");
      const messages = db.createObjectStore("messages", { keyPath: "seq", autoIncrement: true });
      messages.createIndex("identity", ["owner", "userid", "targetid", "md5encoded", "timestamp"], {
        unique: true,
      });
      messages.createIndex("conversation", ["owner", "peer", "seq"]);
      db.createObjectStore("conversations", { keyPath: ["owner", "peer"] });
      db.createObjectStore("people", { keyPath: ["owner", "userid"] });
    };
    return new Store(await done(request));
  }

  /** @param {string} key @returns {Promise<any>} */
  get(key) {
    return done(this.#db.transaction("meta").objectStore("meta").get(key));
  }

  /** @param {string} key @param {any} value */
  async set(key, value) {
    const transaction = this.#db.transaction("meta", "readwrite");
    transaction.objectStore("meta").put(value, key);
    await committed(transaction);
  }

  /**
   * Keep messages, in this order, and count those that are unread; known ones are passed over.
   * @param {Message[]} messages @returns {Promise<Message[]>} those that are new
   */
  async add(messages) {
    const transaction = this.#db.transaction(["messages", "conversations"], "readwrite", {
      durability: "strict",
    });
    const finished = committed(transaction);
    const store = transaction.objectStore("messages");
    const conversations = transaction.objectStore("conversations");
    const added = [];
    for (const message of messages) {
      if (await done(store.index("identity").getKey(identity(message)))) continue;
      message.seq = Number(await done(store.add(message)));
      added.push(message);
      const known = await done(conversations.get([message.owner, message.peer]));
      const before = known ?? { owner: message.owner, peer: message.peer, unread: 0, last: null };
      const isNew = message.userid !== message.owner;
      conversations.put({ ...before, unread: before.unread + Number(isNew), last: summary(message) });
    }
    await finished;
    return added;
  }

  /** A message of ours has come to be stored, or not. @param {Message} message */
  async update(message) {
    const transaction = this.#db.transaction(["messages", "conversations"], "readwrite");
    const finished = committed(transaction);
    transaction.objectStore("messages").put(message);
    const conversations = transaction.objectStore("conversations");
    const known = await done(conversations.get([message.owner, message.peer]));
    if (known?.last?.seq === message.seq) conversations.put({ ...known, last: summary(message) });
    await finished;
  }

  /** @param {Message} message */
  async remove(message) {
    const transaction = this.#db.transaction("messages", "readwrite");
    transaction.objectStore("messages").delete(Number(message.seq));
    await committed(transaction);
  }

  /**
   * The newest messages of a conversation before one of them, oldest first.
   * @param {number} owner @param {number} peer @param {number} [before] @returns {Promise<Message[]>}
   */
  async page(owner, peer, before = Infinity) {
    const index = this.#db.transaction("messages").objectStore("messages").index("conversation");
    const range = IDBKeyRange.bound([owner, peer, -Infinity], [owner, peer, before], false, true);
    /** @type {Message[]} */
    const found = [];
    const request = index.openCursor(range, "prev");
    return new Promise((resolve, reject) => {
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (cursor && found.push(cursor.value) < PAGE) cursor.continue();
        else resolve(found.reverse());
      };
    });
  }

  /** Messages of ours that are not known to be stored, oldest first. @param {number} owner @returns {Promise<Message[]>} */
  async waiting(owner) {
    const waiting = (await this.get(`waiting ${owner}`)) ?? [];
    const store = this.#db.transaction("messages").objectStore("messages");
    const found = await Promise.all(waiting.map((/** @type {number} */ seq) => done(store.get(seq))));
    return found.filter((message) => message?.state === "waiting");
  }

  /** Note which messages wait. @param {number} owner @param {number} seq @param {boolean} waits */
  async wait(owner, seq, waits) {
    const transaction = this.#db.transaction("meta", "readwrite");
    const finished = committed(transaction);
    const meta = transaction.objectStore("meta");
    const others = ((await done(meta.get(`waiting ${owner}`))) ?? []).filter(
      (/** @type {number} */ one) => one !== seq,
    );
    meta.put(waits ? [...others, seq] : others, `waiting ${owner}`);
    await finished;
  }

  /** @param {number} owner @returns {Promise<Conversation[]>} */
  conversations(owner) {
    const range = IDBKeyRange.bound([owner, -Infinity], [owner, Infinity]);
    return done(this.#db.transaction("conversations").objectStore("conversations").getAll(range));
  }

  /** All of a conversation has been read. @param {number} owner @param {number} peer */
  async read(owner, peer) {
    const transaction = this.#db.transaction("conversations", "readwrite");
    const finished = committed(transaction);
    const store = transaction.objectStore("conversations");
    const known = await done(store.get([owner, peer]));
    if (known) store.put({ ...known, unread: 0 });
    await finished;
  }

  /** @param {number} owner @returns {Promise<any[]>} people who were seen before */
  people(owner) {
    const range = IDBKeyRange.bound([owner, -Infinity], [owner, Infinity]);
    return done(this.#db.transaction("people").objectStore("people").getAll(range));
  }

  /** @param {number} owner @param {any} person */
  async keepPerson(owner, person) {
    const transaction = this.#db.transaction("people", "readwrite");
    transaction.objectStore("people").put({ ...person, owner });
    await committed(transaction);
  }

  /** Forget everything but how the page looks: somebody has logged out. */
  async clear() {
    const names = ["messages", "conversations", "people", "meta"];
    const theme = await this.get("theme");
    const transaction = this.#db.transaction(names, "readwrite");
    for (const name of names) transaction.objectStore(name).clear();
    if (theme) transaction.objectStore("meta").put(theme, "theme");
    await committed(transaction);
  }
}

/** What the list shows of a message; a picture is not kept twice. @param {Message} message */
function summary(message) {
  return { ...message, content: message.contenttype === "image" ? "" : message.content.slice(0, 200) };
}
