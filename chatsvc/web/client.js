// Who is logged in on this page, and the connection that all its parts share: made again whenever it is lost.
// What comes in is the matter of inbox.js, what goes out of outbox.js, and who people are of people.js;
// presence.js, typing.js and marks.js have what only servers with these features tell.

import { hashed, shown, written } from "./forms.js";
import { Inbox } from "./inbox.js";
import { Link, Lost, Refused } from "./link.js";
import { Marks } from "./marks.js";
import { Outbox } from "./outbox.js";
import { People } from "./people.js";
import { Presence } from "./presence.js";
import { texts } from "./texts.js";
import { Typing } from "./typing.js";

/** Milliseconds before the first attempt to connect again, and at most. */
const RETRY = [500, 30_000];
const NOT_LOGGED_IN = "User not logged in";
/** What this page asks for beyond what every client gets (docs/protocol.md section 5.3). */
const FEATURES = ["contacts", "marks", "presence", "typing"];

/**
 * @typedef {object} Person
 * @property {number} userid
 * @property {string} username as it is shown
 * @property {string | null} avatar base64 of a picture
 */

/** @param {any} wire @returns {Person} */
export function person(wire) {
  return { userid: wire.userid, username: shown(wire.username), avatar: wire.avatar };
}

/**
 * Its events are all named "change"; their `detail.what` says what has: "status", "me", "people", "presence" (who is
 * there, or writes), "messages" (with `detail.messages`), "changed", "progress" or "removed" (of `detail.message`),
 * "marks" or "read" (of a conversation), or "request" (`detail.person` wants to be a contact).
 */
export class Client extends EventTarget {
  /** @type {Link | null} */
  link = null;
  /** @type {Person | null} */
  me = null;
  /** @type {number | null} */
  token = null;
  /** Whether there is a connection on which everything can be asked. */
  online = false;
  /** Why there is none, in a sentence. */
  trouble = "";
  /** Which of the features the server has. @type {Set<string>} */
  features = new Set();
  #failures = 0;
  #timer = 0;

  /**
   * @param {import("./store.js").Store} store @param {import("./tabs.js").Tabs} tabs
   * @param {string} address of the WebSocket
   */
  constructor(store, tabs, address) {
    super();
    this.store = store;
    this.tabs = tabs;
    this.address = address;
    this.people = new People(this);
    this.inbox = new Inbox(this);
    this.outbox = new Outbox(this);
    this.presence = new Presence(this);
    this.typing = new Typing(this);
    this.marks = new Marks(this);
  }

  /** Show who was logged in, and connect. */
  async start() {
    const session = await this.store.get("session");
    if (session) {
      this.token = session.token;
      this.me = session.me;
      await this.people.load();
    }
    await this.marks.load();
    this.tabs.lead(() => this.#begin());
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
    void this.#connect();
  }

  /** What came in cannot be kept: go on when there may be room, from where this page was. @param {Error} error */
  stumble(error) {
    this.trouble = `${texts.notKept} (${error.message})`;
    this.#failures += 4;
    this.link?.close();
  }

  /** @param {string} what @param {object} [more] */
  emit(what, more = {}) {
    this.dispatchEvent(new CustomEvent("change", { detail: { what, ...more } }));
  }

  /** Ask the server on the shared connection. @param {string} kind @param {any} [body] @returns {Promise<any>} */
  async ask(kind, body = null) {
    const link = this.link;
    if (!link || !this.online) throw new Lost(texts.lost);
    try {
      return await link.ask(kind, body);
    } catch (error) {
      if (error instanceof Refused && error.message === NOT_LOGGED_IN && link === this.link)
        await this.#ended();
      throw error;
    }
  }

  /**
   * A connection of its own, for a file: nothing else has to wait for that.
   * @param {AbortSignal} signal cuts it @returns {Promise<Link>}
   */
  async dial(signal) {
    signal.throwIfAborted();
    const link = new Link(this.address, this.token);
    signal.addEventListener("abort", () => link.close(), { once: true });
    await link.opened;
    return link;
  }

  // Accounts.

  /** @param {string} name @param {string} password @param {string} [invite] */
  register(name, password, invite) {
    return this.#enter("REGISTER", name, password, invite ? { invite } : {});
  }

  /** @param {string} name @param {string} password */
  login(name, password) {
    return this.#enter("LOGIN", name, password, {});
  }

  /** Log out, and forget all that this browser has kept. */
  async logout() {
    await this.ask("LOGOUT");
    await this.#forget();
  }

  /** @param {{username?: string, avatar?: string | null}} change */
  async changeProfile(change) {
    const body = change.username === undefined ? change : { ...change, username: written(change.username) };
    this.me = person(await this.ask("MODIFYPROFILE", body));
    await this.store.set("session", { token: this.token, me: this.me });
    this.emit("me");
  }

  /** @param {string} old @param {string} fresh */
  async changePassword(old, fresh) {
    await this.ask("MODIFYPASSWD", { passwd: hashed(old), newPasswd: hashed(fresh) });
  }

  async #enter(kind, name, password, more) {
    const body = { username: written(name), passwd: hashed(password), ...more };
    const me = person(await this.ask(kind, body));
    this.me = me;
    this.token = /** @type {Link} */ (this.link).token;
    await this.store.set("session", { token: this.token, me });
    this.tabs.tell({ kind: "session" });
    this.emit("me");
    await this.#askFeatures(/** @type {Link} */ (this.link)).catch(() => {}); // the next connection asks again
    this.#begin();
  }

  /** The login was ended from elsewhere: a new password, or the operator. */
  async #ended() {
    if (this.me) await this.#forget();
  }

  async #forget() {
    this.me = this.token = null;
    await this.store.clear();
    this.tabs.tell({ kind: "session" });
    this.people.clear();
    this.marks.clear();
    this.emit("me");
    this.link?.close(); // the next connection is that of a new device, which gets the whole history
  }

  // The connection.

  async #connect() {
    clearTimeout(this.#timer);
    const link = (this.link = new Link(this.address, this.token));
    link.onClose = () => this.#closed();
    link.onPush = (kind, body) => this.#pushed(kind, body);
    try {
      await link.opened;
      if (this.me) await this.#resume(link);
      if (link.closed) return;
      this.online = true;
      this.trouble = "";
      this.emit("status");
      this.#begin();
    } catch (error) {
      this.trouble = /** @type {Error} */ (error).message;
      link.close();
    }
  }

  async #resume(link) {
    try {
      this.me = person(await this.#askFeatures(link));
      await this.store.set("session", { token: link.token, me: this.me });
      this.emit("me");
    } catch (error) {
      if (!(error instanceof Refused) || error.message !== NOT_LOGGED_IN) throw error;
      await this.#ended();
    }
  }

  /** Ask who is logged in, and for the features, which a server may not have. @param {Link} link */
  async #askFeatures(link) {
    const told = await link.ask("STATE", { features: FEATURES });
    this.features = new Set(told.features);
    return told;
  }

  /** @param {string} kind @param {any} body */
  #pushed(kind, body) {
    if (kind === "FORWARDMSG") this.inbox.push(body);
    else if (kind === "FORWARDPRESENCE") this.presence.heard(body);
    else if (kind === "FORWARDTYPING") this.typing.heard(body);
    else if (kind === "FORWARDMARK") void this.marks.heard(body);
    else if (kind === "FORWARDCONTACT") void this.people.heard(body);
  }

  /** Logged in on a connection, or at the head of the tabs: catch up. */
  #begin() {
    if (!this.online || !this.me || !this.link) return;
    this.inbox.begin(this.link);
    this.#failures = 0;
    void this.people.refresh();
    void this.outbox.resume();
    this.marks.sendSoon();
  }

  #closed() {
    const was = this.online;
    this.online = false;
    this.link = null;
    this.presence.clear();
    this.typing.clear();
    const most = Math.min(RETRY[1], RETRY[0] * 2 ** this.#failures++);
    const delay = Math.max(RETRY[0], most * (0.5 + Math.random() / 2));
    this.#timer = setTimeout(() => this.#connect(), this.me || !was ? delay : 0);
    this.emit("status");
  }

  /** There is reason to hope: do not wait for the next attempt. */
  #hurry() {
    if (!this.link) void this.#connect();
  }
}
