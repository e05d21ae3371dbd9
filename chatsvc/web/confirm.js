// A dialog that asks before something is done, does it, and says what went wrong.
// What is asked about is said by who opens it.

import { el } from "./dom.js";
import { texts } from "./texts.js";

/**
 * Ask; the dialog closes when it is done, or is not to be done.
 * @param {{title: string, text: string, action: string, work: () => Promise<unknown>}} question
 */
export function confirm({ title, text, action, work }) {
  const status = el("p", { class: "form-status", role: "alert" });
  const dialog = el(
    "dialog",
    {
      class: "card confirm",
      role: "alertdialog",
      "aria-labelledby": "ask-title",
      "aria-describedby": "ask-text",
    },
    el("h2", { id: "ask-title" }, el("bdi", {}, title)),
    el("p", { id: "ask-text" }, text),
    status,
  );
  const act = el("button", { type: "button", class: "danger", onclick: perform }, action);
  const cancel = el(
    "button",
    { type: "button", autofocus: true, onclick: () => dialog.close() },
    texts.cancel,
  );
  dialog.append(el("div", { class: "confirm-buttons" }, cancel, act));

  async function perform() {
    act.disabled = true;
    try {
      await work();
      dialog.close();
    } catch (error) {
      status.textContent = /** @type {Error} */ (error).message;
      act.disabled = false;
    }
  }

  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
