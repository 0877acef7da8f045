/** Light or dark: as the system says, unless the person has chosen. */

const THEME = "trigen-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

/** @returns {boolean} */
export function isDark() {
  const chosen = document.documentElement.dataset["theme"];
  return chosen ? chosen === "dark" : system.matches;
}

/** Apply the theme that was chosen on an earlier visit. */
export function restoreTheme() {
  const chosen = localStorage.getItem(THEME);
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset["theme"] = chosen;
}

/** Choose the other theme. */
export function switchTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset["theme"] = theme;
  localStorage.setItem(THEME, theme);
}

/** @param {() => void} listener called when the system's theme changes */
export function onSystemTheme(listener) {
  system.addEventListener("change", listener);
}
