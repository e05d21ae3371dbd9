// The first page: log in, or make an account.
// What happens then is the client's matter; main.js shows the chats when somebody is logged in.

import { el, field, icon } from "./dom.js";
import { texts } from "./texts.js";

/** @param {import("./client.js").Client} client @param {string} [notice] @returns {HTMLElement} */
export function loginView(client, notice = "") {
  let registers = false;
  const name = el("input", {
    name: "username",
    autocomplete: "username",
    required: true,
    maxlength: 64,
    dir: "auto",
    autofocus: true,
  });
  const password = el("input", { name: "password", type: "password", required: true, maxlength: 1024 });
  const invite = el("input", { name: "invite", autocomplete: "off", maxlength: 256 });
  const inviteField = field(texts.invite, invite, texts.inviteHint);
  const status = el("p", { class: "form-status", role: "alert" }, notice);
  const submit = el("button", { class: "primary" });
  const other = el("button", { type: "button", class: "link", onclick: () => turn(!registers) });
  const heading = el("h1");
  const form = el(
    "form",
    { class: "card login", onsubmit: enter },
    el("div", { class: "logo" }, icon("chat")),
    heading,
    el("p", { class: "quiet" }, texts.tagline),
    field(texts.name, name),
    field(texts.password, password),
    inviteField,
    status,
    submit,
    other,
  );

  function turn(/** @type {boolean} */ to) {
    registers = to;
    heading.textContent = submit.textContent = registers ? texts.register : texts.logIn;
    other.textContent = registers ? texts.toLogIn : texts.toRegister;
    inviteField.hidden = !registers;
    password.autocomplete = registers ? "new-password" : "current-password";
    status.textContent = "";
  }

  async function enter(/** @type {Event} */ event) {
    event.preventDefault();
    submit.disabled = true;
    status.textContent = texts.oneMoment;
    try {
      if (registers) await client.register(name.value.trim(), password.value, invite.value.trim());
      else await client.login(name.value.trim(), password.value);
    } catch (error) {
      status.textContent = /** @type {Error} */ (error).message;
      password.select();
    } finally {
      submit.disabled = false;
    }
  }

  turn(false);
  status.textContent = notice;
  return el("main", { class: "center" }, form);
}
