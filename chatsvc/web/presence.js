// Which contacts are there, and when the others were last: as the server tells, and never kept.
// How that looks is not known here; who writes just now is in typing.js.

/** @typedef {{online: boolean, lastseen: number | null}} Whereabouts `lastseen` in ms; null: unknown, or there */

export class Presence {
  #client;
  /** @type {Map<number, Whereabouts>} */
  #users = new Map();

  /** @param {import("./client.js").Client} client */
  constructor(client) {
    this.#client = client;
  }

  /** The body of a push. @param {{users: (Whereabouts & {userid: number})[]}} body */
  heard({ users }) {
    for (const { userid, online, lastseen } of users) this.#users.set(userid, { online, lastseen });
    this.#client.emit("presence");
  }

  /** @param {number} userid @returns {Whereabouts | undefined} nothing if nobody knows */
  of(userid) {
    return this.#users.get(userid);
  }

  /** Without a connection nobody knows. */
  clear() {
    this.#users.clear();
    this.#client.emit("presence");
  }
}
