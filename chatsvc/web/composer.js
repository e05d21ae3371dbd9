// Where one writes: the typing line, emoji, files by button, paste and drop.
// How a message travels is the outbox's matter.

import { el, icon, iconButton } from "./dom.js";
import { forMessage, isPicture } from "./images.js";
import { texts } from "./texts.js";

const EMOJI = [
  ..."\u{1F600}\u{1F604}\u{1F602}\u{1F923}\u{1F60A}\u{1F60D}\u{1F618}\u{1F61C}\u{1F914}\u{1F644}\u{1F60E}\u{1F634}",
  ..."\u{1F622}\u{1F62D}\u{1F631}\u{1F621}\u{1F973}\u{1F917}\u{1F64F}\u{1F44D}\u{1F44E}\u{1F44F}\u{1F44B}\u{1F4AA}",
  ..."\u{2705}\u{274C}\u{2753}\u{1F389}\u{1F381}\u{1F525}\u{2B50}\u{1F31E}\u{2615}\u{1F37A}\u{1F355}\u{1F680}",
];
/** Code units of a message: far under what the server takes. */
const LONGEST = 20_000;

export class Composer {
  #client;
  #outbox;
  #peer;
  #input;
  #status = el("p", { class: "composer-status", role: "alert" });
  #files = el("input", {
    type: "file",
    multiple: true,
    class: "visually-hidden",
    tabindex: "-1",
    "aria-label": texts.attach,
  });
  #emoji;

  /** @param {import("./client.js").Client} client @param {number} peer @param {string} name @param {string} draft */
  constructor(client, peer, name, draft) {
    this.#client = client;
    this.#outbox = client.outbox;
    this.#peer = peer;
    const label = texts.typeHere(name);
    this.#input = el("textarea", {
      rows: 1,
      dir: "auto",
      maxlength: LONGEST,
      placeholder: label,
      "aria-label": label,
      enterkeyhint: "send",
    });
    this.#input.value = draft;
    this.#emoji = el(
      "div",
      { class: "emoji", popover: "auto", id: "emoji" },
      ...EMOJI.map((one) => this.#emojiButton(one)),
    );
    this.#files.onchange = () => {
      void this.attach([...(this.#files.files ?? [])]);
      this.#files.value = "";
    };
    this.element = el(
      "form",
      { class: "composer", onsubmit: (/** @type {Event} */ event) => this.#send(event) },
      this.#status,
      this.#files,
      this.#emoji,
      iconButton("attach", texts.attach, { onclick: () => this.#files.click() }),
      iconButton("smile", texts.emoji, { popovertarget: "emoji", class: "icon-button optional" }),
      this.#input,
      el("button", { class: "send", "aria-label": texts.send, title: texts.send }, icon("send")),
    );
    this.#input.addEventListener("keydown", (event) => this.#key(event));
    this.#input.addEventListener("paste", (event) => this.#pasted(event));
    this.#input.addEventListener("input", () => this.#changed());
  }

  /** What is written and not sent. */
  get draft() {
    return this.#input.value;
  }

  focus() {
    this.#input.focus();
    this.#grow();
  }

  /** Send files; pictures as pictures. @param {File[]} files */
  async attach(files) {
    this.#status.textContent = "";
    for (const file of files) {
      try {
        if (isPicture(file)) {
          await this.#outbox.sendImage(this.#peer, await forMessage(file));
          continue;
        }
      } catch {
        this.#status.textContent = texts.pictureFailed;
      }
      await this.#outbox.sendFile(this.#peer, file);
    }
  }

  /** @param {Event} event */
  async #send(event) {
    event.preventDefault();
    const text = this.#input.value.trim();
    if (!text) return;
    this.#input.value = "";
    this.#grow();
    this.#client.typing.sent();
    await this.#outbox.sendText(this.#peer, text);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.element.requestSubmit();
  }

  /** @param {ClipboardEvent} event */
  #pasted(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    void this.attach(files);
  }

  #changed() {
    this.#grow();
    this.#client.typing.typed(this.#peer, this.#input.value);
  }

  #grow() {
    this.#input.style.height = "auto";
    this.#input.style.height = `${this.#input.scrollHeight}px`;
  }

  #emojiButton(one) {
    const insert = () => {
      this.#input.setRangeText(one, this.#input.selectionStart, this.#input.selectionEnd, "end");
      this.#emoji.hidePopover();
      this.focus();
      this.#changed();
    };
    return el("button", { type: "button", onclick: insert }, one);
  }
}
