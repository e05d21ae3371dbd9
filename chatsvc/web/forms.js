// How people's words become the wire's and back: names, contents, passwords, names of messages and of files.
// They are those of the released client and of chatsvc/client/forms.py; what travels in which request is not known here.

import { md5 } from "./md5.js";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** @param {Uint8Array} bytes @returns {string} */
export function toBase64(bytes) {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(binary);
}

/** The bytes behind canonical base64; null if `text` is not that. @param {string} text @returns {Uint8Array | null} */
export function fromBase64(text) {
  if (text.length % 4 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return null;
  try {
    const binary = atob(text);
    const tail = Math.floor(Math.max(binary.length - 1, 0) / 3) * 3;
    // Only in the last group can there be bits that stand for nothing, and are not zero.
    if (text && btoa(binary.slice(tail)) !== text.slice(-4)) return null;
    return Uint8Array.from(binary, (char) => char.charCodeAt(0));
  } catch {
    return null;
  }
}

/** A name or a content as it is sent. @param {string} text @returns {string} */
export function written(text) {
  return toBase64(encoder.encode(text));
}

/** A name or a content as it is shown; what is no base64 of UTF-8 stays as it is. @param {string} wire @returns {string} */
export function shown(wire) {
  const bytes = fromBase64(wire);
  if (bytes === null) return wire;
  try {
    return decoder.decode(bytes);
  } catch {
    return wire;
  }
}

/**
 * A password as it is sent: the released client hashes the low eight bits of each UTF-16 unit.
 * @param {string} password @returns {string}
 */
export function hashed(password) {
  return md5(Uint8Array.from({ length: password.length }, (_, at) => password.charCodeAt(at) & 0xff));
}

/**
 * The name of a message; it covers the low 32 bits of the numbers.
 * @param {string} content @param {number} sender @param {number} receiver @param {number} timestamp ms
 * @returns {string}
 */
export function messageName(content, sender, receiver, timestamp) {
  const text = encoder.encode(content);
  const data = new Uint8Array(text.length + 12);
  data.set(text);
  const numbers = new DataView(data.buffer, text.length);
  [sender, receiver, timestamp].forEach((number, at) => numbers.setUint32(4 * at, number % 2 ** 32, true));
  return md5(data);
}

// What changes the direction of text, or shows nothing: "photo\u202Egpj.exe" would read as a picture's name.
const TRICKS = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** What a file that somebody sent may be called on this machine. @param {string} name @returns {string} */
export function fileName(name) {
  const last = name.replace(TRICKS, "").split(/[/\\]/).pop() ?? "";
  const safe = last.replace(/[<>:"|?*]/g, "_").replace(/^[.\s]+|[.\s]+$/g, "");
  if (safe.length <= 120) return safe || "file";
  const dot = safe.lastIndexOf(".");
  const ending = dot > 0 && safe.length - dot <= 16 ? safe.slice(dot) : "";
  return safe.slice(0, 120 - ending.length) + ending;
}

/** A name of a person, without what would make it look like another's. @param {string} name @returns {string} */
export function personName(name) {
  return name.replace(TRICKS, "").trim() || "\u2026";
}
