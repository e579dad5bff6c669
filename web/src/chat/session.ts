/**
 * The state of the chat page and everything a person can do to it. Components read the signals and call the methods.
 *
 * Each message is a signal of its own, so that a growing answer touches nothing else on the page.
 */

import { batch, computed, signal, type Signal } from "@preact/signals";
import { ApiError, requestJson } from "../shared/api.ts";
import { newIdentifier } from "../shared/identifier.ts";
import { runAnswer, type Run } from "./answer.ts";
import {
  childrenOf,
  newestLeaf,
  newMessage,
  pathTo,
  titleFor,
  type Attachment,
  type Conversation,
  type Message,
} from "./conversation.ts";
import type { Kept } from "./export.ts";
import { storedSettings, storeSettings, type Settings } from "./settings.ts";
import type { Storage } from "./storage.ts";

export interface Model {
  id: string;
  max_model_len?: number | null;
  status?: { value?: string } | null;
}

export interface Notice {
  text: string;
  action?: { label: string; act(): void };
}

const MODEL_NAME = "abaci.model";
const NOTICE_SECONDS = 6;

export class Session {
  readonly conversations = signal<Conversation[]>([]);
  readonly current = signal<Conversation | null>(null);
  readonly messages = signal<ReadonlyMap<string, Signal<Message>>>(new Map());
  /** Settings of a conversation that has not begun. */
  readonly draftSettings = signal<Settings>(storedSettings());
  readonly models = signal<Model[] | null>(null);
  readonly modelsFailure = signal<ApiError | null>(null);
  readonly chosenModel = signal<string | null>(localStorage.getItem(MODEL_NAME));
  readonly editing = signal<string | null>(null);
  readonly notice = signal<Notice | null>(null);
  /** Answers on their way, by conversation. */
  readonly runs = signal<ReadonlyMap<string, Run>>(new Map());

  /** The messages that are shown. Follows the shape of the tree, not what is written in it. */
  readonly path = computed<Signal<Message>[]>(() => {
    const leafId = this.current.value?.leafId ?? null;
    const signals = this.messages.value;
    return pathTo(this.snapshot(), leafId).flatMap((message) => signals.get(message.id) ?? []);
  });
  readonly run = computed(() => this.runs.value.get(this.current.value?.id ?? "") ?? null);
  readonly settings = computed(() => this.current.value?.settings ?? this.draftSettings.value);
  readonly model = computed<Model | null>(() => {
    const models = this.models.value ?? [];
    const wanted = this.current.value?.model ?? this.chosenModel.value;
    return models.find(({ id }) => id === wanted) ?? models.find(({ status }) => status?.value === "loaded") ?? models[0] ?? null;
  });

  private noticeTimer = 0;

  constructor(private readonly storage: Storage) {}

  async start(): Promise<void> {
    this.conversations.value = newestFirst(await this.storage.conversations());
    await this.openFromAddress();
  }

  async loadModels(): Promise<void> {
    try {
      this.models.value = (await requestJson<{ data: Model[] }>("v1/models")).data;
      this.modelsFailure.value = null;
    } catch (error) {
      this.modelsFailure.value = error instanceof ApiError ? error : new ApiError(String(error), 0);
    }
  }

  // Moving between conversations. The address says which is open, so that reload and the back button work.

  async openFromAddress(): Promise<void> {
    const id = location.hash.slice(1);
    const conversation = this.conversations.value.find((known) => known.id === id) ?? null;
    if (conversation && conversation.id === this.current.value?.id) return;
    const stored = conversation ? await this.storage.messages(conversation.id) : [];
    const run = conversation ? this.runs.value.get(conversation.id) : undefined;
    const signals = new Map(stored.map((message) => [message.id, signal(asLeft(message))]));
    if (run) signals.set(run.message.peek().id, run.message);
    batch(() => {
      this.editing.value = null;
      this.messages.value = signals;
      this.current.value = conversation;
    });
  }

  open(id: string | null): void {
    if (id === null) history.pushState(null, "", location.pathname);
    else history.pushState(null, "", `#${id}`);
    void this.openFromAddress();
  }

  // What a person says.

  async send(text: string, attachments: Attachment[]): Promise<void> {
    const parentId = this.current.value?.leafId ?? null;
    await this.say({ role: "user", parentId, content: text, attachments });
  }

  /** Says a message differently: a branch beside the old one. */
  async edit(message: Message, text: string): Promise<void> {
    this.editing.value = null;
    await this.say({ role: "user", parentId: message.parentId, content: text, attachments: message.attachments });
  }

  /** Asks again. An answer that never came makes room; any other stays as a branch. */
  async regenerate(message: Message): Promise<void> {
    if (this.run.value) return;
    if (message.state === "failed" && message.content === "" && message.toolCalls.length === 0) this.forgetMessage(message.id);
    await this.answer(message.parentId);
  }

  /** Gives the results of the calls that an answer asked for, and lets the model go on. */
  async giveResults(message: Message, results: readonly string[]): Promise<void> {
    let parentId = message.id;
    for (const [index, call] of message.toolCalls.entries()) {
      const result = newMessage({
        conversationId: message.conversationId,
        parentId,
        role: "tool",
        content: results[index] ?? "",
        toolCallId: call.id,
      });
      this.addMessage(result);
      parentId = result.id;
    }
    await this.answer(parentId);
  }

  stop(): void {
    this.run.value?.stop();
  }

  /** Shows the branch before or after the one that a message is on. */
  showBranch(message: Message, step: -1 | 1): void {
    const branches = this.branchesOf(message);
    const wanted = branches[branches.findIndex(({ id }) => id === message.id) + step];
    if (wanted) this.moveTo(newestLeaf(this.snapshot(), wanted.id));
  }

  branchesOf(message: Message): Message[] {
    return childrenOf(this.snapshot(), message.parentId);
  }

  // What a person sets.

  chooseModel(id: string): void {
    this.chosenModel.value = id;
    localStorage.setItem(MODEL_NAME, id);
    if (this.current.value) this.changeConversation(this.current.value.id, { model: id });
  }

  changeSettings(change: Partial<Settings>): void {
    const settings = { ...this.settings.value, ...change };
    this.draftSettings.value = settings;
    storeSettings(settings);
    if (this.current.value) this.changeConversation(this.current.value.id, { settings });
  }

  rename(id: string, title: string): void {
    if (title.trim() !== "") this.changeConversation(id, { title: title.trim() });
  }

  /** Deletes a conversation; for a few seconds it can be had back. */
  async delete(id: string): Promise<void> {
    const conversation = this.conversations.value.find((known) => known.id === id);
    if (!conversation) return;
    await this.stopAndWait(id);
    const messages = await this.storage.messages(id);
    await this.storage.deleteConversation(id);
    this.conversations.value = this.conversations.value.filter((known) => known.id !== id);
    if (this.current.value?.id === id) this.open(null);
    this.tell({
      text: `“${conversation.title}” was deleted.`,
      action: { label: "Undo", act: () => void this.restore(conversation, messages) },
    });
  }

  async deleteAll(): Promise<void> {
    for (const { id } of this.conversations.value) {
      await this.stopAndWait(id);
      await this.storage.deleteConversation(id);
    }
    this.conversations.value = [];
    this.open(null);
  }

  /** The conversations in which a text occurs, in titles or in what was said. */
  async search(text: string): Promise<Set<string>> {
    const wanted = text.toLowerCase();
    const has = (part: string) => part.toLowerCase().includes(wanted);
    const found = new Set(this.conversations.value.filter(({ title }) => has(title)).map(({ id }) => id));
    for (const message of await this.storage.allMessages()) if (has(message.content)) found.add(message.conversationId);
    return found;
  }

  async exportAll(): Promise<Kept[]> {
    const messages = await this.storage.allMessages();
    return this.conversations.value.map((conversation) => ({
      conversation,
      messages: messages.filter(({ conversationId }) => conversationId === conversation.id),
    }));
  }

  /** Adds conversations from a file. */
  async importAll(conversations: readonly Kept[]): Promise<void> {
    for (const { conversation, messages } of conversations) {
      for (const message of messages) await this.storage.saveMessage(message);
      await this.storage.saveConversation(conversation);
    }
    this.conversations.value = newestFirst([...conversations.map(({ conversation }) => conversation), ...this.conversations.value]);
  }

  messagesOf(id: string): Promise<Message[]> {
    return this.storage.messages(id);
  }

  tell(notice: Notice): void {
    this.notice.value = notice;
    clearTimeout(this.noticeTimer);
    this.noticeTimer = window.setTimeout(() => (this.notice.value = null), NOTICE_SECONDS * 1000);
  }

  // How it is done.

  private async say(given: Pick<Message, "role" | "parentId" | "content" | "attachments">): Promise<void> {
    if (this.run.value || !this.model.value) return;
    const conversation = this.current.value ?? this.begin(titleFor(given));
    const message = newMessage({ ...given, conversationId: conversation.id });
    this.addMessage(message);
    await this.answer(message.id);
  }

  private begin(title: string): Conversation {
    const now = Date.now();
    const conversation: Conversation = {
      id: newIdentifier(),
      title,
      createdAt: now,
      updatedAt: now,
      leafId: null,
      model: this.model.value?.id ?? null,
      settings: this.draftSettings.value,
    };
    this.conversations.value = [conversation, ...this.conversations.value];
    this.current.value = conversation;
    history.pushState(null, "", `#${conversation.id}`);
    return conversation;
  }

  /** Until the last word of an answer on its way is kept, so that nothing comes after. */
  private async stopAndWait(id: string): Promise<void> {
    const run = this.runs.value.get(id);
    run?.stop();
    await run?.ended;
  }

  private async answer(parentId: string | null): Promise<void> {
    const conversation = this.current.value;
    const model = this.model.value;
    if (!conversation || !model) return;
    const message = signal(newMessage({ conversationId: conversation.id, parentId, role: "assistant", state: "streaming", model: model.id }));
    const path = pathTo(this.snapshot(), parentId);
    this.addMessage(message.peek(), message);
    const run = runAnswer(message, model.id, path, conversation.settings, (state) => this.save(this.storage.saveMessage(state)));
    this.runs.value = new Map(this.runs.value).set(conversation.id, run);
    await run.ended;
    const runs = new Map(this.runs.value);
    runs.delete(conversation.id);
    this.runs.value = runs;
    this.changeConversation(conversation.id, { updatedAt: Date.now() });
    if (model.status?.value !== "loaded") void this.loadModels();
  }

  private addMessage(message: Message, held: Signal<Message> = signal(message)): void {
    batch(() => {
      this.messages.value = new Map(this.messages.value).set(message.id, held);
      this.moveTo(message.id);
    });
    this.save(this.storage.saveMessage(message));
  }

  private forgetMessage(id: string): void {
    const signals = new Map(this.messages.value);
    signals.delete(id);
    this.messages.value = signals;
    this.save(this.storage.deleteMessage(id));
  }

  private moveTo(leafId: string): void {
    if (this.current.value) this.changeConversation(this.current.value.id, { leafId, updatedAt: Date.now() });
  }

  private changeConversation(id: string, change: Partial<Conversation>): void {
    const conversation = this.conversations.value.find((known) => known.id === id);
    if (!conversation) return;
    const changed = { ...conversation, ...change };
    batch(() => {
      this.conversations.value = newestFirst([changed, ...this.conversations.value.filter((known) => known.id !== id)]);
      if (this.current.value?.id === id) this.current.value = changed;
    });
    this.save(this.storage.saveConversation(changed));
  }

  private async restore(conversation: Conversation, messages: readonly Message[]): Promise<void> {
    await this.storage.saveConversation(conversation);
    for (const message of messages) await this.storage.saveMessage(message);
    this.conversations.value = newestFirst([conversation, ...this.conversations.value]);
    this.notice.value = null;
    this.open(conversation.id);
  }

  private snapshot(): Map<string, Message> {
    return new Map([...this.messages.value].map(([id, message]) => [id, message.peek()]));
  }

  private save(saving: Promise<void>): void {
    saving.catch(() => this.tell({ text: "The browser could not keep this conversation; its storage may be full." }));
  }
}

function newestFirst(conversations: readonly Conversation[]): Conversation[] {
  return [...conversations].sort((a, b) => b.updatedAt - a.updatedAt);
}

/** An answer that was arriving when the page was closed has been stopped by that. */
function asLeft(message: Message): Message {
  return message.state === "streaming" ? { ...message, state: "stopped" } : message;
}
