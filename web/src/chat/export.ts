/** A conversation as a file to keep: JSON with every branch, or Markdown of the path that is shown. */

import { textWithAttachments } from "./completion.ts";
import { pathTo, type Conversation, type Message } from "./conversation.ts";

export function asJson(conversation: Conversation, messages: readonly Message[]): string {
  return JSON.stringify({ format: "abaci-conversation", version: 1, conversation, messages }, null, 2);
}

export function asMarkdown(conversation: Conversation, messages: readonly Message[]): string {
  const path = pathTo(new Map(messages.map((message) => [message.id, message])), conversation.leafId);
  const parts = [`# ${conversation.title}`];
  if (conversation.settings.systemPrompt) parts.push(`## System\n\n${conversation.settings.systemPrompt}`);
  for (const message of path) parts.push(`## ${heading(message)}\n\n${textWithAttachments(message)}`.trimEnd());
  return `${parts.join("\n\n")}\n`;
}

function heading(message: Message): string {
  if (message.role === "user") return "You";
  if (message.role === "tool") return "Tool";
  return message.model ?? "Assistant";
}

export function fileName(title: string): string {
  return title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60).toLowerCase() || "conversation";
}
