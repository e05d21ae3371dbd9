// What stands for a person where they may be there or not: the picture with a dot, and where they are in words.
// Who is where is known to presence.js and typing.js.

import { el } from "./dom.js";
import { avatar } from "./images.js";
import { texts } from "./texts.js";

/**
 * A person's picture, with a dot if they are online; a screen reader gets that from the words beside it.
 * @param {import("./client.js").Client} client @param {number} userid @param {string} [size]
 */
export function face(client, userid, size) {
  const dot = client.presence.of(userid)?.online && el("span", { class: "dot", title: texts.online });
  return el("span", { class: "face" }, avatar(client.people.get(userid), size), dot);
}

/**
 * Where a contact is, in words; nothing if nobody knows.
 * @param {import("./client.js").Client} client @param {number} userid
 */
export function whereabouts(client, userid) {
  if (client.typing.writes(userid)) return el("small", { class: "writes" }, texts.writes);
  const found = client.presence.of(userid);
  if (found?.online) return el("small", {}, texts.online);
  return found?.lastseen ? el("small", {}, texts.lastSeen(found.lastseen)) : null;
}
