/** The conversations kept in this browser: found, renamed, exported, deleted. */

import { useComputed, useSignal, useSignalEffect, type Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { IconButton } from "../shared/controls.tsx";
import { download } from "../shared/download.ts";
import { Icon, Mark } from "../shared/icons.tsx";
import type { Conversation } from "./conversation.ts";
import { useSession } from "./context.ts";
import { asJson, asMarkdown, fileName, type Kept } from "./export.ts";

interface SidebarProps {
  open: boolean;
  onClose(): void;
  onNewChat(): void;
  onChosen(): void;
}

export function Sidebar({ open, onClose, onNewChat, onChosen }: SidebarProps) {
  const session = useSession();
  const query = useSignal("");
  const found = useSignal<ReadonlySet<string> | null>(null);
  const menu = useSignal<{ conversation: Conversation; top: number; left: number } | null>(null);
  const renaming = useSignal<string | null>(null);

  useSignalEffect(() => {
    const text = query.value.trim();
    if (text === "") found.value = null;
    else void session.search(text).then((ids) => text === query.peek().trim() && (found.value = ids));
  });
  const groups = useComputed(() => {
    const ids = found.value;
    return grouped(session.conversations.value.filter(({ id }) => ids === null || ids.has(id)));
  });

  return (
    <aside class="sidebar" aria-label="Conversations" inert={!open}>
      <div class="sidebar-head">
        <span class="brand">
          <Mark /> Abaci
        </span>
        <IconButton icon="menu" label="Hide conversations" onClick={onClose} />
      </div>
      <button type="button" class="new-chat" onClick={onNewChat}>
        <Icon name="plus" /> New chat <kbd>Ctrl K</kbd>
      </button>
      <label class="search">
        <Icon name="search" size={16} />
        <input
          type="search"
          placeholder="Search"
          aria-label="Search conversations"
          value={query.value}
          onInput={(event) => (query.value = event.currentTarget.value)}
        />
      </label>
      <nav class="conversation-list" aria-label="Conversations">
        {groups.value.length === 0 && <p class="soft small empty-list">{found.value ? "Nothing found." : "Your chats will be kept here, in this browser only."}</p>}
        {groups.value.map(({ title, conversations }) => (
          <section key={title}>
            <h2>{title}</h2>
            <ul>
              {conversations.map((conversation) => (
                <Entry
                  key={conversation.id}
                  conversation={conversation}
                  renaming={renaming}
                  onChosen={onChosen}
                  onMenu={(button) => {
                    const { bottom, right } = button.getBoundingClientRect();
                    menu.value = { conversation, top: Math.min(bottom + 4, innerHeight - 190), left: Math.max(8, right - 190) };
                  }}
                />
              ))}
            </ul>
          </section>
        ))}
      </nav>
      {menu.value && <EntryMenu {...menu.value} onRename={(id) => (renaming.value = id)} onClose={() => (menu.value = null)} />}
    </aside>
  );
}

interface EntryProps {
  conversation: Conversation;
  renaming: Signal<string | null>;
  onChosen(): void;
  onMenu(button: HTMLElement): void;
}

function Entry({ conversation, renaming, onChosen, onMenu }: EntryProps) {
  const session = useSession();
  const { id, title } = conversation;
  const isCurrent = session.current.value?.id === id;
  const input = useRef<HTMLInputElement>(null);
  const isRenaming = renaming.value === id;

  useEffect(() => input.current?.select(), [isRenaming]);

  if (isRenaming) {
    const finish = (keep: boolean) => {
      if (renaming.value !== id) return;
      if (keep) session.rename(id, input.current?.value ?? "");
      renaming.value = null;
    };
    return (
      <li class="entry renaming">
        <input
          ref={input}
          aria-label="Title"
          value={title}
          onBlur={() => finish(true)}
          onKeyDown={(event) => {
            if (event.key === "Enter") finish(true);
            if (event.key === "Escape") {
              event.stopPropagation();
              finish(false);
            }
          }}
        />
      </li>
    );
  }
  return (
    <li class={`entry ${isCurrent ? "current" : ""}`}>
      <a
        href={`#${id}`}
        aria-current={isCurrent ? "page" : undefined}
        title={title}
        onClick={(event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return;
          event.preventDefault();
          if (!isCurrent) session.open(id);
          onChosen();
        }}
        onDblClick={() => (renaming.value = id)}
      >
        {session.runs.value.has(id) && <span class="pulse" aria-label="Being answered" />}
        {title}
      </a>
      <IconButton icon="more" label={`More for “${title}”`} onClick={(event) => onMenu(event.currentTarget as HTMLElement)} />
    </li>
  );
}

interface EntryMenuProps {
  conversation: Conversation;
  top: number;
  left: number;
  onRename(id: string): void;
  onClose(): void;
}

function EntryMenu({ conversation, top, left, onRename, onClose }: EntryMenuProps) {
  const session = useSession();
  const list = useRef<HTMLDivElement>(null);
  const { id, title } = conversation;

  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    list.current?.querySelector("button")?.focus();
    const onPointer = (event: Event) => {
      if (!list.current?.contains(event.target as Node)) onClose();
    };
    addEventListener("pointerdown", onPointer, true);
    return () => {
      removeEventListener("pointerdown", onPointer, true);
      before?.focus();
    };
  }, []);

  function onKey(event: KeyboardEvent): void {
    const buttons = [...(list.current?.querySelectorAll("button") ?? [])];
    const at = buttons.indexOf(document.activeElement as HTMLButtonElement);
    if (event.key === "Escape") onClose();
    else if (event.key === "ArrowDown") buttons[(at + 1) % buttons.length]?.focus();
    else if (event.key === "ArrowUp") buttons[(at - 1 + buttons.length) % buttons.length]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  const choose = (act: () => void) => () => {
    onClose();
    act();
  };
  const exportAs = async (type: string, ending: string, write: (kept: Kept) => string) => {
    const text = write({ conversation, messages: await session.messagesOf(id) });
    download(`${fileName(title)}.${ending}`, new Blob([text], { type }));
  };
  return (
    <div ref={list} class="menu" role="menu" style={{ top: `${top}px`, left: `${left}px` }} onKeyDown={onKey}>
      <button type="button" role="menuitem" onClick={choose(() => onRename(id))}>
        <Icon name="edit" size={16} /> Rename
      </button>
      <button type="button" role="menuitem" onClick={choose(() => void exportAs("text/markdown", "md", asMarkdown))}>
        <Icon name="file" size={16} /> Export as Markdown
      </button>
      <button type="button" role="menuitem" onClick={choose(() => void exportAs("application/json", "json", (kept) => asJson([kept])))}>
        <Icon name="file" size={16} /> Export as JSON
      </button>
      <button type="button" role="menuitem" class="danger-text" onClick={choose(() => void session.delete(id))}>
        <Icon name="trash" size={16} /> Delete
      </button>
    </div>
  );
}

const DAY_MILLISECONDS = 86_400_000;

function grouped(conversations: readonly Conversation[]): { title: string; conversations: Conversation[] }[] {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const groups = new Map<string, Conversation[]>();
  for (const conversation of conversations) {
    const age = midnight - conversation.updatedAt;
    const title =
      age <= 0
        ? "Today"
        : age <= DAY_MILLISECONDS
          ? "Yesterday"
          : age <= 7 * DAY_MILLISECONDS
            ? "Last seven days"
            : new Date(conversation.updatedAt).toLocaleDateString("en", { month: "long", year: "numeric" });
    groups.set(title, [...(groups.get(title) ?? []), conversation]);
  }
  return [...groups].map(([title, members]) => ({ title, conversations: members }));
}
