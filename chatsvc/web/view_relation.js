// What one can do about others: the menu of a conversation, and in the profile who is blocked and what all are told.
// What a relation is, is known to people.js, and what is told to marks.js.

import { confirm } from "./confirm.js";
import { el, iconButton } from "./dom.js";
import { personName } from "./forms.js";
import { avatar } from "./images.js";
import { texts } from "./texts.js";

/**
 * The menu of a conversation: the button that opens it, and what is in it then.
 * @param {import("./client.js").Client} client @param {number} peer @param {() => string} name of the other one
 */
export function relationMenu(client, peer, name) {
  const menu = el("div", { class: "menu", popover: "auto", id: "menu", onbeforetoggle: open });
  const { people } = client;

  /** @param {string} action @param {{title: string, text: string, work: () => Promise<unknown>}} question */
  function item(action, question) {
    const ask = () => {
      menu.hidePopover();
      confirm({ action, ...question });
    };
    return el("button", { type: "button", onclick: ask }, action);
  }

  /** @param {ToggleEvent} event */
  function open(event) {
    if (event.newState !== "open") return;
    const remove = { text: texts.removeMeans, work: () => people.remove(peer) };
    const block = { title: texts.blockWhom(name()), text: texts.blockMeans, work: () => people.block(peer) };
    menu.replaceChildren(item(texts.block, block));
    if (people.contacts.has(peer))
      menu.prepend(item(texts.removeContact, { ...remove, title: texts.removeWhom(name()) }));
    else if (people.pending.has(peer))
      menu.prepend(
        item(texts.withdraw, { ...remove, title: texts.withdrawFrom(name()), text: texts.withdrawMeans }),
      );
  }

  const opener = iconButton("more", texts.more, { popovertarget: "menu", class: "icon-button more" });
  return el("div", { class: "menu-place" }, opener, menu);
}

/**
 * Who is blocked, in the profile.
 * @param {import("./client.js").Client} client
 * @param {(work: () => Promise<void>) => Promise<void>} attempt does something and says how it went
 */
export function blockedSection(client, attempt) {
  const place = el("section", { "aria-labelledby": "blocked-title" });
  const heading = el("h3", { id: "blocked-title", tabindex: "-1" }, texts.blocked);
  function show() {
    const rows = [...client.people.blocked].map((id) => {
      const name = personName(client.people.get(id)?.username ?? "");
      const unblock = () =>
        attempt(async () => {
          await client.people.unblock(id);
          show();
          heading.focus(); // the button is gone
        });
      return el(
        "div",
        { class: "person-row" },
        avatar(client.people.get(id), "small"),
        el("bdi", { class: "entry-name" }, name),
        el(
          "button",
          { type: "button", class: "small", "aria-label": texts.unblockWhom(name), onclick: unblock },
          texts.unblock,
        ),
      );
    });
    const nobody = el("p", { class: "quiet" }, texts.nobodyBlocked);
    place.replaceChildren(heading, ...(rows.length ? rows : [nobody]));
  }
  show();
  return place;
}

/** Whether others are told what one has read, in the profile. @param {import("./client.js").Client} client */
export function readSection(client) {
  const input = el("input", {
    type: "checkbox",
    "aria-describedby": "read-means",
    onchange: () => client.marks.setTellsRead(input.checked),
  });
  void client.marks.tellsRead().then((tells) => (input.checked = tells));
  return el(
    "section",
    {},
    el("h3", {}, texts.privacy),
    el("label", { class: "choice" }, input, texts.tellRead),
    el("small", { id: "read-means" }, texts.tellReadMeans),
  );
}
