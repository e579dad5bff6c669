/** The chat page: the list of conversations, the one that is open, and what the keyboard does anywhere. */

import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { IconButton, KeyDialog, ThemeButton } from "../shared/controls.tsx";
import { sentence } from "../shared/format.ts";
import { Icon } from "../shared/icons.tsx";
import { Composer, focusComposer } from "./composer.tsx";
import { useSession } from "./context.ts";
import { ModelPicker } from "./model_picker.tsx";
import { isChanged } from "./settings.ts";
import { SettingsPanel } from "./settings_panel.tsx";
import { Sidebar } from "./sidebar.tsx";
import { Thread } from "./thread.tsx";

const NARROW = "(max-width: 820px)";
const SIDEBAR_NAME = "abaci.sidebar";

export function ChatPage() {
  const session = useSession();
  const sidebarOpen = useSignal(!matchMedia(NARROW).matches && localStorage.getItem(SIDEBAR_NAME) !== "closed");
  const settingsOpen = useSignal(false);

  const isSet = isChanged(session.settings.value);

  function toggleSidebar(open: boolean): void {
    sidebarOpen.value = open;
    if (!matchMedia(NARROW).matches) localStorage.setItem(SIDEBAR_NAME, open ? "open" : "closed");
  }

  function closeOverlay(): void {
    if (matchMedia(NARROW).matches) sidebarOpen.value = false;
  }

  function newChat(): void {
    session.open(null);
    closeOverlay();
    focusComposer();
  }

  useSignalEffect(() => {
    document.title = session.current.value ? `${session.current.value.title} · Abaci` : "Abaci";
  });

  useEffect(() => {
    function onKey(event: KeyboardEvent): void {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        newChat();
      } else if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog[open]")) {
        if (session.run.peek()) session.stop();
        else settingsOpen.value = false;
      } else if (event.key === "/" && !isWriting(event.target) && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        focusComposer();
      }
    }
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);

  return (
    <div class={`chat-page ${sidebarOpen.value ? "with-sidebar" : ""} ${settingsOpen.value ? "with-settings" : ""}`}>
      <Sidebar open={sidebarOpen.value} onClose={() => toggleSidebar(false)} onNewChat={newChat} onChosen={closeOverlay} />
      {sidebarOpen.value && <div class="scrim for-sidebar" onClick={closeOverlay} />}
      <main class="main">
        <header class="topbar">
          {!sidebarOpen.value && (
            <>
              <IconButton icon="menu" label="Show conversations" onClick={() => toggleSidebar(true)} />
              <IconButton icon="plus" label="New chat (Ctrl+K)" onClick={newChat} class="only-wide" />
            </>
          )}
          <ModelPicker />
          <span class="spacer" />
          <a class="icon-button" href="dashboard" aria-label="Dashboard" title="Dashboard">
            <Icon name="chart" />
          </a>
          <ThemeButton />
          <IconButton
            icon="settings"
            label={isSet ? "Settings (changed)" : "Settings"}
            class={isSet ? "changed" : ""}
            expanded={settingsOpen.value}
            onClick={() => (settingsOpen.value = !settingsOpen.value)}
          />
        </header>
        <Thread />
        <Composer />
      </main>
      {settingsOpen.value && (
        <>
          <div class="scrim for-settings" onClick={() => (settingsOpen.value = false)} />
          <SettingsPanel onClose={() => (settingsOpen.value = false)} />
        </>
      )}
      <Notice />
      <Announcer />
      <KeyDialog />
    </div>
  );
}

function Notice() {
  const { notice } = useSession();
  return (
    <div class="notice-place" role="status">
      {notice.value && (
        <div class="notice">
          <span>{notice.value.text}</span>
          {notice.value.action && (
            <button type="button" class="link-button" onClick={notice.value.action.act}>
              {notice.value.action.label}
            </button>
          )}
        </div>
      )}
    </div>
  );
}

/** Tells people who do not see the page when an answer begins and how it ended; the answer itself is not read piece by piece. */
function Announcer() {
  const session = useSession();
  const words = useSignal("");
  useSignalEffect(() => {
    const run = session.run.value;
    if (run) {
      words.value = "The answer is being written.";
      void run.ended.then(() => {
        const { state, failure } = run.message.peek();
        words.value = failure ? sentence(failure.message) : state === "stopped" ? "The answer was stopped." : "The answer is complete.";
      });
    }
  });
  return (
    <div class="visually-hidden" aria-live="polite">
      {words.value}
    </div>
  );
}

function isWriting(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName));
}
