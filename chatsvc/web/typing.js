// Who writes to this user just now, and telling others that this user does; of contacts only.
// The text itself stays here until it is sent.

/** Milliseconds for which somebody is said to write, and after which that is said again while it goes on. */
const SHOWN = 6000;
const AGAIN = 4000;

export class Typing {
  #client;
  /** Timers that end it, by who writes. @type {Map<number, number>} */
  #writers = new Map();
  /** Who was told last, and when (ms). */
  #told = { peer: 0, time: 0 };

  /** @param {import("./client.js").Client} client */
  constructor(client) {
    this.#client = client;
  }

  /** The body of a push. @param {{userid: number, typing: boolean}} body */
  heard({ userid, typing }) {
    if (!typing) return this.stop(userid);
    const wrote = this.#writers.has(userid);
    clearTimeout(this.#writers.get(userid));
    this.#writers.set(
      userid,
      setTimeout(() => this.stop(userid), SHOWN),
    );
    if (!wrote) this.#client.emit("presence");
  }

  /** Somebody writes no more, or has sent it. @param {number} userid */
  stop(userid) {
    clearTimeout(this.#writers.get(userid));
    if (this.#writers.delete(userid)) this.#client.emit("presence");
  }

  /** @param {number} userid */
  writes(userid) {
    return this.#writers.has(userid) && this.#client.people.contacts.has(userid);
  }

  clear() {
    for (const userid of [...this.#writers.keys()]) this.stop(userid);
    this.#told.peer = 0;
  }

  /** This user has changed what is not sent yet. @param {number} peer for whom it is @param {string} text */
  typed(peer, text) {
    const { features, people } = this.#client;
    if (!features.has("typing") || !people.contacts.has(peer)) return;
    const now = Date.now();
    const typing = text.trim() !== "";
    const known = this.#told.peer === peer && now - this.#told.time < AGAIN;
    if (typing ? known : this.#told.peer !== peer) return;
    this.#told = { peer: typing ? peer : 0, time: now };
    this.#client.ask("TYPING", { userid: peer, typing }).catch(() => {}); // it matters for a moment only
  }

  /** What was written is sent; who gets it sees that. */
  sent() {
    this.#told.peer = 0;
  }
}
