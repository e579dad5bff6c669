/** One answer on its way: the stream gathered into a message, shown once per frame and kept once per second. */

import type { Signal } from "@preact/signals";
import { ApiError } from "../shared/api.ts";
import { completionBody, streamCompletion, type Piece } from "./completion.ts";
import type { Measures, Message, MessageState, ToolCall } from "./conversation.ts";
import type { Settings } from "./settings.ts";

export interface Run {
  message: Signal<Message>;
  ended: Promise<void>;
  stop(): void;
}

const SAVE_SECONDS = 1;
/** How much of the time may go into showing: a step that took long is followed by a rest this many times as long. */
const REST = 3;

const NOTHING_MEASURED: Measures = {
  firstTokenSeconds: null,
  tokensPerSecond: null,
  promptTokens: null,
  cachedTokens: null,
  completionTokens: null,
  reasoningTokens: null,
};

/** Starts an answer to a path of messages. `keep` is called with states worth storing, at last with the final one. */
export function runAnswer(
  message: Signal<Message>,
  model: string,
  path: readonly Message[],
  settings: Settings,
  keep: (state: Message) => void,
): Run {
  const controller = new AbortController();
  const draft = new Draft(message);

  async function run(): Promise<void> {
    const saving = setInterval(() => keep(draft.current()), SAVE_SECONDS * 1000);
    try {
      for await (const piece of streamCompletion(completionBody(model, path, settings), controller.signal)) draft.add(piece);
      draft.end("complete");
    } catch (error) {
      if (controller.signal.aborted) draft.end("stopped");
      else draft.fail(error);
    } finally {
      clearInterval(saving);
      keep(message.peek());
    }
  }

  return { message, ended: run(), stop: () => controller.abort() };
}

/** The message as received so far. What is shown lags behind it by at most a frame, or a rest. */
class Draft {
  private content = "";
  private reasoning = "";
  private toolCalls: ToolCall[] = [];
  private finishReason: string | null = null;
  private measures = NOTHING_MEASURED;
  private reasoningSeconds: number | null = null;
  private numTokens = 0;
  private firstAt: number | null = null;
  private lastAt = 0;
  private reportedSpeed = false;
  private frame = 0;
  private restUntil = 0;
  private readonly startedAt = performance.now();

  constructor(private readonly message: Signal<Message>) {}

  add(piece: Piece): void {
    if (piece.kind === "content") {
      this.endReasoning();
      this.content += this.token(piece.text);
    } else if (piece.kind === "reasoning") this.reasoning += this.token(piece.text);
    else if (piece.kind === "tool") this.addToolPiece(piece);
    else if (piece.kind === "finish") this.finishReason = piece.reason;
    else if (piece.kind === "usage") {
      this.measures = {
        ...this.measures,
        promptTokens: piece.usage.prompt_tokens,
        completionTokens: piece.usage.completion_tokens,
        cachedTokens: piece.usage.prompt_tokens_details?.cached_tokens ?? null,
        reasoningTokens: piece.usage.completion_tokens_details?.reasoning_tokens ?? null,
      };
      if (!this.reportedSpeed) this.measureSpeed(piece.usage.completion_tokens);
    } else if (piece.timings.predicted_per_second) {
      this.reportedSpeed = true;
      this.measures = { ...this.measures, tokensPerSecond: piece.timings.predicted_per_second };
    }
    this.frame ||= requestAnimationFrame(() => this.showUnlessResting());
  }

  current(): Message {
    return {
      ...this.message.peek(),
      content: this.content,
      reasoning: this.reasoning,
      reasoningSeconds: this.reasoningSeconds,
      toolCalls: this.toolCalls,
      finishReason: this.finishReason,
      measures: this.measures,
    };
  }

  end(state: MessageState): void {
    this.endReasoning();
    this.message.value = { ...this.current(), state };
    cancelAnimationFrame(this.frame);
  }

  fail(error: unknown): void {
    const failure =
      error instanceof ApiError
        ? { message: error.message, hint: error.hint }
        : { message: error instanceof Error ? error.message : String(error), hint: null };
    this.end("failed");
    this.message.value = { ...this.message.peek(), failure };
  }

  /** Counts a piece as a token, which it nearly always is; the server's own count replaces the guess at the end. */
  private token(text: string): string {
    this.lastAt = performance.now();
    this.firstAt ??= this.lastAt;
    this.numTokens += 1;
    if (this.measures.firstTokenSeconds === null) {
      this.measures = { ...this.measures, firstTokenSeconds: (this.firstAt - this.startedAt) / 1000 };
    }
    if (!this.reportedSpeed) this.measureSpeed(this.numTokens);
    return text;
  }

  private measureSpeed(numTokens: number): void {
    const elapsed = (this.lastAt - (this.firstAt ?? this.lastAt)) / 1000;
    if (numTokens > 1 && elapsed > 0) this.measures = { ...this.measures, tokensPerSecond: (numTokens - 1) / elapsed };
  }

  private endReasoning(): void {
    if (this.reasoning !== "" && this.reasoningSeconds === null) {
      this.reasoningSeconds = (performance.now() - (this.firstAt ?? this.startedAt)) / 1000;
    }
  }

  private addToolPiece(piece: Extract<Piece, { kind: "tool" }>): void {
    this.token(piece.arguments);
    this.endReasoning();
    const calls = [...this.toolCalls];
    const known = calls[piece.index] ?? { id: "", name: "", arguments: "" };
    calls[piece.index] = {
      id: piece.id ?? known.id,
      name: piece.name ?? known.name,
      arguments: known.arguments + piece.arguments,
    };
    this.toolCalls = calls;
  }

  private showUnlessResting(): void {
    if (performance.now() < this.restUntil) {
      this.frame = requestAnimationFrame(() => this.showUnlessResting());
      return;
    }
    this.frame = 0;
    const begun = performance.now();
    this.message.value = this.current();
    // The components render in a microtask, so the next task knows what the step cost.
    setTimeout(() => {
      const cost = performance.now() - begun;
      this.restUntil = cost > 8 ? begun + cost * (1 + REST) : 0;
    });
  }
}
