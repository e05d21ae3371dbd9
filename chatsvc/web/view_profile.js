// The profile: picture, name, password, how the page looks, notifications, logging out.
// What each of them does is the client's matter, or the browser's.

import { el, field, iconButton } from "./dom.js";
import { avatar, forAvatar } from "./images.js";
import { texts } from "./texts.js";
import { currentTheme, useTheme } from "./theme.js";
import { blockedSection, readSection } from "./view_relation.js";

/** @param {import("./client.js").Client} client */
export function showProfile(client) {
  const status = el("p", { class: "form-status", role: "status" });
  const dialog = el("dialog", { class: "card profile", "aria-labelledby": "profile-title" });

  /** Do something and say how it went. @param {() => Promise<void>} work @param {string} [success] */
  async function attempt(work, success = texts.saved) {
    status.textContent = texts.oneMoment;
    try {
      await work();
      status.textContent = success;
    } catch (error) {
      status.textContent = /** @type {Error} */ (error).message;
    }
  }

  dialog.append(
    el(
      "header",
      {},
      el("h2", { id: "profile-title" }, texts.profile),
      iconButton("close", texts.close, { onclick: () => dialog.close() }),
    ),
    pictureSection(client, attempt),
    nameSection(client, attempt),
    passwordSection(client, attempt),
    themeSection(client),
    notificationSection(),
    ...(client.features.has("marks") ? [readSection(client)] : []),
    ...(client.features.has("contacts") ? [blockedSection(client, attempt)] : []),
    status,
    el(
      "section",
      { class: "log-out" },
      el(
        "button",
        {
          type: "button",
          class: "danger",
          onclick: () =>
            attempt(async () => {
              await client.logout();
              dialog.close();
            }, ""),
        },
        texts.logOut,
      ),
      el("small", { class: "quiet" }, texts.logOutHint),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function pictureSection(client, attempt) {
  const place = el("div");
  const show = () => place.replaceChildren(avatar(client.me ?? undefined, "large"));
  const input = el("input", {
    type: "file",
    accept: "image/*",
    class: "visually-hidden",
    tabindex: "-1",
    "aria-label": texts.changePicture,
  });
  input.onchange = () => {
    const [file] = input.files ?? [];
    if (file)
      void attempt(async () => {
        await client.changeProfile({ avatar: await forAvatar(file) });
        show();
      });
  };
  const remove = () =>
    attempt(async () => {
      await client.changeProfile({ avatar: null });
      show();
    });
  show();
  return el(
    "section",
    { class: "picture-section" },
    place,
    input,
    el("button", { type: "button", class: "small", onclick: () => input.click() }, texts.changePicture),
    el("button", { type: "button", class: "small", onclick: remove }, texts.removePicture),
  );
}

function nameSection(client, attempt) {
  const name = el("input", { name: "name", required: true, maxlength: 64, dir: "auto", autocomplete: "off" });
  name.value = client.me?.username ?? "";
  const save = (/** @type {Event} */ event) => {
    event.preventDefault();
    void attempt(() => client.changeProfile({ username: name.value.trim() }));
  };
  return el(
    "form",
    { onsubmit: save },
    field(texts.name, name),
    el("button", { class: "small" }, texts.changeName),
  );
}

function passwordSection(client, attempt) {
  const old = el("input", { type: "password", required: true, autocomplete: "current-password" });
  const fresh = el("input", {
    type: "password",
    required: true,
    autocomplete: "new-password",
    maxlength: 1024,
  });
  const form = el(
    "form",
    {
      onsubmit: (/** @type {Event} */ event) => {
        event.preventDefault();
        void attempt(async () => {
          await client.changePassword(old.value, fresh.value);
          form.reset();
        }, texts.passwordChanged);
      },
    },
    field(texts.oldPassword, old),
    field(texts.newPassword, fresh),
    el("button", { class: "small" }, texts.changePassword),
  );
  return form;
}

function themeSection(client) {
  const choices = Object.entries(texts.themes).map(([theme, label]) => {
    const input = el("input", {
      type: "radio",
      name: "theme",
      value: theme,
      onchange: () => useTheme(theme, client.store),
    });
    input.checked = theme === currentTheme();
    return el("label", {}, input, label);
  });
  return el("fieldset", { class: "choices" }, el("legend", {}, texts.appearance), ...choices);
}

function notificationSection() {
  const place = el("section", {}, el("h3", {}, texts.notifications));
  const say = el("p", { class: "quiet" });
  const ask = el(
    "button",
    {
      type: "button",
      class: "small",
      onclick: async () => {
        await Notification.requestPermission();
        show();
      },
    },
    texts.allowNotifications,
  );
  function show() {
    const permission = "Notification" in globalThis ? Notification.permission : "denied";
    say.textContent =
      permission === "granted"
        ? texts.notificationsAllowed
        : permission === "denied"
          ? texts.notificationsDenied
          : "";
    ask.hidden = permission !== "default";
  }
  show();
  place.append(say, ask);
  return place;
}
