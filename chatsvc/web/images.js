// Pictures: which bytes are one, scaling them down before they are sent, and what stands for a person.
// A picture of somebody else only ever gets to the page through a blob: URL of one of four checked types.

import { el } from "./dom.js";
import { fromBase64, personName, toBase64 } from "./forms.js";

/** The longest side of a picture that is sent, in pixels, and of a person's. */
const LARGEST = 1600;
const AVATAR = 256;
/** A small picture is sent as it is, so an animation stays one. */
const SMALL = 300 * 1024;

/** @param {Uint8Array} bytes @returns {string | null} the type of a picture that every browser shows */
export function pictureType(bytes) {
  const starts = (/** @type {number} */ at, /** @type {string} */ text) =>
    [...text].every((char, index) => bytes[at + index] === char.charCodeAt(0));
  if (starts(0, "\x89PNG\r\n\x1a\n")) return "image/png";
  if (starts(0, "\xff\xd8\xff")) return "image/jpeg";
  if (starts(0, "GIF8")) return "image/gif";
  if (starts(0, "RIFF") && starts(8, "WEBP")) return "image/webp";
  return null;
}

/** A blob: URL of a picture in base64; null if it is none. @param {string} base64 @returns {string | null} */
export function pictureUrl(base64) {
  const bytes = fromBase64(base64);
  const type = bytes && pictureType(bytes);
  return bytes && type ? URL.createObjectURL(new Blob([/** @type {BlobPart} */ (bytes)], { type })) : null;
}

/** Whether a file is sent as a picture. @param {File} file */
export function isPicture(file) {
  return /^image\/(png|jpeg|gif|webp|bmp|avif)$/.test(file.type);
}

/**
 * A picture to send, in base64. Throws if the browser cannot read it.
 * @param {File} file @returns {Promise<string>}
 */
export async function forMessage(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && bytes.length <= SMALL && pictureType(bytes)) return toBase64(bytes);
  return drawn(bitmap, 0, 0, bitmap.width, bitmap.height, scale);
}

/** The middle of a picture, for a person, in base64. @param {File} file @returns {Promise<string>} */
export async function forAvatar(file) {
  const bitmap = await createImageBitmap(file);
  const side = Math.min(bitmap.width, bitmap.height);
  return drawn(
    bitmap,
    (bitmap.width - side) / 2,
    (bitmap.height - side) / 2,
    side,
    side,
    Math.min(1, AVATAR / side),
  );
}

async function drawn(bitmap, x, y, width, height, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = "white"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, x, y, width, height, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.85));
  return toBase64(new Uint8Array(await blob.arrayBuffer()));
}

/** URLs of people's pictures, made once each. @type {Map<string, string | null>} */
const avatars = new Map();

/**
 * What stands for a person: the picture, or the first letter.
 * @param {import("./client.js").Person | undefined} person @param {string} [size]
 */
export function avatar(person, size = "") {
  if (person?.avatar) {
    if (!avatars.has(person.avatar)) avatars.set(person.avatar, pictureUrl(person.avatar));
    const url = avatars.get(person.avatar);
    if (url) return el("img", { class: `avatar ${size}`, src: url, alt: "", draggable: "false" });
  }
  const [letter] = person ? personName(person.username) : "?";
  const hue = `hue-${(person?.userid ?? 0) % 6}`;
  return el("span", { class: `avatar letter ${hue} ${size}`, "aria-hidden": "true" }, letter.toUpperCase());
}
