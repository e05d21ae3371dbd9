// Every word that the page says, in English; a translation replaces this module.
// What other people write, and what the server says went wrong, is not here.

const language = "en";
const day = new Intl.DateTimeFormat(language, { weekday: "long", day: "numeric", month: "long" });
const dayAndYear = new Intl.DateTimeFormat(language, { day: "numeric", month: "long", year: "numeric" });
const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hour12: false });
const date = new Intl.DateTimeFormat(language, { day: "numeric", month: "long" });
const short = new Intl.DateTimeFormat(language, { day: "numeric", month: "short" });
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });

/** Whole days from `date` to today. @param {Date} date */
function daysAgo(date) {
  const midnight = (/** @type {Date} */ of) =>
    new Date(of.getFullYear(), of.getMonth(), of.getDate()).getTime();
  return Math.round((midnight(new Date()) - midnight(date)) / 86_400_000);
}

/** @param {string} text */
const capital = (text) => text[0].toUpperCase() + text.slice(1);

export const texts = {
  app: "Chat",
  tagline: "Your own place to talk.",

  // Logging in.
  logIn: "Log in",
  register: "Create account",
  toRegister: "New here? Create an account",
  toLogIn: "Have an account? Log in",
  name: "Name",
  password: "Password",
  invite: "Invite code",
  inviteHint: "Only if this server asks for one",
  showPassword: "Show password",
  oneMoment: "One moment\u2026",
  loggedOut: "You are logged out.",

  // The list.
  chats: "Chats",
  find: "Search, or add someone by name",
  findPerson: (name) => `Find a person named \u201c${name}\u201d`,
  add: "Add",
  accept: "Accept",
  message: "Message",
  requests: "Want to be in your contacts",
  people: "Conversations and contacts",
  asked: "Has not answered your request yet",
  noMessages: "No messages yet",
  nobody: "Nobody here yet. Type a name above to find someone.",
  you: (text) => `You: ${text}`,
  picture: "Picture",
  file: (name) => `File: ${name}`,
  unread: (count) => `${count} unread`,
  decline: (name) => `Decline ${name}`,
  wants: "Wants to be in your contacts",
  profile: "Profile and settings",

  // A conversation.
  choose: "Choose a conversation, or find someone by name.",
  back: "Back to the list",
  conversationWith: (name) => `Conversation with ${name}`,
  notes: "Notes to yourself",
  stranger: "Not in your contacts",
  typeHere: (name) => `Message ${name}`,
  send: "Send",
  attach: "Attach files",
  emoji: "Emoji",
  dropHere: "Drop to send",
  newMessages: "Go to the newest message",
  says: (name, what) => `${name}: ${what}`,
  pictureFrom: (name) => `Picture from ${name}`,
  pictureBroken: "A picture that this browser cannot show.",
  enlarge: "Show larger",
  close: "Close",
  searchHere: "Search in this conversation",
  searchFound: (count) => (count === 1 ? "1 message found" : `${count} messages found`),
  start: "This is the beginning of your conversation.",

  // Where people are.
  online: "online",
  writes: "writes\u2026",
  /** @param {number} time ms */
  lastSeen(time) {
    const then = new Date(time);
    const ago = daysAgo(then);
    if (ago <= 0) return `last seen ${relative.format(0, "day")} at ${clock.format(time)}`;
    if (ago === 1) return `last seen ${relative.format(-1, "day")}`;
    const isThisYear = then.getFullYear() === new Date().getFullYear();
    return `last seen on ${(isThisYear ? date : dayAndYear).format(time)}`;
  },

  // Contacts that are none any more.
  more: "More",
  removeContact: "Remove from contacts",
  removeWhom: (name) => `Remove ${name}?`,
  removeMeans:
    "You will be in each other\u2019s contacts no more. Your messages stay, and you can ask again.",
  withdraw: "Withdraw request",
  withdrawFrom: (name) => `Withdraw your request to ${name}?`,
  withdrawMeans: "You can ask again at any time.",
  block: "Block",
  blockWhom: (name) => `Block ${name}?`,
  blockMeans:
    "You will get no messages and no requests from this person, and neither of you sees whether the other is there. " +
    "You can unblock them in your profile.",
  blocked: "Blocked people",
  nobodyBlocked: "You have blocked nobody.",
  unblock: "Unblock",
  unblockWhom: (name) => `Unblock ${name}`,

  // How a message fares.
  waiting: "Sending",
  stored: "Sent",
  delivered: "Delivered",
  read: "Read",
  failed: (why) => `Not sent. ${why}`,
  retry: "Try again",
  remove: "Remove",
  download: "Download",
  cancel: "Cancel",
  cancelled: "Cancelled.",
  transferOf: (name) => `Transfer of ${name}`,
  fileGone: "The file is not there any more. Attach it again.",
  fileBroken: "The file has arrived damaged. Try again.",
  fileFailed: (why) => `The file could not be fetched. ${why}`,
  pictureFailed: "This picture cannot be read by your browser; it is sent as a file.",
  unnamedFile: "file",

  // Profile.
  picturesLabel: "Your picture",
  changePicture: "Change picture",
  removePicture: "Remove picture",
  changeName: "Change name",
  save: "Save",
  saved: "Saved.",
  changePassword: "Change password",
  oldPassword: "Current password",
  newPassword: "New password",
  passwordChanged: "Your password is changed. Your other devices are logged out.",
  appearance: "Appearance",
  themes: { auto: "As the system", light: "Light", dark: "Dark" },
  privacy: "Privacy",
  tellRead: "Tell others when I have read",
  tellReadMeans:
    "Otherwise your contacts see that messages have come, but not that you have read them, and your other devices go on " +
    "to count those as unread.",
  notifications: "Notifications",
  allowNotifications: "Notify me of new messages",
  notificationsAllowed: "You are notified when this page is hidden.",
  notificationsDenied: "Your browser does not allow notifications for this page.",
  logOut: "Log out",
  logOutHint: "Messages are removed from this browser. They stay on the server.",

  // Trouble.
  offline: "No connection. What you write is sent as soon as there is one.",
  connecting: "Connecting\u2026",
  lost: "The connection to the server was lost.",
  refused: "The server has refused that.",
  notKept: "This browser has no room for what came in",
  noStorage:
    "This browser does not let the page keep anything, so it cannot work. Private windows often do that.",
  elsewhere: "You were logged out, here or elsewhere.",

  // Times and sizes.
  /** @param {number} time ms */
  clock: (time) => clock.format(time),
  /** @param {number} time ms */
  day(time) {
    const date = new Date(time);
    const ago = daysAgo(date);
    if (ago === 0 || ago === 1) return capital(relative.format(-ago, "day"));
    return date.getFullYear() === new Date().getFullYear() ? day.format(date) : dayAndYear.format(date);
  },
  /** @param {number} time ms */
  shortTime: (time) => (daysAgo(new Date(time)) === 0 ? clock.format(time) : short.format(time)),
  /** @param {number} bytes */
  size(bytes) {
    const units = ["B", "KiB", "MiB", "GiB"];
    const unit = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), 3);
    const value = bytes / 1024 ** unit;
    return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
  },
};
