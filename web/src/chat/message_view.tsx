/** One message: a question with its files, an answer with its thoughts, calls and figures, or a tool's result. */

import { useSignal, type Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { IconButton } from "../shared/controls.tsx";
import * as format from "../shared/format.ts";
import { Icon } from "../shared/icons.tsx";
import type { Measures, Message, ToolCall } from "./conversation.ts";
import { useSession } from "./context.ts";
import { Markdown } from "./markdown_view.tsx";
import { copyText } from "./thread.tsx";

interface MessageProps {
  message: Signal<Message>;
  isLast: boolean;
}

/** Rendered again only when its own message changes: signals keep components with equal props as they are. */
export function MessageView({ message, isLast }: MessageProps) {
  switch (message.peek().role) {
    case "user":
      return <Question message={message.value} />;
    case "tool":
      return <ToolResult message={message.value} />;
    case "assistant":
      return <Answer message={message.value} isLast={isLast} />;
  }
}

function Question({ message }: { message: Message }) {
  const session = useSession();
  if (session.editing.value === message.id) return <QuestionEditor message={message} />;
  return (
    <article class="message question" aria-label="You">
      {message.attachments.length > 0 && (
        <ul class="chips">
          {message.attachments.map(({ name, text }) => (
            <li class="chip" title={`${format.count(text.length)} characters`}>
              <Icon name="file" size={15} /> {name}
            </li>
          ))}
        </ul>
      )}
      {message.content !== "" && <div class="bubble">{message.content}</div>}
      <div class="actions on-hover">
        <Branches message={message} />
        <IconButton icon="edit" label="Edit" disabled={session.run.value !== null} onClick={() => (session.editing.value = message.id)} />
        <CopyButton text={message.content} />
      </div>
    </article>
  );
}

function QuestionEditor({ message }: { message: Message }) {
  const session = useSession();
  const area = useRef<HTMLTextAreaElement>(null);
  const text = useSignal(message.content);

  useEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(text.peek().length, text.peek().length);
  }, []);

  const cancel = () => (session.editing.value = null);
  const save = () => {
    if (text.value.trim() !== "" || message.attachments.length > 0) void session.edit(message, text.value.trim());
  };
  return (
    <article class="message question editing" aria-label="Edit your message">
      <textarea
        ref={area}
        aria-label="Your message"
        rows={Math.min(14, text.value.split("\n").length + 1)}
        value={text.value}
        onInput={(event) => (text.value = event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape") {
            event.stopPropagation();
            cancel();
          } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            save();
          }
        }}
      />
      <div class="dialog-actions">
        <span class="soft small">Your earlier message stays as a branch.</span>
        <button type="button" class="button" onClick={cancel}>
          Cancel
        </button>
        <button type="button" class="button primary" onClick={save}>
          Send
        </button>
      </div>
    </article>
  );
}

function Answer({ message, isLast }: { message: Message; isLast: boolean }) {
  const session = useSession();
  const isStreaming = message.state === "streaming";
  const isEmpty = message.content === "" && message.reasoning === "" && message.toolCalls.length === 0;
  const isWaiting = isStreaming && isEmpty;
  const hasNothing = message.state === "failed" && isEmpty;
  return (
    <article class={`message answer ${message.state} ${isLast ? "last" : ""}`} aria-label={message.model ?? "Answer"} aria-busy={isStreaming}>
      {message.reasoning !== "" && <Thought message={message} />}
      {isWaiting && <Waiting model={message.model} />}
      {message.content !== "" && <Markdown text={message.content} />}
      {message.toolCalls.length > 0 && <ToolCalls message={message} isLast={isLast} />}
      {message.state === "failed" && <FailureCard message={message} />}
      {message.state === "stopped" && <p class="remark">Stopped.</p>}
      {message.finishReason === "length" && (
        <p class="remark">The answer reached its limit of tokens. Raise “Max tokens” in the settings for longer ones.</p>
      )}
      {message.finishReason === "content_filter" && <p class="remark">The answer was ended by a filter of the server.</p>}
      <div class="actions">
        {!isStreaming && !hasNothing && (
          <>
            {message.content !== "" && <CopyButton text={message.content} />}
            <IconButton icon="retry" label="Answer again" disabled={session.run.value !== null} onClick={() => void session.regenerate(message)} />
          </>
        )}
        {!isStreaming && <Branches message={message} />}
        <Figures measures={message.measures} model={message.model} />
      </div>
    </article>
  );
}

/** Loading a model or reading a long prompt takes a while on a CPU; the clock shows that something happens. */
function Waiting({ model }: { model: string | null }) {
  const { models } = useSession();
  const isLoaded = models.value?.find(({ id }) => id === model)?.status?.value !== "unloaded";
  const elapsed = useSignal(0);
  useEffect(() => {
    const timer = setInterval(() => (elapsed.value += 1), 1000);
    return () => clearInterval(timer);
  }, []);
  return (
    <p class="waiting">
      <span class="dots" aria-hidden="true">
        <i />
        <i />
        <i />
      </span>
      {elapsed.value >= 2 && <span class="soft small">{isLoaded ? "Reading the prompt" : "Loading the model"}, {elapsed.value} s</span>}
    </p>
  );
}

function Thought({ message }: { message: Message }) {
  const isThinking = message.state === "streaming" && message.reasoningSeconds === null;
  const title = isThinking
    ? "Thinking…"
    : message.reasoningSeconds === null
      ? "Thought"
      : `Thought for ${message.reasoningSeconds < 1 ? "a moment" : format.seconds(message.reasoningSeconds)}`;
  return (
    <details class={`thought ${isThinking ? "thinking" : ""}`}>
      <summary>
        <Icon name="thought" size={16} /> <span>{title}</span> <Icon name="right" size={14} />
      </summary>
      <div class="thought-text">{message.reasoning.trim()}</div>
    </details>
  );
}

function ToolCalls({ message, isLast }: { message: Message; isLast: boolean }) {
  const session = useSession();
  const results = useSignal<readonly string[]>([]);
  const asksForResults = isLast && message.state === "complete" && session.run.value === null;
  const isReady = message.toolCalls.every((_, index) => (results.value[index] ?? "").trim() !== "");
  return (
    <form
      class="tool-calls"
      onSubmit={(event) => {
        event.preventDefault();
        if (isReady) void session.giveResults(message, results.value);
      }}
    >
      {message.toolCalls.map((call, index) => (
        <ToolCard
          key={index}
          call={call}
          result={asksForResults ? (results.value[index] ?? "") : null}
          onResult={(text) => (results.value = message.toolCalls.map((_, at) => (at === index ? text : (results.value[at] ?? ""))))}
        />
      ))}
      {asksForResults && (
        <div class="dialog-actions">
          <button type="submit" class="button primary" disabled={!isReady}>
            Give {message.toolCalls.length === 1 ? "the result" : "the results"}
          </button>
        </div>
      )}
    </form>
  );
}

function ToolCard({ call, result, onResult }: { call: ToolCall; result: string | null; onResult(text: string): void }) {
  return (
    <div class="tool-card">
      <div class="tool-head">
        <Icon name="tool" size={16} /> <code>{call.name || "…"}</code>
      </div>
      <Arguments text={call.arguments} />
      {result !== null && (
        <label class="field">
          <span>What the tool answered</span>
          <textarea rows={2} value={result} onInput={(event) => onResult(event.currentTarget.value)} />
        </label>
      )}
    </div>
  );
}

/** Named values where the arguments are a JSON object, their text where they are not, or not yet. */
function Arguments({ text }: { text: string }) {
  const parsed = parseObject(text);
  if (!parsed) return <pre class="tool-text">{text}</pre>;
  const entries = Object.entries(parsed);
  if (entries.length === 0) return <p class="soft small">No arguments</p>;
  return (
    <dl class="tool-arguments">
      {entries.map(([name, value]) => (
        <>
          <dt>{name}</dt>
          <dd>{typeof value === "string" ? value : JSON.stringify(value, null, 1)}</dd>
        </>
      ))}
    </dl>
  );
}

function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

function ToolResult({ message }: { message: Message }) {
  return (
    <article class="message" aria-label="Result of a tool">
      <div class="tool-card result">
        <div class="tool-head">
          <Icon name="tool" size={16} /> Result
        </div>
        <pre class="tool-text">{message.content}</pre>
      </div>
    </article>
  );
}

function FailureCard({ message }: { message: Message }) {
  const session = useSession();
  return (
    <div class="failure" role="alert">
      <p>
        <strong>{format.sentence(message.failure?.message ?? "the answer could not be had.")}</strong>
      </p>
      {message.failure?.hint && <p>{message.failure.hint}</p>}
      <button type="button" class="button" disabled={session.run.value !== null} onClick={() => void session.regenerate(message)}>
        <Icon name="retry" size={16} /> Try again
      </button>
    </div>
  );
}

function Branches({ message }: { message: Message }) {
  const session = useSession();
  const branches = session.branchesOf(message);
  if (branches.length < 2) return null;
  const at = branches.findIndex(({ id }) => id === message.id);
  const isBusy = session.run.value !== null;
  return (
    <span class="branches" role="group" aria-label="Branches">
      <IconButton icon="left" label="Branch before" disabled={isBusy || at === 0} onClick={() => session.showBranch(message, -1)} />
      <span class="small">
        {at + 1}/{branches.length}
      </span>
      <IconButton icon="right" label="Branch after" disabled={isBusy || at === branches.length - 1} onClick={() => session.showBranch(message, 1)} />
    </span>
  );
}

function CopyButton({ text }: { text: string }) {
  const copied = useSignal(false);
  return (
    <IconButton
      icon={copied.value ? "check" : "copy"}
      label={copied.value ? "Copied" : "Copy"}
      onClick={() =>
        void copyText(text).then((done) => {
          copied.value = done;
          setTimeout(() => (copied.value = false), 1500);
        })
      }
    />
  );
}

function Figures({ measures, model }: { measures: Measures | null; model: string | null }) {
  if (!measures || measures.firstTokenSeconds === null) return null;
  const { tokensPerSecond, completionTokens, firstTokenSeconds, promptTokens, cachedTokens, reasoningTokens } = measures;
  const details = [
    model,
    `first token after ${format.seconds(firstTokenSeconds)}`,
    promptTokens !== null && `${format.plural(promptTokens, "token")} of prompt`,
    cachedTokens ? `${format.count(cachedTokens)} of them from the cache` : null,
    reasoningTokens ? `${format.count(reasoningTokens)} tokens of thought` : null,
  ].filter(Boolean);
  return (
    <span class="figures" title={details.join("\n")}>
      {tokensPerSecond !== null && <span class="speed">{format.significant(tokensPerSecond)} tokens/s</span>}
      {completionTokens !== null && <span>{format.plural(completionTokens, "token")}</span>}
      {completionTokens !== null && <span class="only-wide">first after {format.seconds(firstTokenSeconds)}</span>}
    </span>
  );
}
