/** The server as the pages see it: addresses, the key, and errors with their hints. Knows no endpoint's meaning. */

import { signal } from "@preact/signals";

const KEY_NAME = "abaci.key";

/** An answer that is not a success, or none at all (status 0). `hint` says what to do next. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly hint: string | null = null,
    readonly retryAfterSeconds: number | null = null,
  ) {
    super(message);
  }
}

interface KeyQuestion {
  /** What the server said when it refused. */
  reason: string;
  answer(key: string | null): void;
}

/** Set while the page waits for a person to give a key. */
export const keyQuestion = signal<KeyQuestion | null>(null);

let pendingKey: Promise<boolean> | null = null;
let wasDeclined = false;

/** Whether a refused request asks for a key: always when a person wanted something, once when the page did by itself. */
type Asking = "always" | "once";

export function storedKey(): string | null {
  return localStorage.getItem(KEY_NAME);
}

export function storeKey(key: string | null): void {
  if (key) localStorage.setItem(KEY_NAME, key);
  else localStorage.removeItem(KEY_NAME);
}

/** Asks for a key once, however many requests were refused. True if one was given. */
export function askForKey(reason: string): Promise<boolean> {
  pendingKey ??= new Promise<boolean>((resolve) => {
    keyQuestion.value = {
      reason,
      answer(key) {
        if (key) storeKey(key);
        wasDeclined = key === null;
        keyQuestion.value = null;
        pendingKey = null;
        resolve(key !== null);
      },
    };
  });
  return pendingKey;
}

/** The answer to a request, if it is a success. Throws ApiError otherwise, after asking for a key where one is missing. */
export async function request(path: string, init: RequestInit = {}, asking: Asking = "always"): Promise<Response> {
  for (;;) {
    const response = await attempt(path, init);
    if (response.ok) return response;
    const error = await errorOf(response);
    const mayAsk = error.status === 401 && (asking === "always" || !wasDeclined);
    if (!mayAsk || !(await askForKey(error.message))) throw error;
  }
}

export async function requestJson<Answer>(path: string, asking: Asking = "always"): Promise<Answer> {
  return (await (await request(path, {}, asking)).json()) as Answer;
}

async function attempt(path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  const key = storedKey();
  if (key) headers.set("Authorization", `Bearer ${key}`);
  try {
    return await fetch(new URL(path, document.baseURI), { ...init, headers });
  } catch (cause) {
    if (cause instanceof DOMException && cause.name === "AbortError") throw cause;
    throw new ApiError("The server cannot be reached.", 0, "See whether abaci serve is still running, then try again.");
  }
}

/** Reads OpenAI's, Ollama's and plain error bodies. */
async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => "");
  const given = errorFields(text);
  const retryAfter = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  const seconds = Number.isFinite(retryAfter) ? retryAfter : null;
  const hint = given.hint ?? (seconds === null ? null : `Try again in ${Math.ceil(seconds)} s.`) ?? requestIdHint(response);
  return new ApiError(given.message ?? `The server answered ${response.status}.`, response.status, hint, seconds);
}

/** What the server does not tell on the wire, its log does. */
function requestIdHint(response: Response): string | null {
  const id = response.headers.get("x-request-id");
  return response.status >= 500 && id ? `The id of this request is ${id}.` : null;
}

export function errorFields(text: string): { message: string | null; hint: string | null } {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return { message: text.length > 0 && text.length < 500 && !text.startsWith("<") ? text : null, hint: null };
  }
  return fieldsOf(body);
}

function fieldsOf(value: unknown): { message: string | null; hint: string | null } {
  if (typeof value === "string") return { message: value, hint: null };
  if (typeof value !== "object" || value === null) return { message: null, hint: null };
  const fields = value as Record<string, unknown>;
  if (fields["error"] !== undefined) return fieldsOf(fields["error"]);
  const message = fields["message"] ?? fields["detail"];
  const hint = fields["hint"];
  if (typeof message !== "string") return { message: null, hint: null };
  if (typeof hint !== "string") return { message, hint: null };
  const ending = ` (${hint})`; // for clients that show nothing but the message
  return { message: message.endsWith(ending) ? message.slice(0, -ending.length) : message, hint };
}
