/** The theme, dark or light: that of the system, unless the reader chose one. */

const KEY = "pivot-theme";
type Theme = "dark" | "light";

const chosen = (): Theme | null => {
  const value = localStorage.getItem(KEY);
  return value === "dark" || value === "light" ? value : null;
};
const system = (): Theme => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

/** Apply the choice of an earlier visit. `toggle` changes it. */
export function setUpTheme(toggle: HTMLElement): void {
  const apply = (): void => {
    const theme = chosen();
    if (theme) document.documentElement.dataset.theme = theme;
    toggle.setAttribute("aria-pressed", String((theme ?? system()) === "dark"));
  };
  toggle.addEventListener("click", () => {
    localStorage.setItem(KEY, (chosen() ?? system()) === "dark" ? "light" : "dark");
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}
