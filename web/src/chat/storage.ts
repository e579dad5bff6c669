/** Conversations in the browser's own database. They never leave it. */

import type { Conversation, Message } from "./conversation.ts";

const DATABASE = "abaci";
const VERSION = 1;

export interface Storage {
  conversations(): Promise<Conversation[]>;
  messages(conversationId: string): Promise<Message[]>;
  allMessages(): Promise<Message[]>;
  saveConversation(conversation: Conversation): Promise<void>;
  saveMessage(message: Message): Promise<void>;
  deleteMessage(id: string): Promise<void>;
  deleteConversation(id: string): Promise<void>;
}

export async function openStorage(): Promise<Storage> {
  const database = await openDatabase();

  function run<Result>(store: string, mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest<Result>): Promise<Result> {
    return new Promise((resolve, reject) => {
      const transaction = database.transaction(store, mode);
      const request = act(transaction.objectStore(store));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  }

  return {
    conversations: () => run<Conversation[]>("conversations", "readonly", (store) => store.getAll()),
    messages: (conversationId) => run<Message[]>("messages", "readonly", (store) => store.index("conversation").getAll(conversationId)),
    allMessages: () => run<Message[]>("messages", "readonly", (store) => store.getAll()),
    saveConversation: async (conversation) => void (await run("conversations", "readwrite", (store) => store.put(conversation))),
    saveMessage: async (message) => void (await run("messages", "readwrite", (store) => store.put(message))),
    deleteMessage: (id) => run("messages", "readwrite", (store) => store.delete(id)),
    deleteConversation: (id) => deleteConversation(database, id),
  };
}

/** For browsers that keep nothing, as some do in private windows: conversations last as long as the page. */
export function passingStorage(): Storage {
  const conversations = new Map<string, Conversation>();
  const messages = new Map<string, Message>();
  const of = (id: string) => [...messages.values()].filter(({ conversationId }) => conversationId === id);
  return {
    conversations: async () => [...conversations.values()],
    messages: async (conversationId) => of(conversationId),
    allMessages: async () => [...messages.values()],
    saveConversation: async (conversation) => void conversations.set(conversation.id, conversation),
    saveMessage: async (message) => void messages.set(message.id, message),
    deleteMessage: async (id) => void messages.delete(id),
    deleteConversation: async (id) => {
      for (const message of of(id)) messages.delete(message.id);
      conversations.delete(id);
    },
  };
}

function openDatabase(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open(DATABASE, VERSION);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("conversations", { keyPath: "id" });
      opening.result.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversationId");
    };
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
}

function deleteConversation(database: IDBDatabase, id: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(["conversations", "messages"], "readwrite");
    transaction.objectStore("conversations").delete(id);
    const messages = transaction.objectStore("messages");
    const keys = messages.index("conversation").getAllKeys(id);
    keys.onsuccess = () => {
      for (const key of keys.result) messages.delete(key);
    };
    transaction.oncomplete = () => resolve();
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}
