/** The conversation that is open. Stays at its end while a person is there, and leaves them alone where they read above. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Icon, Mark } from "../shared/icons.tsx";
import { fillComposer } from "./composer.tsx";
import { useSession } from "./context.ts";
import { MessageView } from "./message_view.tsx";

/** Within this distance of the end a person counts as being there. In pixels. */
const NEAR_END = 80;

export function Thread() {
  const session = useSession();
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const atEnd = useSignal(true);
  const path = session.path.value;
  const isEmpty = path.length === 0;
  const lastQuestion = path.findLast((message) => message.peek().role === "user")?.peek().id ?? null;

  function toEnd(): void {
    const place = scroller.current;
    if (place) place.scrollTop = place.scrollHeight;
  }

  useEffect(() => {
    atEnd.value = true;
    toEnd();
  }, [session.current.value?.id ?? null, lastQuestion]);

  useEffect(() => {
    if (!content.current) return;
    const observer = new ResizeObserver(() => {
      if (atEnd.peek()) toEnd();
    });
    observer.observe(content.current);
    if (scroller.current) observer.observe(scroller.current);
    return () => observer.disconnect();
  }, [isEmpty]);

  if (isEmpty) return <Welcome />;
  return (
    <div class="thread-place">
      <div
        ref={scroller}
        class="thread"
        tabIndex={0}
        role="log"
        aria-live="off"
        aria-label="Conversation"
        onClick={copyCode}
        onScroll={({ currentTarget: place }) => {
          atEnd.value = place.scrollHeight - place.scrollTop - place.clientHeight < NEAR_END;
        }}
      >
        <div ref={content} class="column">
          {path.map((message, index) => (
            <MessageView key={message.peek().id} message={message} isLast={index === path.length - 1} />
          ))}
        </div>
      </div>
      {!atEnd.value && (
        <button type="button" class="to-end" aria-label="To the end" title="To the end" onClick={toEnd}>
          <Icon name="down" size={16} />
        </button>
      )}
    </div>
  );
}

const SUGGESTIONS: readonly { title: string; prompt: string }[] = [
  { title: "Explain an idea", prompt: "Explain how a hash table works, with a small example, to someone who knows arrays." },
  { title: "Write some code", prompt: "Write a Python function that finds the longest word in a text file, with a short test." },
  { title: "Improve a text", prompt: "Make this friendlier and half as long:\n\n" },
  { title: "Think of names", prompt: "Suggest ten short names for a small bakery by the sea, each with a few words on why." },
];

function Welcome() {
  const session = useSession();
  const model = session.model.value;
  return (
    <div class="thread welcome">
      <div class="column">
        <Mark size={44} />
        <h1>What shall we work out?</h1>
        <p class="soft">{`${model?.id ?? "The model"} ${whereItRuns(location.hostname)}`}</p>
        <ul class="suggestions">
          {SUGGESTIONS.map(({ title, prompt }) => (
            <li key={title}>
              <button type="button" onClick={() => fillComposer(prompt)}>
                <strong>{title}</strong>
                <span>{prompt.trim()}</span>
              </button>
            </li>
          ))}
        </ul>
      </div>
    </div>
  );
}

function whereItRuns(host: string): string {
  const isHere = host === "localhost" || host === "[::1]" || host.startsWith("127.");
  return isHere ? "answers on this machine. Nothing you write leaves it." : `answers on ${host}. Nothing you write goes further.`;
}

/** The copy buttons of code blocks are part of rendered markup, so one listener serves them all. */
function copyCode(event: MouseEvent): void {
  const button = (event.target as Element).closest<HTMLButtonElement>(".code-copy");
  const code = button?.closest(".code")?.querySelector("code")?.textContent;
  if (!button || code == null) return;
  void copyText(code).then((copied) => {
    button.textContent = copied ? "Copied" : "Not copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

/** The clipboard is open to pages of this machine and of HTTPS only; elsewhere the old way still works. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}
