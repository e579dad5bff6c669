/** What a person may set for a conversation. Null means that the server, or the model's own configuration, decides. */

export interface Settings {
  systemPrompt: string;
  temperature: number | null;
  topP: number | null;
  topK: number | null;
  minP: number | null;
  repetitionPenalty: number | null;
  maxTokens: number | null;
  seed: number | null;
  reasoningEffort: string | null;
  /** A JSON list of function definitions, as OpenAI writes them; empty for none. */
  tools: string;
}

export const NO_SETTINGS: Settings = {
  systemPrompt: "",
  temperature: null,
  topP: null,
  topK: null,
  minP: null,
  repetitionPenalty: null,
  maxTokens: null,
  seed: null,
  reasoningEffort: null,
  tools: "",
};

/** Whether anything is not as the server would have it. */
export function isChanged(settings: Settings): boolean {
  return (Object.keys(NO_SETTINGS) as (keyof Settings)[]).some((key) => settings[key] !== NO_SETTINGS[key]);
}

const NAME = "abaci.settings";

/** The settings used last; a new conversation starts with them. */
export function storedSettings(): Settings {
  try {
    return { ...NO_SETTINGS, ...(JSON.parse(localStorage.getItem(NAME) ?? "{}") as Partial<Settings>) };
  } catch {
    return NO_SETTINGS;
  }
}

export function storeSettings(settings: Settings): void {
  localStorage.setItem(NAME, JSON.stringify(settings));
}

export interface NumberSetting {
  key: "temperature" | "topP" | "topK" | "minP" | "repetitionPenalty" | "maxTokens" | "seed";
  wireName: string;
  label: string;
  explanation: string;
  minimum: number;
  maximum?: number;
  step: number;
  /** Shown as a slider beside the number; it starts here when nothing was set. */
  sliderStart?: number;
}

export const NUMBER_SETTINGS: readonly NumberSetting[] = [
  {
    key: "temperature",
    wireName: "temperature",
    label: "Temperature",
    explanation: "0 takes the likeliest token each time; higher is more varied.",
    minimum: 0,
    maximum: 2,
    step: 0.05,
    sliderStart: 1,
  },
  {
    key: "topP",
    wireName: "top_p",
    label: "Top p",
    explanation: "Draw from the likeliest tokens that together have this probability.",
    minimum: 0.01,
    maximum: 1,
    step: 0.01,
    sliderStart: 1,
  },
  {
    key: "minP",
    wireName: "min_p",
    label: "Min p",
    explanation: "Leave out tokens less likely than this share of the likeliest.",
    minimum: 0,
    maximum: 1,
    step: 0.01,
    sliderStart: 0,
  },
  {
    key: "repetitionPenalty",
    wireName: "repetition_penalty",
    label: "Repetition penalty",
    explanation: "Above 1 makes what was already said less likely.",
    minimum: 0.5,
    maximum: 2,
    step: 0.01,
    sliderStart: 1,
  },
  { key: "topK", wireName: "top_k", label: "Top k", explanation: "Draw from this many tokens.", minimum: 1, step: 1 },
  { key: "maxTokens", wireName: "max_tokens", label: "Max tokens", explanation: "The longest answer.", minimum: 1, step: 1 },
  { key: "seed", wireName: "seed", label: "Seed", explanation: "The same seed gives the same answer.", minimum: 0, step: 1 },
];

/** The settings as members of a request. Throws SyntaxError or TypeError where the tools are no list. */
export function settingsOnWire(settings: Settings): Record<string, unknown> {
  const members: Record<string, unknown> = {};
  for (const { key, wireName } of NUMBER_SETTINGS) {
    if (settings[key] !== null) members[wireName] = settings[key];
  }
  if (settings.reasoningEffort !== null) members["reasoning_effort"] = settings.reasoningEffort;
  const tools = parseTools(settings.tools);
  if (tools.length > 0) members["tools"] = tools;
  return members;
}

/** A list of tools; a bare function definition is wrapped as OpenAI wants it. */
export function parseTools(text: string): unknown[] {
  if (text.trim() === "") return [];
  const given: unknown = JSON.parse(text);
  if (!Array.isArray(given)) throw new TypeError("Tools are a JSON list.");
  return given.map((tool: unknown) => {
    if (typeof tool !== "object" || tool === null) throw new TypeError("Each tool is a JSON object.");
    return "function" in tool ? tool : { type: "function", function: tool };
  });
}
