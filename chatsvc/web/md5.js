// MD5, which the protocol names messages and files by and WebCrypto does not have.
// It is no protection here: what a file is, the server knows by its SHA-256.

const SHIFTS = [7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21];
const SINES = Int32Array.from({ length: 64 }, (_, i) => Math.floor(Math.abs(Math.sin(i + 1)) * 2 ** 32));
/** Bytes of a file that are looked at before the page may do something else. */
const SLICE = 1024 * 1024;

/** The digest of bytes that come bit by bit. */
export class Md5 {
  #state = Int32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476);
  #rest = new Uint8Array(64);
  #held = 0;
  #length = 0;
  #words = new Int32Array(16);

  /** @param {Uint8Array} data @returns {this} */
  update(data) {
    let at = 0;
    this.#length += data.length;
    if (this.#held) {
      at = Math.min(64 - this.#held, data.length);
      this.#rest.set(data.subarray(0, at), this.#held);
      this.#held += at;
      if (this.#held < 64) return this;
      this.#block(this.#rest, 0);
      this.#held = 0;
    }
    for (; at + 64 <= data.length; at += 64) this.#block(data, at);
    this.#rest.set(data.subarray(at), 0);
    this.#held = data.length - at;
    return this;
  }

  /** The digest as 32 hexadecimal digits; nothing may be added after it. @returns {string} */
  hex() {
    const bits = BigInt(this.#length) * 8n;
    const end = new Uint8Array((this.#held < 56 ? 56 : 120) - this.#held + 8);
    end[0] = 0x80;
    new DataView(end.buffer).setBigUint64(end.length - 8, bits, true);
    this.update(end);
    return Array.from(new Uint8Array(this.#state.buffer), (byte) => byte.toString(16).padStart(2, "0")).join(
      "",
    );
  }

  #block(data, at) {
    const words = this.#words;
    for (let i = 0; i < 16; i++, at += 4) {
      words[i] = data[at] | (data[at + 1] << 8) | (data[at + 2] << 16) | (data[at + 3] << 24);
    }
    let [a, b, c, d] = this.#state;
    for (let i = 0; i < 64; i++) {
      let mixed, from;
      if (i < 16) [mixed, from] = [(b & c) | (~b & d), i];
      else if (i < 32) [mixed, from] = [(d & b) | (~d & c), (5 * i + 1) & 15];
      else if (i < 48) [mixed, from] = [b ^ c ^ d, (3 * i + 5) & 15];
      else [mixed, from] = [c ^ (b | ~d), (7 * i) & 15];
      const sum = (a + mixed + SINES[i] + words[from]) | 0;
      const shift = SHIFTS[((i >> 4) << 2) | (i & 3)];
      [a, d, c, b] = [d, c, b, (b + ((sum << shift) | (sum >>> (32 - shift)))) | 0];
    }
    const state = this.#state;
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
  }
}

/** The digest of some bytes. @param {Uint8Array} data @returns {string} */
export function md5(data) {
  return new Md5().update(data).hex();
}

/**
 * The digest of a file, a slice at a time: the page stays responsive.
 * @param {Blob} blob
 * @param {AbortSignal} [signal] ends it early, with the signal's reason
 * @returns {Promise<string>}
 */
export async function md5OfBlob(blob, signal) {
  const digest = new Md5();
  for (let at = 0; at < blob.size; at += SLICE) {
    digest.update(new Uint8Array(await blob.slice(at, at + SLICE).arrayBuffer()));
    signal?.throwIfAborted();
  }
  return digest.hex();
}
