/** Parts that both pages show: the theme button and the question for a key. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { keyQuestion } from "./api.ts";
import { sentence } from "./format.ts";
import { Icon, type IconName } from "./icons.tsx";
import { nextTheme, theme, type Theme } from "./theme.ts";

export function IconButton(props: {
  icon: IconName;
  label: string;
  onClick(event: MouseEvent): void;
  disabled?: boolean;
  class?: string;
  expanded?: boolean;
}) {
  return (
    <button
      type="button"
      class={`icon-button ${props.class ?? ""}`}
      aria-label={props.label}
      title={props.label}
      disabled={props.disabled ?? false}
      aria-expanded={props.expanded}
      onClick={props.onClick}
    >
      <Icon name={props.icon} />
    </button>
  );
}

const THEME_NAMES: Record<Theme, string> = { system: "as the system", light: "light", dark: "dark" };

export function ThemeButton() {
  return <IconButton icon={theme.value} label={`Colours: ${THEME_NAMES[theme.value]}`} onClick={nextTheme} class="theme-button" />;
}

export function KeyDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const key = useSignal("");
  const question = keyQuestion.value;

  useEffect(() => {
    if (question && !dialog.current?.open) dialog.current?.showModal();
    if (!question) dialog.current?.close();
  }, [question]);

  function submit(event: Event): void {
    event.preventDefault();
    if (key.value.trim() === "") return;
    question?.answer(key.value.trim());
    key.value = "";
  }

  return (
    <dialog ref={dialog} class="dialog" aria-labelledby="key-title" onCancel={() => question?.answer(null)}>
      <form onSubmit={submit}>
        <h2 id="key-title">This server asks for a key</h2>
        <p class="soft">{sentence(question?.reason ?? "")}</p>
        <label class="field">
          <span>API key</span>
          <input
            type="password"
            autocomplete="off"
            spellcheck={false}
            value={key.value}
            onInput={(event) => (key.value = event.currentTarget.value)}
          />
        </label>
        <p class="soft small">
          It stays in this browser. Whoever runs the server makes one with <code>abaci key create</code>.
        </p>
        <div class="dialog-actions">
          <button type="button" class="button" onClick={() => question?.answer(null)}>
            Not now
          </button>
          <button type="submit" class="button primary" disabled={key.value.trim() === ""}>
            Use this key
          </button>
        </div>
      </form>
    </dialog>
  );
}
