/** Conversations as files to keep: JSON with every branch, which can be read back, or Markdown of the path that is shown. */

import { textWithAttachments } from "./completion.ts";
import { newIdentifier } from "../shared/identifier.ts";
import { newMessage, pathTo, type Conversation, type Message } from "./conversation.ts";
import { NO_SETTINGS } from "./settings.ts";

export interface Kept {
  conversation: Conversation;
  messages: readonly Message[];
}

const FORMAT = "abaci-conversations";
const VERSION = 1;

export function asJson(conversations: readonly Kept[]): string {
  return JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 2);
}

/**
 * What `asJson` wrote, under new identifiers, so that nothing that is kept already is written over. What a file lacks
 * is filled in. Throws Error with a sentence for the person.
 */
export function fromJson(text: string): Kept[] {
  const refused = new Error("This file holds no conversations that were exported here.");
  let file: { format?: unknown; version?: unknown; conversations?: unknown };
  try {
    file = JSON.parse(text) as typeof file;
  } catch {
    throw refused;
  }
  if (file?.format !== FORMAT || file.version !== VERSION || !Array.isArray(file.conversations)) throw refused;
  return file.conversations.map((kept: Partial<Kept> | null) => {
    if (!kept?.conversation || !Array.isArray(kept.messages)) throw refused;
    return renewed(kept.conversation, kept.messages);
  });
}

function renewed(conversation: Partial<Conversation>, messages: readonly Partial<Message>[]): Kept {
  const id = newIdentifier();
  const identifiers = new Map(messages.map((message) => [message.id ?? "", newIdentifier()]));
  const now = Date.now();
  return {
    conversation: {
      id,
      title: String(conversation.title ?? "Imported"),
      createdAt: Number(conversation.createdAt) || now,
      updatedAt: Number(conversation.updatedAt) || now,
      leafId: identifiers.get(conversation.leafId ?? "") ?? null,
      model: conversation.model ?? null,
      settings: { ...NO_SETTINGS, ...conversation.settings },
    },
    messages: messages.map((message) =>
      newMessage({
        ...message,
        role: ROLES.find((role) => role === message.role) ?? "user",
        id: identifiers.get(message.id ?? "") ?? newIdentifier(),
        parentId: identifiers.get(message.parentId ?? "") ?? null,
        conversationId: id,
      }),
    ),
  };
}

const ROLES = ["user", "assistant", "tool"] as const;

export function asMarkdown({ conversation, messages }: Kept): string {
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
