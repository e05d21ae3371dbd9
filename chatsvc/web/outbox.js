// What goes out: messages wait in this browser until the server has stored them, also over a restart of either.
// To send one again is safe: the server takes the same message for a repeat and stores it once.

import { messageName, written } from "./forms.js";
import { Lost, Refused } from "./link.js";
import { md5OfBlob } from "./md5.js";
import { texts } from "./texts.js";

/** Milliseconds before something is tried again that the server could not do just now. */
const PAUSE = 2000;
/** What the server says when it could do it later, and how often that is believed, with longer pauses each time. */
const NOT_NOW = /try again$|^Too many requests$/;
const TRIES = 6;
/** Transfers that run at a time. */
const TRANSFERS = 2;

/** @typedef {import("./store.js").Message & {file?: File}} Outgoing a file is kept with it until it is stored */

export class Outbox {
  #client;
  #latest = 0;
  /** Messages of this tab that are under way, by their places. @type {Map<number, Outgoing>} */
  #waiting = new Map();
  /** Transfers by the places of their messages. @type {Map<number, {done: number, size: number, abort: AbortController}>} */
  transfers = new Map();
  /** How often each was refused for the moment. @type {Map<number, number>} */
  #tries = new Map();
  #running = 0;
  /** @type {(() => void)[]} */
  #queue = [];

  /** @param {import("./client.js").Client} client */
  constructor(client) {
    this.#client = client;
  }

  /** @param {number} peer @param {string} text */
  sendText(peer, text) {
    return this.#send(peer, "plaintext", text);
  }

  /** @param {number} peer @param {string} picture base64 of it */
  sendImage(peer, picture) {
    return this.#send(peer, "image", picture);
  }

  /** @param {number} peer @param {File} file */
  async sendFile(peer, file) {
    return this.#send(peer, "file", file.name || texts.unnamedFile, { file, size: file.size });
  }

  /** Try again what has failed. @param {Outgoing} message */
  async retry(message) {
    message.state = "waiting";
    delete message.why;
    await this.#changed(message);
    await this.#client.store.wait(message.owner, Number(message.seq), true);
    await this.#deliver(message);
  }

  /** Take away what has failed. @param {Outgoing} message */
  async remove(message) {
    await this.#client.store.remove(message);
    this.#client.tabs.tell({ kind: "removed", message });
    this.#client.emit("removed", { message });
  }

  /** End a transfer early. @param {number} seq */
  cancel(seq) {
    this.transfers.get(seq)?.abort.abort();
  }

  /** There is a connection again: send all that waits. */
  async resume() {
    const { store, tabs, me } = this.#client;
    if (!me) return;
    const waiting = [...this.#waiting.values()];
    if (tabs.leads)
      waiting.push(...(await store.waiting(me.userid)).filter((one) => !this.#waiting.has(Number(one.seq))));
    for (const message of waiting) void this.#deliver(message);
  }

  /**
   * Fetch the file of a message.
   * @param {import("./store.js").Message} message @returns {Promise<Blob>}
   */
  async download(message) {
    const { abort } = this.#begin(message);
    let link = null;
    try {
      link = await this.#client.dial(abort.signal);
      const body = { msgmd5: message.md5encoded };
      const moved = (/** @type {number} */ got, /** @type {number} */ size) =>
        this.#moved(message, got, size);
      const { file, body: told } = await link.download("FETCHFILE", body, moved);
      if ((await md5OfBlob(file)) !== told.filemd5.toLowerCase()) throw new Error(texts.fileBroken);
      return file;
    } catch (error) {
      throw abort.signal.aborted ? new Error(texts.cancelled) : error;
    } finally {
      link?.close();
      this.#end(message);
    }
  }

  // How it is done.

  /** @param {number} peer @param {Outgoing["contenttype"]} contenttype @param {string} content @param {object} [more] */
  async #send(peer, contenttype, content, more = {}) {
    const client = this.#client;
    if (!client.me) return;
    const owner = client.me.userid;
    const timestamp = (this.#latest = Math.max(Date.now(), this.#latest + 1));
    /** @type {Outgoing} */
    const message = {
      owner,
      peer,
      userid: owner,
      targetid: peer,
      contenttype,
      content,
      timestamp,
      md5encoded: messageName(content, owner, peer, timestamp),
      filemd5: null,
      state: "waiting",
      ...more,
    };
    await client.store.add([message]);
    await client.store.wait(owner, Number(message.seq), true);
    client.tabs.tell({ kind: "messages", messages: [message] });
    client.emit("messages", { messages: [message] });
    void this.#deliver(message);
  }

  /** @param {Outgoing} message */
  async #deliver(message) {
    const seq = Number(message.seq);
    this.#waiting.set(seq, message);
    try {
      if (message.contenttype === "file") await this.#upload(message);
      else await this.#client.ask("SENDMSG", wire(message));
      message.state = "stored";
      delete message.file;
    } catch (error) {
      if (error instanceof Lost) return; // it is sent again on the next connection
      if (error instanceof Refused && this.#triesAgain(seq, error.message)) {
        const pause = PAUSE * 2 ** Number(this.#tries.get(seq));
        setTimeout(() => this.#client.online && this.#waiting.has(seq) && this.#deliver(message), pause);
        return;
      }
      message.state = "failed";
      message.why = /** @type {Error} */ (error).message;
    }
    this.#waiting.delete(seq);
    this.#tries.delete(seq);
    await this.#client.store.wait(message.owner, seq, false);
    await this.#changed(message);
  }

  /** Whether what was refused may be accepted soon. @param {number} seq @param {string} why */
  #triesAgain(seq, why) {
    if (!NOT_NOW.test(why)) return false;
    const tries = (this.#tries.get(seq) ?? -1) + 1;
    this.#tries.set(seq, tries);
    return tries < TRIES;
  }

  /** @param {Outgoing} message */
  async #upload(message) {
    const { file } = message;
    if (!file) throw new Error(texts.fileGone);
    if (this.transfers.has(Number(message.seq))) throw new Lost(texts.lost); // it is under way
    const { abort } = this.#begin(message);
    let link = null;
    try {
      await this.#turn();
      message.filemd5 ??= await md5OfBlob(file, abort.signal);
      link = await this.#client.dial(abort.signal);
      await link.upload(
        "SENDMSG",
        wire(message),
        file,
        (sent) => this.#moved(message, sent, file.size),
        abort.signal,
      );
    } catch (error) {
      if (abort.signal.aborted) throw new Error(texts.cancelled);
      if (error instanceof DOMException) throw new Error(texts.fileGone); // it was moved, or changed
      if (error instanceof Lost && this.#client.online) setTimeout(() => this.#deliver(message), PAUSE);
      throw error;
    } finally {
      link?.close();
      this.#end(message);
      this.#running--;
      this.#queue.shift()?.();
    }
  }

  /** Wait until there is room for one more transfer. */
  async #turn() {
    if (this.#running++ >= TRANSFERS)
      await new Promise((resolve) => this.#queue.push(() => resolve(undefined)));
  }

  #begin(message) {
    const transfer = { done: 0, size: message.size ?? 0, abort: new AbortController() };
    this.transfers.set(Number(message.seq), transfer);
    this.#client.emit("progress", { message });
    return transfer;
  }

  #moved(message, done, size) {
    const transfer = this.transfers.get(Number(message.seq));
    if (transfer) Object.assign(transfer, { done, size });
    this.#client.emit("progress", { message });
  }

  #end(message) {
    this.transfers.delete(Number(message.seq));
    this.#client.emit("progress", { message });
  }

  async #changed(message) {
    await this.#client.store.update(message);
    this.#client.tabs.tell({ kind: "changed", message });
    this.#client.emit("changed", { message });
  }
}

/** @param {Outgoing} message */
function wire({ userid, targetid, contenttype, content, timestamp, md5encoded, filemd5 }) {
  return { userid, targetid, contenttype, content: written(content), timestamp, md5encoded, filemd5 };
}
