// What comes in: kept in this browser, in the order of the mailbox, before it is shown and acknowledged.
// The mailbox is the truth and a push is a hint: after each new connection the mailbox is asked.

import { shown } from "./forms.js";
import { Refused } from "./link.js";

/** Messages asked for at a time. */
const PAGE = 200;
/** A time before all others: tells the server that this device acknowledges by itself. */
const NEVER = -8_640_000_000_000_000;

export class Inbox {
  #client;
  /** @type {any[]} */
  #pushes = [];
  /** The connection whose mailbox is to be asked. @type {import("./link.js").Link | null} */
  #behind = null;
  /** Whether something that came is not kept yet. */
  working = false;

  /** @param {import("./client.js").Client} client */
  constructor(client) {
    this.#client = client;
  }

  /** There is a login on a connection: catch up, if this tab leads. @param {import("./link.js").Link} link */
  begin(link) {
    if (!this.#client.tabs.leads) return;
    link.acknowledge(NEVER);
    this.#behind = link;
    void this.#work();
  }

  /** @param {any} message as it came */
  push(message) {
    this.#pushes.push({ message, link: this.#client.link });
    void this.#work();
  }

  async #work() {
    if (this.working) return;
    this.working = true;
    try {
      while (this.#behind || this.#pushes.length) {
        if (this.#behind) await this.#catchUp(this.#behind);
        else await this.#takePushes();
      }
    } catch (error) {
      // What is not kept must not be acknowledged, nor anything after it: the next connection asks for all again.
      this.#pushes = [];
      this.#client.stumble(/** @type {Error} */ (error));
    } finally {
      this.working = false;
      this.#client.marks.sendSoon();
    }
  }

  async #catchUp(link) {
    this.#behind = null;
    try {
      let more = !link.closed;
      while (more) {
        const answer = await link.ask("FETCHMSG", { limit: PAGE });
        await this.#keep([...answer.messages].reverse());
        if (answer.messages.length) link.acknowledge(answer.messages[0].timestamp);
        more = answer.more;
      }
    } catch (error) {
      if (error instanceof Refused) setTimeout(() => link.closed || this.begin(link), 2000);
      else if (!link.closed) throw error;
    }
  }

  async #takePushes() {
    const pushes = this.#pushes.splice(0);
    await this.#keep(pushes.map((push) => push.message));
    if (!this.#client.tabs.leads) return;
    for (const { message, link } of pushes) link?.acknowledge(message.timestamp);
  }

  async #keep(messages) {
    const client = this.#client;
    const owner = client.me?.userid;
    if (owner === undefined) return;
    const mine = messages.filter((one) => one.userid === owner || one.targetid === owner);
    const added = await client.store.add(mine.map((one) => record(one, owner)));
    if (!added.length) return;
    if (client.tabs.leads) client.marks.got(added);
    client.tabs.tell({ kind: "messages", messages: added });
    client.emit("messages", { messages: added });
  }
}

/** @param {any} wire @param {number} owner @returns {import("./store.js").Message} */
function record(wire, owner) {
  return {
    owner,
    peer: wire.userid === owner ? wire.targetid : wire.userid,
    userid: wire.userid,
    targetid: wire.targetid,
    contenttype: wire.contenttype,
    content: shown(wire.content),
    timestamp: wire.timestamp,
    md5encoded: wire.md5encoded,
    filemd5: wire.filemd5,
    state: "stored",
  };
}
