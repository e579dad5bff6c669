/** Light, dark, or as the system has it. The choice is an attribute of the document; the style sheets do the rest. */

import { signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

const NAME = "abaci.theme";
const THEMES: readonly Theme[] = ["system", "light", "dark"];

export const theme = signal<Theme>(storedTheme());

export function chooseTheme(choice: Theme): void {
  theme.value = choice;
  localStorage.setItem(NAME, choice);
  applyTheme();
}

export function nextTheme(): void {
  chooseTheme(THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length] ?? "system");
}

export function applyTheme(): void {
  if (theme.value === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme.value;
}

function storedTheme(): Theme {
  const stored = localStorage.getItem(NAME) as Theme | null;
  return stored && THEMES.includes(stored) ? stored : "system";
}
