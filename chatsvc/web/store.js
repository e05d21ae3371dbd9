// What this browser keeps (IndexedDB): the device's token, who is logged in, messages, people, what was read and marked.
// The server gives each message to a device once, so what is not kept here is gone from this page.

const NAME = "chatsvc";
/** How many messages are read at a time when somebody scrolls up. */
export const PAGE = 50;
/** What stays when somebody logs out: how the page looks, and whether others are told what was read. */
const SETTINGS = ["theme", "tellsRead"];

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
 * @property {number} [place] in the mailbox, as far as this browser knows: drawn like `seq`, when one of its own was
 *   stored. What is written while a file is sent comes before it there, and may have been read when the file has not
 */
/**
 * @typedef {object} Conversation
 * @property {number} owner @property {number} peer
 * @property {number} unread
 * @property {Message | null} last
 * @property {MarksOfPeer} [marks] how far the other one has got and read
 * @property {Name | null} [seen] up to where this user has read elsewhere, if that message is not here
 */
/** @typedef {{timestamp: number, md5encoded: string}} Name of a message, among those of its sender to its receiver */
/** @typedef {Name & {place: number | null}} Mark all messages up to that place; null: that message is not here */
/** @typedef {{delivered?: Mark, read?: Mark}} MarksOfPeer */

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

/** The newest messages of a conversation before one of them, newest first. */
async function* newest(store, owner, peer, before = Infinity) {
  const range = IDBKeyRange.bound([owner, peer, -Infinity], [owner, peer, before], false, true);
  const request = store.index("conversation").openCursor(range, "prev");
  for (let cursor = await done(request); cursor; cursor = await done(request)) {
    yield cursor.value;
    cursor.continue();
  }
}

/** Whether a mark takes the place of an earlier one, so that none goes back. @param {Mark} mark @param {Mark} [before] */
function replaces(mark, before) {
  if (!before) return true;
  if (mark.place !== null && before.place !== null) return mark.place >= before.place;
  return mark.timestamp >= before.timestamp;
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
      const before = await conversation(conversations, message.owner, message.peer);
      conversations.put({ ...before, ...unreadWith(before, message), last: summary(message) });
    }
    await finished;
    return added;
  }

  /** A message of ours has come to be stored, or not. @param {Message} message */
  async update(message) {
    const transaction = this.#db.transaction(["messages", "conversations"], "readwrite");
    const finished = committed(transaction);
    const store = transaction.objectStore("messages");
    if (message.state === "stored" && message.place === undefined) {
      message.place = Number(await done(store.add({}))); // the next number, which nothing else gets then
      store.delete(message.place);
    }
    store.put(message);
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
    const store = this.#db.transaction("messages").objectStore("messages");
    /** @type {Message[]} */
    const found = [];
    for await (const message of newest(store, owner, peer, before)) if (found.push(message) === PAGE) break;
    return found.reverse();
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

  /**
   * All of a conversation has been read.
   * @param {number} owner @param {number} peer @returns {Promise<Message | null>} the newest one that was unread
   */
  async read(owner, peer) {
    const transaction = this.#db.transaction(["messages", "conversations"], "readwrite");
    const finished = committed(transaction);
    const conversations = transaction.objectStore("conversations");
    const known = await conversation(conversations, owner, peer);
    let last = null;
    if (known.unread) {
      conversations.put({ ...known, unread: 0 });
      const messages = newest(transaction.objectStore("messages"), owner, peer);
      for await (last of messages) if (last.userid === peer) break;
    }
    await finished;
    return last;
  }

  /**
   * This user has read a conversation elsewhere, up to a message that may not be here yet.
   * @param {number} owner @param {number} peer @param {Name} name of that message
   */
  async readUpTo(owner, peer, { timestamp, md5encoded }) {
    const transaction = this.#db.transaction(["messages", "conversations"], "readwrite");
    const finished = committed(transaction);
    const store = transaction.objectStore("messages");
    const conversations = transaction.objectStore("conversations");
    const known = await conversation(conversations, owner, peer);
    const name = { owner, userid: peer, targetid: owner, md5encoded, timestamp };
    const seq = await done(store.index("identity").getKey(identity(name)));
    let [looked, unread] = [0, 0];
    for await (const message of newest(store, owner, peer)) {
      if (looked === known.unread) break;
      if (message.userid !== peer) continue;
      looked++;
      if (seq === undefined ? message.timestamp > timestamp : message.seq > seq) unread++;
    }
    conversations.put({ ...known, unread, seen: seq === undefined ? { timestamp, md5encoded } : null });
    await finished;
  }

  /**
   * The other one has got, or read, what this user wrote, up to a message that may not be here yet.
   * @param {number} owner @param {number} peer @param {"delivered" | "read"} kind @param {Name} name of that message
   * @returns {Promise<MarksOfPeer>} all that is known
   */
  async mark(owner, peer, kind, { timestamp, md5encoded }) {
    const transaction = this.#db.transaction(["messages", "conversations"], "readwrite");
    const finished = committed(transaction);
    const conversations = transaction.objectStore("conversations");
    const known = await conversation(conversations, owner, peer);
    const name = { owner, userid: owner, targetid: peer, md5encoded, timestamp };
    const index = transaction.objectStore("messages").index("identity");
    const message = await done(index.get(identity(name)));
    const place = message?.state === "stored" ? (message.place ?? message.seq) : null;
    const mark = { timestamp, md5encoded, place };
    const marks = replaces(mark, known.marks?.[kind]) ? { ...known.marks, [kind]: mark } : known.marks;
    conversations.put({ ...known, marks });
    await finished;
    return marks ?? {};
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

  /** Forget everything but what was set for this browser: somebody has logged out. */
  async clear() {
    const names = ["messages", "conversations", "people", "meta"];
    const settings = await Promise.all(SETTINGS.map(async (key) => [key, await this.get(key)]));
    const transaction = this.#db.transaction(names, "readwrite");
    for (const name of names) transaction.objectStore(name).clear();
    for (const [key, value] of settings)
      if (value !== undefined) transaction.objectStore("meta").put(value, key);
    await committed(transaction);
  }
}

/** @param {IDBObjectStore} conversations @returns {Promise<Conversation>} */
async function conversation(conversations, owner, peer) {
  return (await done(conversations.get([owner, peer]))) ?? { owner, peer, unread: 0, last: null };
}

/** What is unread with one more message. @param {Conversation} before @param {Message} message */
function unreadWith({ unread, seen }, message) {
  if (message.userid === message.owner) return {};
  if (!seen) return { unread: unread + 1 };
  const isSeen = message.timestamp === seen.timestamp && message.md5encoded === seen.md5encoded;
  if (isSeen) return { unread: 0, seen: null };
  return { unread: unread + Number(message.timestamp > seen.timestamp) };
}

/** What the list shows of a message; a picture is not kept twice. @param {Message} message */
function summary(message) {
  return { ...message, content: message.contenttype === "image" ? "" : message.content.slice(0, 200) };
}
