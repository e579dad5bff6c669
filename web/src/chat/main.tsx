import { render } from "preact";
import "../shared/base.css";
import "./chat.css";
import { applyTheme } from "../shared/theme.ts";
import { ChatPage } from "./page.tsx";
import { SessionContext } from "./context.ts";
import { Session } from "./session.ts";
import { openStorage, passingStorage } from "./storage.ts";

applyTheme();

async function main(): Promise<void> {
  const session = new Session(await openStorage().catch(passingStorage));
  await session.start();
  addEventListener("popstate", () => void session.openFromAddress());
  addEventListener("hashchange", () => void session.openFromAddress());
  const place = document.getElementById("page");
  if (!place) throw new Error("The page has no place for the chat.");
  render(
    <SessionContext.Provider value={session}>
      <ChatPage />
    </SessionContext.Provider>,
    place,
  );
  void session.loadModels();
}

void main();
