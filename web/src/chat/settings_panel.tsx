/** How the model is asked: its instructions, how it draws its words, the tools it may call. Kept for the next conversation. */

import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { storeKey, storedKey } from "../shared/api.ts";
import { IconButton } from "../shared/controls.tsx";
import { download } from "../shared/download.ts";
import { plural } from "../shared/format.ts";
import { useSession } from "./context.ts";
import { asJson, fromJson } from "./export.ts";
import { isChanged, NO_SETTINGS, NUMBER_SETTINGS, parseTools, type NumberSetting, type Settings } from "./settings.ts";

export function SettingsPanel({ onClose }: { onClose(): void }) {
  const session = useSession();
  const settings = session.settings.value;
  const change = (changed: Partial<Settings>) => session.changeSettings(changed);
  const kept = { systemPrompt: settings.systemPrompt, tools: settings.tools };
  return (
    <aside class="settings" aria-label="Settings">
      <div class="settings-head">
        <h2>Settings</h2>
        <IconButton icon="close" label="Close settings" onClick={onClose} />
      </div>
      <div class="settings-body">
        <label class="field">
          <span>System prompt</span>
          <textarea
            rows={5}
            placeholder="Who the model should be, and how it should answer"
            value={settings.systemPrompt}
            onInput={(event) => change({ systemPrompt: event.currentTarget.value })}
          />
        </label>

        <section>
          <div class="section-head">
            <h3>Sampling</h3>
            {isChanged({ ...settings, systemPrompt: "", tools: "" }) && (
              <button type="button" class="link-button" onClick={() => change({ ...NO_SETTINGS, ...kept })}>
                As the model likes
              </button>
            )}
          </div>
          {NUMBER_SETTINGS.map((setting) => (
            <NumberField key={setting.key} setting={setting} value={settings[setting.key]} onChange={(value) => change({ [setting.key]: value })} />
          ))}
          <label class="number-field">
            <span>Thinking</span>
            <select
              value={settings.reasoningEffort ?? ""}
              onChange={(event) => change({ reasoningEffort: event.currentTarget.value || null })}
            >
              <option value="">model’s own</option>
              <option value="none">off</option>
              <option value="low">a little</option>
              <option value="medium">some</option>
              <option value="high">a lot</option>
            </select>
          </label>
        </section>

        <ToolsField text={settings.tools} onChange={(tools) => change({ tools })} />

        <section class="keyboard">
          <h3>Keyboard</h3>
          <dl class="keys">
            {KEYS.map(([keys, meaning]) => (
              <>
                <dt>
                  <kbd>{keys}</kbd>
                </dt>
                <dd>{meaning}</dd>
              </>
            ))}
          </dl>
        </section>

        <StoredData />
      </div>
    </aside>
  );
}

const KEYS: readonly (readonly [string, string])[] = [
  ["Enter", "send"],
  ["Shift Enter", "new line"],
  ["Esc", "stop the answer"],
  ["↑", "edit your last message"],
  ["/", "write"],
  ["Ctrl K", "new chat"],
];

function NumberField({ setting, value, onChange }: { setting: NumberSetting; value: number | null; onChange(value: number | null): void }) {
  const { label, explanation, minimum, maximum, step, sliderStart } = setting;
  const read = (input: HTMLInputElement) => {
    if (input.value === "") onChange(null);
    else if (input.validity.valid || input.validity.stepMismatch) onChange(input.valueAsNumber);
  };
  return (
    <label class="number-field" title={explanation}>
      <span>{label}</span>
      {sliderStart !== undefined && (
        <input
          type="range"
          aria-label={label}
          class={value === null ? "unset" : ""}
          min={minimum}
          max={maximum}
          step={step}
          value={value ?? sliderStart}
          onInput={(event) => onChange(event.currentTarget.valueAsNumber)}
        />
      )}
      <input
        type="number"
        aria-label={label}
        placeholder="auto"
        min={minimum}
        max={maximum}
        step={step}
        value={value ?? ""}
        onInput={(event) => read(event.currentTarget)}
      />
    </label>
  );
}

function ToolsField({ text, onChange }: { text: string; onChange(text: string): void }) {
  return (
    <details class="field" open={text.trim() !== ""}>
      <summary>
        <h3>Tools</h3>
      </summary>
      <label>
        <span class="soft small">Functions the model may call, as a JSON list. You answer its calls by hand.</span>
        <textarea
          class="mono"
          rows={6}
          spellcheck={false}
          placeholder={'[{"name": "weather",\n  "parameters": {"type": "object",\n    "properties": {"city": {"type": "string"}}}}]'}
          value={text}
          aria-invalid={toolsError(text) !== null}
          onInput={(event) => onChange(event.currentTarget.value)}
        />
      </label>
      {toolsError(text) && <p class="danger-text small">{toolsError(text)}</p>}
    </details>
  );
}

function toolsError(text: string): string | null {
  try {
    parseTools(text);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function StoredData() {
  const session = useSession();
  const isSure = useSignal(false);
  const hasKey = useSignal(storedKey() !== null);
  const chooser = useRef<HTMLInputElement>(null);
  const hasNothing = session.conversations.value.length === 0;

  async function importFrom(file: File | undefined): Promise<void> {
    if (!file) return;
    try {
      const conversations = fromJson(await file.text());
      await session.importAll(conversations);
      session.tell({ text: `${plural(conversations.length, "conversation")} imported.` });
    } catch (error) {
      session.tell({ text: error instanceof Error ? error.message : String(error) });
    }
  }

  async function exportAll(): Promise<void> {
    download("conversations.json", new Blob([asJson(await session.exportAll())], { type: "application/json" }));
  }

  return (
    <section>
      <h3>In this browser</h3>
      <p class="soft small">Conversations, settings and the key are kept here and nowhere else.</p>
      <div class="button-row">
        <button type="button" class="button" disabled={hasNothing} onClick={() => void exportAll()}>
          Export all
        </button>
        <button type="button" class="button" onClick={() => chooser.current?.click()}>
          Import
        </button>
        <input
          ref={chooser}
          type="file"
          accept=".json,application/json"
          hidden
          aria-label="Import conversations"
          onChange={(event) => {
            void importFrom(event.currentTarget.files?.[0]);
            event.currentTarget.value = "";
          }}
        />
        {hasKey.value && (
          <button
            type="button"
            class="button"
            onClick={() => {
              storeKey(null);
              hasKey.value = false;
            }}
          >
            Forget the key
          </button>
        )}
        <button
          type="button"
          class="button danger"
          disabled={hasNothing}
          onBlur={() => (isSure.value = false)}
          onClick={() => {
            if (isSure.value) void session.deleteAll();
            isSure.value = !isSure.value;
          }}
        >
          {isSure.value ? "Really delete all?" : "Delete all conversations"}
        </button>
      </div>
    </section>
  );
}
