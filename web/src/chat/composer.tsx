/** Where people write: text, files dropped or chosen, and the button that sends or stops. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { IconButton } from "../shared/controls.tsx";
import * as format from "../shared/format.ts";
import { Icon } from "../shared/icons.tsx";
import { readAttachment } from "./attachments.ts";
import type { Attachment } from "./conversation.ts";
import { useSession } from "./context.ts";

const AREA = "composer";

export function focusComposer(): void {
  document.getElementById(AREA)?.focus();
}

export function fillComposer(text: string): void {
  const area = document.getElementById(AREA) as HTMLTextAreaElement | null;
  if (!area) return;
  area.value = text;
  area.dispatchEvent(new Event("input", { bubbles: true }));
  area.focus();
  area.setSelectionRange(text.length, text.length);
}

export function Composer() {
  const session = useSession();
  const text = useSignal("");
  const attachments = useSignal<readonly Attachment[]>([]);
  const isDragging = useSignal(false);
  const area = useRef<HTMLTextAreaElement>(null);
  const chooser = useRef<HTMLInputElement>(null);
  const isRunning = session.run.value !== null;
  const canSend = !isRunning && session.model.value !== null && (text.value.trim() !== "" || attachments.value.length > 0);

  useEffect(() => {
    if (!matchMedia("(pointer: coarse)").matches) area.current?.focus();
  }, [session.current.value?.id ?? null]);

  useEffect(() => {
    const place = area.current;
    if (!place) return;
    place.style.height = "auto";
    place.style.height = `${place.scrollHeight}px`;
  }, [text.value]);

  async function attach(files: Iterable<File>): Promise<void> {
    for (const file of files) {
      try {
        attachments.value = [...attachments.value, await readAttachment(file)];
      } catch (error) {
        session.tell({ text: error instanceof Error ? error.message : String(error) });
      }
    }
    area.current?.focus();
  }

  useEffect(() => {
    const carriesFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const onDrag = (event: DragEvent) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      isDragging.value = event.type === "dragover";
    };
    const onDrop = (event: DragEvent) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      isDragging.value = false;
      void attach([...(event.dataTransfer?.files ?? [])]);
    };
    const onLeave = (event: DragEvent) => {
      if (event.relatedTarget === null) isDragging.value = false;
    };
    addEventListener("dragover", onDrag);
    addEventListener("drop", onDrop);
    addEventListener("dragleave", onLeave);
    return () => {
      removeEventListener("dragover", onDrag);
      removeEventListener("drop", onDrop);
      removeEventListener("dragleave", onLeave);
    };
  }, []);

  function send(): void {
    if (!canSend) return;
    void session.send(text.value.trim(), [...attachments.value]);
    text.value = "";
    attachments.value = [];
  }

  function onKey(event: KeyboardEvent): void {
    // On a phone the return key makes a new line, as people expect there.
    const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing && !matchMedia("(pointer: coarse)").matches;
    if (sends) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && text.value === "" && !isRunning) {
      const last = session.path.value.findLast((message) => message.peek().role === "user");
      if (!last) return;
      event.preventDefault();
      session.editing.value = last.peek().id;
    }
  }

  return (
    <div class="composer-place">
      <div class="composer">
        {attachments.value.length > 0 && (
          <ul class="chips">
            {attachments.value.map(({ name, text: content }, index) => (
              <li class="chip" key={index}>
                <Icon name="file" size={15} /> {name} <span class="soft">{format.bytes(content.length)}</span>
                <IconButton
                  icon="close"
                  label={`Remove ${name}`}
                  onClick={() => (attachments.value = attachments.value.filter((_, at) => at !== index))}
                />
              </li>
            ))}
          </ul>
        )}
        <textarea
          id={AREA}
          ref={area}
          rows={1}
          placeholder="Write a message"
          aria-label="Message"
          value={text.value}
          onInput={(event) => (text.value = event.currentTarget.value)}
          onKeyDown={onKey}
          onPaste={(event) => {
            const files = [...(event.clipboardData?.files ?? [])];
            if (files.length === 0) return;
            event.preventDefault();
            void attach(files);
          }}
        />
        <div class="composer-row">
          <IconButton icon="attach" label="Attach text files" onClick={() => chooser.current?.click()} />
          <ContextFill />
          <span class="spacer" />
          {isRunning ? (
            <button type="button" class="send stop" aria-label="Stop (Esc)" title="Stop (Esc)" onClick={() => session.stop()}>
              <Icon name="stop" size={20} />
            </button>
          ) : (
            <button type="button" class="send" aria-label="Send" title="Send (Enter)" disabled={!canSend} onClick={send}>
              <Icon name="send" size={20} />
            </button>
          )}
        </div>
        <input
          ref={chooser}
          type="file"
          multiple
          hidden
          onChange={(event) => {
            void attach([...(event.currentTarget.files ?? [])]);
            event.currentTarget.value = "";
          }}
        />
      </div>
      {isDragging.value && (
        <div class="drop-here">
          <Icon name="file" size={28} /> Drop text files to attach them
        </div>
      )}
    </div>
  );
}

/** How much of the model's context the conversation takes, once that is known. */
function ContextFill() {
  const session = useSession();
  const last = session.path.value.findLast((message) => message.peek().role === "assistant")?.value;
  const room = session.model.value?.max_model_len;
  if (!room || !last?.measures || last.measures.promptTokens === null) return null;
  const used = last.measures.promptTokens + (last.measures.completionTokens ?? 0);
  const share = used / room;
  return (
    <span class={`context-fill ${share > 0.9 ? "nearly-full" : ""}`} title="Tokens of this conversation, and how many the model can hold">
      <meter min={0} max={1} value={share} aria-label="Context used" />
      {format.compact(used)} of {format.compact(room)} tokens
    </span>
  );
}
