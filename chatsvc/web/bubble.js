// One message as it is shown: text, a picture or a file, when it was, and how it fares.
// Where it stands in the conversation is known to view_chat.js.

import { el, hidden, icon, iconButton, withLinks } from "./dom.js";
import { fileName, personName } from "./forms.js";
import { pictureUrl } from "./images.js";
import { texts } from "./texts.js";

const ONLY_EMOJI = /^(?:\p{Extended_Pictographic}|\p{Emoji_Modifier}|\u200d|\ufe0f|\s){1,12}$/u;

/** What is drawn for how a message fares. */
const ICONS = /** @type {const} */ ({
  waiting: "clock",
  stored: "check",
  delivered: "checks",
  read: "checks",
  failed: "alert",
});

export class Bubble {
  #client;
  #url = "";
  #state = el("span", { class: "state" });
  #trouble = el("div", { class: "trouble" });
  #transfer = el("div", { class: "transfer" });

  /** @param {import("./client.js").Client} client @param {import("./outbox.js").Outgoing} message */
  constructor(client, message) {
    this.#client = client;
    this.message = message;
    const own = message.userid === message.owner;
    const time = el(
      "time",
      { datetime: new Date(message.timestamp).toISOString() },
      texts.clock(message.timestamp),
    );
    const author = personName(client.people.get(message.userid)?.username ?? "");
    this.element = el(
      "article",
      {
        class: `bubble ${own ? "own" : "other"} ${message.contenttype}`,
        "aria-label": `${author}, ${texts.clock(message.timestamp)}`,
      },
      this.#content(author),
      this.#transfer,
      el("footer", {}, time, own && this.#state),
      own && this.#trouble,
    );
    this.update(message);
  }

  /** How it fares has changed. @param {import("./outbox.js").Outgoing} message */
  update(message) {
    this.message = message;
    const { state } = message;
    this.element.dataset.state = state;
    this.showMark();
    this.#trouble.replaceChildren();
    if (state === "failed") {
      this.#trouble.append(
        el("p", {}, texts.failed(message.why ?? "")),
        el(
          "button",
          { type: "button", class: "small", onclick: () => this.#client.outbox.retry(this.message) },
          texts.retry,
        ),
        el(
          "button",
          { type: "button", class: "small", onclick: () => this.#client.outbox.remove(this.message) },
          texts.remove,
        ),
      );
    }
    this.progress();
  }

  /** Show how far it has come: to the server, to the other one, or not. */
  showMark() {
    const { state } = this.message;
    const mark = (state === "stored" && this.#client.marks.of(this.message)) || state;
    if (this.#state.dataset.mark === mark) return;
    const label = mark === "failed" ? texts.failed("") : texts[mark];
    this.#state.dataset.mark = mark;
    this.#state.title = label;
    this.#state.replaceChildren(icon(ICONS[mark]), hidden(label));
  }

  /** Show how far its file has come. */
  progress() {
    if (this.message.contenttype !== "file") return;
    const seq = Number(this.message.seq);
    const transfer = this.#client.outbox.transfers.get(seq);
    const name = fileName(this.message.content);
    if (!transfer) {
      const download = el(
        "button",
        { type: "button", class: "small", onclick: () => this.#download() },
        texts.download,
        hidden(` ${name}`),
      );
      this.#transfer.replaceChildren(...(this.message.state === "stored" ? [download] : []));
      return;
    }
    let bar = this.#transfer.querySelector("progress");
    if (!bar) {
      bar = el("progress", { max: 1, "aria-label": texts.transferOf(name) });
      const cancel = iconButton("close", texts.cancel, { onclick: () => this.#client.outbox.cancel(seq) });
      this.#transfer.replaceChildren(bar, el("span", { class: "amount" }), cancel);
    }
    bar.value = transfer.size ? transfer.done / transfer.size : 0;
    const amount = `${texts.size(transfer.done)} / ${texts.size(transfer.size)}`;
    /** @type {HTMLElement} */ (this.#transfer.querySelector(".amount")).textContent = amount;
  }

  /** It is shown no more. */
  end() {
    if (this.#url) URL.revokeObjectURL(this.#url);
  }

  /** Whether it has these words, in small letters. @param {string} words */
  has(words) {
    return this.message.contenttype !== "image" && this.message.content.toLowerCase().includes(words);
  }

  #content(author) {
    const { contenttype, content, size } = this.message;
    if (contenttype === "file") {
      const name = el("bdi", { class: "file-name" }, fileName(content));
      return el(
        "div",
        { class: "attachment" },
        icon("file"),
        el("span", {}, name, size !== undefined && el("small", {}, texts.size(size))),
      );
    }
    if (contenttype === "image") return this.#picture(author, content);
    const big = ONLY_EMOJI.test(content) ? "text jumbo" : "text";
    return el("p", { class: big, dir: "auto" }, ...withLinks(content));
  }

  #picture(author, content) {
    const url = pictureUrl(content);
    if (url === null) return el("p", { class: "text quiet" }, texts.pictureBroken);
    this.#url = url;
    const alt = texts.pictureFrom(author);
    const image = el("img", { src: url, alt, draggable: "false" });
    image.onerror = () => image.replaceWith(texts.pictureBroken);
    return el(
      "button",
      { type: "button", class: "picture", title: texts.enlarge, onclick: () => enlarge(url, alt) },
      image,
    );
  }

  async #download() {
    this.#trouble.replaceChildren();
    this.element.querySelector(".note")?.remove();
    try {
      const blob = await this.#client.outbox.download(this.message);
      const url = URL.createObjectURL(new Blob([blob], { type: "application/octet-stream" }));
      el("a", { href: url, download: fileName(this.message.content) }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      const why = /** @type {Error} */ (error).message;
      this.element.append(el("p", { class: "note", role: "alert" }, texts.fileFailed(why)));
    }
  }
}

/** Show a picture as large as the window. @param {string} url @param {string} alt */
function enlarge(url, alt) {
  const dialog = el("dialog", { class: "lightbox", "aria-label": alt });
  dialog.append(
    el("img", { src: url, alt }),
    iconButton("close", texts.close, { onclick: () => dialog.close() }),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
