// One connection to the server: requests go out, their answers come back in their order, pushes between them.
// When there is a connection, and what is done with the messages, is not known here.

import { encode, FrameReader } from "./wire.js";
import { texts } from "./texts.js";

/** Milliseconds that a request may see no progress. */
const PATIENCE = 30_000;
/** Bytes that a connection may hold that are not sent yet, and that are read from a file at a time. */
const HELD = 512 * 1024;
const SLICE = 128 * 1024;
/** Bytes of a file that comes which are kept in memory. */
const GATHERED = 8 * 1024 * 1024;

/** An ERR of the server; the message is its sentence. */
export class Refused extends Error {}
/** The connection is gone; what was asked may have been done or not. */
export class Lost extends Error {}

/**
 * @typedef {object} Waiter
 * @property {string} kind
 * @property {(value: any) => void} resolve
 * @property {(error: Error) => void} reject
 */

export class Link {
  /** @type {WebSocket} */
  #socket;
  /** @type {Waiter[]} */
  #waiters = [];
  #reader;
  #timer = 0;
  #trouble = "";
  /** @type {((part: Uint8Array, left: number) => void) | null} */
  #sink = null;
  /** @type {number | null} */
  token;
  closed = false;
  /** Called with each push's type and body. @type {(kind: string, body: any) => void} */
  onPush = () => {};
  /** Called with a new device token. @type {(token: number) => void} */
  onToken = () => {};
  /** Called once, when the connection is gone. @type {() => void} */
  onClose = () => {};

  /** @param {string} address of the WebSocket @param {number | null} token of this device */
  constructor(address, token) {
    this.token = token;
    this.#reader = new FrameReader(
      (answer, payload) => this.#answered(answer, payload),
      (part, left) => this.#sink?.(part, left),
    );
    this.#socket = new WebSocket(address);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onmessage = (event) => this.#received(event.data);
    this.#socket.onclose = () => this.#lost();
    /** Resolves when it is open, rejects if it will not be. @type {Promise<void>} */
    this.opened = new Promise((/** @type {(value?: undefined) => void} */ resolve, reject) => {
      this.#socket.onopen = () => resolve();
      this.#waiters.push({ kind: "", resolve, reject });
    }).then(() => {
      this.#waiters.shift();
      this.#watch();
    });
    this.opened.catch(() => {}); // who asks hears of it
    this.#watch();
  }

  /**
   * Ask something. Rejects with `Refused` for an ERR, with `Lost` if there is no answer.
   * @param {string} kind @param {any} [body] @returns {Promise<any>} the answer's body
   */
  ask(kind, body = null) {
    if (this.closed) return Promise.reject(new Lost(texts.lost));
    this.#socket.send(encode(kind, body, this.token));
    const answer = this.#wait(kind);
    // A released client's connection gets its contacts after this, whatever was answered.
    if (kind === "ADDCONTACT") this.#wait("FETCHCONTACT").catch(() => {});
    return answer;
  }

  /** What was received up to a message of this time is kept here; there is no answer. @param {number} timestamp */
  acknowledge(timestamp) {
    if (!this.closed) this.#socket.send(encode("ACKFETCH", { timestamp }, this.token));
  }

  /**
   * Ask something that has a file as its payload.
   * @param {string} kind @param {any} body @param {Blob} file
   * @param {(sent: number) => void} progress @param {AbortSignal} signal
   */
  async upload(kind, body, file, progress, signal) {
    this.#socket.send(encode(kind, body, this.token, file.size));
    const answer = this.#wait(kind);
    let over = false; // it may be refused before all of it is sent
    answer.then(
      () => (over = true),
      () => (over = true),
    );
    let before = 0;
    for (let at = 0; at < file.size && !over;) {
      if (this.#socket.bufferedAmount > HELD) {
        await new Promise((resolve) => setTimeout(resolve, 20));
      } else {
        const part = await file.slice(at, at + SLICE).arrayBuffer();
        if (over) break;
        this.#socket.send(part);
        at += part.byteLength;
      }
      signal.throwIfAborted();
      const sent = at - this.#socket.bufferedAmount;
      if (sent > before) {
        before = sent;
        progress(sent);
        this.#watch();
      }
    }
    return answer;
  }

  /**
   * Ask for a file.
   * @param {string} kind @param {any} body @param {(got: number, size: number) => void} progress
   * @returns {Promise<{body: any, file: Blob}>}
   */
  async download(kind, body, progress) {
    let file = new Blob();
    /** @type {BlobPart[]} */
    let parts = [];
    let got = 0;
    let gathered = 0;
    const gather = () => {
      file = new Blob([file, ...parts]);
      parts = [];
      gathered = got;
    };
    const whole = new Promise((resolve) => {
      this.#sink = (part, left) => {
        this.#watch();
        parts.push(/** @type {BlobPart} */ (part));
        got += part.length;
        if (got - gathered >= GATHERED) gather(); // browsers put large blobs on disk
        progress(got, got + left);
        if (!left) resolve(undefined);
      };
    });
    const answer = await this.ask(kind, body);
    if (answer.size) {
      const gone = this.#wait("");
      gone.catch(() => {});
      await Promise.race([whole, gone]);
    }
    gather();
    return { body: answer, file };
  }

  close() {
    this.#socket.close();
    this.#lost();
  }

  #wait(kind) {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ kind, resolve, reject });
      this.#watch();
    });
  }

  /** Something has moved: from now on there is time again. */
  #watch() {
    clearTimeout(this.#timer);
    if (this.#waiters.length && !this.closed) this.#timer = setTimeout(() => this.close(), PATIENCE);
  }

  #received(data) {
    if (this.closed) return;
    try {
      this.#reader.receive(new Uint8Array(data));
    } catch (error) {
      this.#trouble = String(error);
      this.close();
    }
    this.#watch();
  }

  #answered(answer, _payload) {
    if (answer.response === "TOKEN") {
      this.token = answer.body.tokenid;
      this.onToken(answer.body.tokenid);
      return;
    }
    if (answer.response.startsWith("FORWARD")) {
      this.onPush(answer.response, answer.body);
      return;
    }
    const waiter = this.#waiters[0];
    if (!waiter || (answer.response !== waiter.kind && answer.response !== "UNKNOWN")) {
      if (answer.info) this.#trouble = answer.info;
      return;
    }
    this.#waiters.shift();
    if (answer.status === "OK") waiter.resolve(answer.body);
    else waiter.reject(new Refused(answer.info ?? texts.refused));
  }

  #lost() {
    if (this.closed) return;
    this.closed = true;
    clearTimeout(this.#timer);
    const error = new Lost(this.#trouble || texts.lost);
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
    this.onClose();
  }
}
