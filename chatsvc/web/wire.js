// Frames of the protocol in its `released` form: two lengths, JSON, and perhaps a payload.
// Bytes go in and come out; where they travel, and what the JSON means, is not known here.

const HEADER = 12;
/** What the server may answer at once: far more than it does. */
const MAX_JSON = 64 * 1024 * 1024;

/**
 * @typedef {object} Answer
 * @property {string} response the type that is answered, or of a push
 * @property {"OK" | "ERR"} status
 * @property {string | null} info why it is an ERR, for a person
 * @property {any} body
 */

/**
 * The header and the JSON of a request; its payload follows.
 * @param {string} request @param {any} body @param {number | null} token @param {number} [payloadLength]
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function encode(request, body, token, payloadLength = 0) {
  const json = new TextEncoder().encode(JSON.stringify({ request, body, tokenid: token }));
  const data = new Uint8Array(HEADER + json.length);
  const view = new DataView(data.buffer);
  view.setInt32(0, json.length, true);
  view.setBigInt64(4, BigInt(payloadLength), true);
  data.set(json, HEADER);
  return data;
}

/** Cuts the stream into answers; parts of a payload are passed on as they come. */
export class FrameReader {
  /** @type {Uint8Array[]} */
  #parts = [];
  #size = 0;
  #need = HEADER;
  #jsonLength = -1;
  #payloadLeft = 0;
  #onAnswer;
  #onPayload;

  /**
   * @param {(answer: Answer, payloadLength: number) => void} onAnswer
   * @param {(part: Uint8Array, left: number) => void} onPayload
   */
  constructor(onAnswer, onPayload) {
    this.#onAnswer = onAnswer;
    this.#onPayload = onPayload;
  }

  /** Bytes have come. Throws if they are no frames. @param {Uint8Array} data */
  receive(data) {
    while (data.length || this.#size >= this.#need) {
      if (this.#payloadLeft) {
        const part = data.subarray(0, this.#payloadLeft);
        data = data.subarray(part.length);
        this.#payloadLeft -= part.length;
        this.#onPayload(part, this.#payloadLeft);
        continue;
      }
      const taken = data.subarray(0, Math.max(this.#need - this.#size, 0));
      data = data.subarray(taken.length);
      this.#parts.push(taken);
      this.#size += taken.length;
      if (this.#size < this.#need) return;
      this.#take(this.#joined());
    }
  }

  #joined() {
    const whole = new Uint8Array(this.#size);
    let at = 0;
    for (const part of this.#parts) {
      whole.set(part, at);
      at += part.length;
    }
    this.#parts = [];
    this.#size = 0;
    return whole;
  }

  #take(bytes) {
    if (this.#jsonLength < 0) {
      const view = new DataView(bytes.buffer);
      this.#jsonLength = view.getInt32(0, true);
      const payload = view.getBigInt64(4, true);
      if (this.#jsonLength <= 0 || this.#jsonLength > MAX_JSON || payload < 0n || payload > 2n ** 52n) {
        throw new Error("The server sent what is no frame.");
      }
      this.#payloadDue = Number(payload);
      this.#need = this.#jsonLength;
      return;
    }
    const answer = JSON.parse(new TextDecoder().decode(bytes));
    this.#jsonLength = -1;
    this.#need = HEADER;
    this.#payloadLeft = this.#payloadDue;
    this.#onAnswer(answer, this.#payloadLeft);
  }

  #payloadDue = 0;
}
