// Light or dark: as the system has it, or as somebody has chosen on this browser.
// The colours themselves are in theme.css.

/** @returns {string} */
export function currentTheme() {
  return document.documentElement.dataset.theme ?? "auto";
}

/** @param {string} theme "auto", "light" or "dark" @param {import("./store.js").Store} [store] keeps it */
export function useTheme(theme, store) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  void store?.set("theme", theme);
}
