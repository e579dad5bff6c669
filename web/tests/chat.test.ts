import { expect, test } from "vitest";
import { ApiError, errorFields } from "../src/shared/api.ts";
import { completionBody, piecesOf, textWithAttachments } from "../src/chat/completion.ts";
import { childrenOf, newestLeaf, newMessage, pathTo, titleFor, type Message } from "../src/chat/conversation.ts";
import { eventData } from "../src/chat/events.ts";
import { asJson, fromJson } from "../src/chat/export.ts";
import { NO_SETTINGS, parseTools, settingsOnWire } from "../src/chat/settings.ts";

async function read(parts: Uint8Array[]): Promise<string[]> {
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const part of parts) controller.enqueue(part);
      controller.close();
    },
  });
  const data: string[] = [];
  for await (const item of eventData(body)) data.push(item);
  return data;
}

test("events are the same wherever the network cuts them", async () => {
  const stream = new TextEncoder().encode(': ping\n\ndata: {"a":"ü😀"}\r\n\r\nevent: x\ndata:two\ndata: lines\n\ndata: [DONE]\n\n');
  const expected = ['{"a":"ü😀"}', "two\nlines", "[DONE]"];
  expect(await read([stream])).toEqual(expected);
  for (let size = 1; size < 20; size += 1) {
    const parts = [];
    for (let start = 0; start < stream.length; start += size) parts.push(stream.slice(start, start + size));
    expect(await read(parts)).toEqual(expected);
  }
});

test("a chunk is taken apart, and an error in the stream is an error", () => {
  const chunk = { choices: [{ delta: { content: "b", reasoning: "a", reasoning_content: "a" }, finish_reason: "stop" }], usage: null };
  expect([...piecesOf(JSON.stringify(chunk))]).toEqual([
    { kind: "reasoning", text: "a" },
    { kind: "content", text: "b" },
    { kind: "finish", reason: "stop" },
  ]);
  expect(() => [...piecesOf('{"error":{"message":"no memory","hint":"wait"}}')]).toThrow(new ApiError("no memory", 500, "wait"));
});

test("errors of all dialects are read", () => {
  expect(errorFields('{"error":{"message":"m","hint":"h"}}')).toEqual({ message: "m", hint: "h" });
  expect(errorFields('{"error":{"message":"m (h)","hint":"h"}}')).toEqual({ message: "m", hint: "h" });
  expect(errorFields('{"error":"plain"}')).toEqual({ message: "plain", hint: null });
  expect(errorFields('{"detail":"Not Found"}')).toEqual({ message: "Not Found", hint: null });
  expect(errorFields('{"error":{"message":"seed (5) is odd (or not)"}}')).toEqual({ message: "seed (5) is odd (or not)", hint: null });
  expect(errorFields("<html>bad gateway</html>")).toEqual({ message: null, hint: null });
});

function tree(...links: [id: string, parentId: string | null][]): Map<string, Message> {
  return new Map(
    links.map(([id, parentId], index) => [id, newMessage({ id, parentId, conversationId: "c", role: "user", createdAt: index })]),
  );
}

test("an edited message is a branch, and each branch is followed to its newest end", () => {
  const messages = tree(["a", null], ["b", "a"], ["c", "b"], ["b2", "a"], ["c2", "b2"], ["c3", "b2"]);
  const ids = (path: Message[]) => path.map(({ id }) => id);
  expect(ids(pathTo(messages, "c"))).toEqual(["a", "b", "c"]);
  expect(ids(childrenOf(messages, "a"))).toEqual(["b", "b2"]);
  expect(newestLeaf(messages, "b")).toBe("c");
  expect(newestLeaf(messages, "b2")).toBe("c3");
  expect(pathTo(messages, "gone")).toEqual([]);
});

test("damaged storage does not hang the page", () => {
  expect(pathTo(tree(["a", "b"], ["b", "a"]), "a")).toHaveLength(2);
});

test("a request carries what was said and set, and nothing that was not", () => {
  const said = { conversationId: "c", parentId: null };
  const path = [
    newMessage({ ...said, role: "user", content: "hi", attachments: [{ name: "a.md", text: "````\nx" }] }),
    newMessage({ ...said, role: "assistant", state: "failed" }),
    newMessage({ ...said, role: "assistant", content: "", toolCalls: [{ id: "1", name: "f", arguments: "" }] }),
    newMessage({ ...said, role: "tool", content: "42", toolCallId: "1" }),
  ];
  const body = completionBody("m", path, { ...NO_SETTINGS, systemPrompt: " Be brief. ", temperature: 0, topK: 5 });
  expect(body).toEqual({
    model: "m",
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "File: a.md\n`````\n````\nx\n`````\n\nhi" },
      { role: "assistant", content: null, tool_calls: [{ id: "1", type: "function", function: { name: "f", arguments: "{}" } }] },
      { role: "tool", content: "42", tool_call_id: "1" },
    ],
    stream: true,
    stream_options: { include_usage: true },
    temperature: 0,
    top_k: 5,
  });
  expect(settingsOnWire(NO_SETTINGS)).toEqual({});
});

test("tools are a list, and a bare function is wrapped", () => {
  expect(parseTools(' [{"name":"f"}] ')).toEqual([{ type: "function", function: { name: "f" } }]);
  expect(() => parseTools('{"name":"f"}')).toThrow("list");
  expect(() => parseTools("[")).toThrow(SyntaxError);
});

test("a title is the first line, or the first file", () => {
  expect(titleFor({ content: "\n  One \ntwo", attachments: [] })).toBe("One");
  expect(titleFor({ content: "x".repeat(80), attachments: [] })).toHaveLength(60);
  expect(titleFor({ content: "", attachments: [{ name: "a.txt", text: "" }] })).toBe("a.txt");
  expect(textWithAttachments({ content: "only", attachments: [] })).toBe("only");
});

test("what was exported is read back under new names", () => {
  const messages = [...tree(["a", null], ["b", "a"], ["b2", "a"]).values()];
  const conversation = { id: "c", title: "T", createdAt: 1, updatedAt: 2, leafId: "b", model: "m", settings: { ...NO_SETTINGS, topK: 3 } };
  const [kept, ...rest] = fromJson(asJson([{ conversation, messages }]));
  expect(rest).toEqual([]);
  const ids = kept?.messages.map(({ id }) => id) ?? [];
  expect(new Set([...ids, "a", "b", "b2", "c", kept?.conversation.id]).size).toBe(8);
  expect(kept?.messages.map(({ parentId }) => parentId)).toEqual([null, ids[0], ids[0]]);
  expect(kept?.conversation).toEqual({ ...conversation, id: kept?.messages[0]?.conversationId, leafId: ids[1] });
});

test("a file from elsewhere is refused", () => {
  for (const text of ["", "null", "[]", '{"format":"other"}', '{"format":"abaci-conversations","version":1,"conversations":[null]}']) {
    expect(() => fromJson(text), text).toThrow("no conversations");
  }
});
