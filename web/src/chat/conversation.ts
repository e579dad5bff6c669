/**
 * A conversation is a tree: editing a message or asking again adds a branch beside the old one, and nothing is lost.
 * What is shown is the path from the root to one leaf. Pure values and functions only.
 */

import { newIdentifier } from "../shared/identifier.ts";
import type { Settings } from "./settings.ts";

export interface Attachment {
  name: string;
  text: string;
}

export interface ToolCall {
  id: string;
  name: string;
  /** JSON as the model wrote it; may be incomplete while it arrives. */
  arguments: string;
}

/** How an answer came about. Times in seconds. */
export interface Measures {
  firstTokenSeconds: number | null;
  tokensPerSecond: number | null;
  promptTokens: number | null;
  cachedTokens: number | null;
  completionTokens: number | null;
  reasoningTokens: number | null;
}

export interface Failure {
  message: string;
  hint: string | null;
}

export type MessageState = "complete" | "streaming" | "stopped" | "failed";

export interface Message {
  id: string;
  conversationId: string;
  parentId: string | null;
  /** Milliseconds since 1970; orders the branches. */
  createdAt: number;
  role: "user" | "assistant" | "tool";
  content: string;
  attachments: Attachment[];
  /** Of a tool's result: the call it answers. */
  toolCallId: string | null;
  // The rest is of answers only.
  state: MessageState;
  model: string | null;
  reasoning: string;
  reasoningSeconds: number | null;
  toolCalls: ToolCall[];
  finishReason: string | null;
  failure: Failure | null;
  measures: Measures | null;
}

export interface Conversation {
  id: string;
  title: string;
  createdAt: number;
  updatedAt: number;
  leafId: string | null;
  model: string | null;
  settings: Settings;
}

export type Messages = ReadonlyMap<string, Message>;

export function newMessage(given: Pick<Message, "conversationId" | "parentId" | "role"> & Partial<Message>): Message {
  return {
    id: newIdentifier(),
    createdAt: Date.now(),
    content: "",
    attachments: [],
    toolCallId: null,
    state: "complete",
    model: null,
    reasoning: "",
    reasoningSeconds: null,
    toolCalls: [],
    finishReason: null,
    failure: null,
    measures: null,
    ...given,
  };
}

/** The messages from the root to this leaf. */
export function pathTo(messages: Messages, leafId: string | null): Message[] {
  const path: Message[] = [];
  const seen = new Set<string>();
  for (let id = leafId; id !== null && !seen.has(id); ) {
    const message = messages.get(id);
    if (!message) break;
    seen.add(id);
    path.push(message);
    id = message.parentId;
  }
  return path.reverse();
}

/** The branches that leave from one parent, oldest first. */
export function childrenOf(messages: Messages, parentId: string | null): Message[] {
  return [...messages.values()].filter((message) => message.parentId === parentId).sort((a, b) => a.createdAt - b.createdAt);
}

/** The end of the newest branch below a message. */
export function newestLeaf(messages: Messages, id: string): string {
  for (;;) {
    const child = childrenOf(messages, id).at(-1);
    if (!child) return id;
    id = child.id;
  }
}

const TITLE_LENGTH = 60;

export function titleFor(message: Pick<Message, "content" | "attachments">): string {
  const line = message.content.trim().split("\n", 1)[0]?.trim() || message.attachments[0]?.name || "New chat";
  return line.length <= TITLE_LENGTH ? line : `${line.slice(0, TITLE_LENGTH - 1).trimEnd()}…`;
}
