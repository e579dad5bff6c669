/** One answer from the server: the request built from a path of messages, and the stream read into pieces. */

import { ApiError, errorFields, request } from "../shared/api.ts";
import type { Attachment, Message } from "./conversation.ts";
import { eventData } from "./events.ts";
import { settingsOnWire, type Settings } from "./settings.ts";

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens?: number } | null;
  completion_tokens_details?: { reasoning_tokens?: number } | null;
}

export interface Timings {
  predicted_per_second?: number;
}

export type Piece =
  | { kind: "content"; text: string }
  | { kind: "reasoning"; text: string }
  | { kind: "tool"; index: number; id: string | null; name: string | null; arguments: string }
  | { kind: "finish"; reason: string }
  | { kind: "usage"; usage: Usage }
  | { kind: "timings"; timings: Timings };

interface Chunk {
  choices?: {
    delta?: {
      content?: string | null;
      reasoning_content?: string | null;
      reasoning?: string | null;
      tool_calls?: { index: number; id?: string; function?: { name?: string; arguments?: string } }[] | null;
    };
    finish_reason?: string | null;
  }[];
  usage?: Usage | null;
  timings?: Timings | null;
  error?: unknown;
}

/** Pieces of the answer in order. Throws ApiError, also for an error told in the middle of the stream. */
export async function* streamCompletion(body: Record<string, unknown>, signal: AbortSignal): AsyncGenerator<Piece> {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.body) throw new ApiError("The server sent an empty answer.", response.status);
  let finished = false;
  for await (const data of eventData(response.body)) {
    if (data === "[DONE]") break;
    for (const piece of piecesOf(data)) {
      finished ||= piece.kind === "finish";
      yield piece;
    }
  }
  if (!finished) throw new ApiError("The answer broke off before its end.", 0, "The connection or the server was interrupted. Try again.");
}

export function* piecesOf(data: string): Generator<Piece> {
  const chunk = JSON.parse(data) as Chunk;
  if (chunk.error !== undefined) {
    const { message, hint } = errorFields(data);
    throw new ApiError(message ?? "The server reported an error.", 500, hint);
  }
  const choice = chunk.choices?.[0];
  const delta = choice?.delta;
  const reasoning = delta?.reasoning_content || delta?.reasoning;
  if (reasoning) yield { kind: "reasoning", text: reasoning };
  if (delta?.content) yield { kind: "content", text: delta.content };
  for (const call of delta?.tool_calls ?? []) {
    yield {
      kind: "tool",
      index: call.index,
      id: call.id ?? null,
      name: call.function?.name ?? null,
      arguments: call.function?.arguments ?? "",
    };
  }
  if (choice?.finish_reason) yield { kind: "finish", reason: choice.finish_reason };
  if (chunk.usage) yield { kind: "usage", usage: chunk.usage };
  if (chunk.timings) yield { kind: "timings", timings: chunk.timings };
}

/** The body of a request that continues this path. */
export function completionBody(model: string, path: readonly Message[], settings: Settings): Record<string, unknown> {
  const system = settings.systemPrompt.trim();
  return {
    model,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...path.flatMap(messageOnWire)],
    stream: true,
    stream_options: { include_usage: true },
    ...settingsOnWire(settings),
  };
}

/** An answer that never came, or failed before its first word, is not part of what was said. */
function messageOnWire(message: Message): Record<string, unknown>[] {
  if (message.role === "user") return [{ role: "user", content: textWithAttachments(message) }];
  if (message.role === "tool") return [{ role: "tool", content: message.content, tool_call_id: message.toolCallId }];
  if (message.content === "" && message.toolCalls.length === 0) return [];
  const answer: Record<string, unknown> = { role: "assistant", content: message.content || null };
  if (message.reasoning) answer["reasoning_content"] = message.reasoning;
  if (message.toolCalls.length > 0) {
    answer["tool_calls"] = message.toolCalls.map((call) => ({
      id: call.id,
      type: "function",
      function: { name: call.name, arguments: call.arguments || "{}" },
    }));
  }
  return [answer];
}

export function textWithAttachments(message: Pick<Message, "content" | "attachments">): string {
  return [...message.attachments.map(attachmentAsText), message.content].filter((part) => part !== "").join("\n\n");
}

/** A fence longer than any in the file, so that the file cannot end it. */
function attachmentAsText({ name, text }: Attachment): string {
  const longest = Math.max(2, ...(text.match(/`{3,}/g) ?? []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  return `File: ${name}\n${fence}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}`;
}
