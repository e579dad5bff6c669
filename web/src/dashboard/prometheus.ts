/** Prometheus' text format, and what is computed from it: sums, rates, percentiles of histograms. Pure functions. */

export interface Sample {
  name: string;
  labels: Readonly<Record<string, string>>;
  value: number;
}

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;

export function parseSamples(text: string): Sample[] {
  return text.split("\n").flatMap((line) => {
    const match = line.startsWith("#") ? null : LINE.exec(line.trim());
    if (!match) return [];
    const [, name = "", labels = "", value = ""] = match;
    return [{ name, labels: parseLabels(labels), value: parseValue(value) }];
  });
}

function parseLabels(text: string): Record<string, string> {
  const unescape = (value: string) => value.replace(/\\(.)/g, (_, character: string) => (character === "n" ? "\n" : character));
  return Object.fromEntries([...text.matchAll(LABEL)].map(([, name = "", value = ""]) => [name, unescape(value)]));
}

function parseValue(text: string): number {
  if (text === "+Inf") return Infinity;
  return text === "-Inf" ? -Infinity : Number(text);
}

/** Samples of one scrape, of one model or of all (null). Names are without the prefix. */
export class Scrape {
  private readonly byName = new Map<string, Sample[]>();

  constructor(
    readonly atSeconds: number,
    samples: readonly Sample[],
    model: string | null,
  ) {
    for (const sample of samples) {
      const of = sample.labels["model_name"];
      if (!sample.name.startsWith(PREFIX) || (model !== null && of !== undefined && of !== model)) continue;
      const name = sample.name.slice(PREFIX.length);
      const known = this.byName.get(name);
      if (known) known.push(sample);
      else this.byName.set(name, [sample]);
    }
  }

  values(name: string): number[] {
    return (this.byName.get(name) ?? []).map(({ value }) => value);
  }

  /** Null where there is no such sample. */
  sum(name: string): number | null {
    const values = this.values(name);
    return values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0);
  }

  largest(name: string): number | null {
    const values = this.values(name);
    return values.length === 0 ? null : Math.max(...values);
  }

  label(name: string, label: string): string | null {
    return this.byName.get(name)?.[0]?.labels[label] ?? null;
  }

  /** Cumulative counts by upper bound, in order. */
  buckets(name: string): Map<number, number> {
    const counts = new Map<number, number>();
    for (const { labels, value } of this.byName.get(`${name}_bucket`) ?? []) {
      const bound = parseValue(labels["le"] ?? "");
      counts.set(bound, (counts.get(bound) ?? 0) + value);
    }
    return new Map([...counts].sort(([a], [b]) => a - b));
  }
}

const PREFIX = "abaci_";

export function modelsIn(samples: readonly Sample[]): string[] {
  return [...new Set(samples.flatMap(({ labels }) => labels["model_name"] ?? []))].sort();
}

/** How much a counter grew. Null if it is not there, or fell because the server was started again. */
export function growth(before: Scrape, after: Scrape, name: string): number | null {
  const last = after.sum(name);
  if (last === null) return null;
  const grown = last - (before.sum(name) ?? 0);
  return grown < 0 ? null : grown;
}

/** A percentile of what a histogram counted between two scrapes, linear within a bucket; null if it counted nothing. */
export function percentile(before: Scrape, after: Scrape, name: string, fraction: number): number | null {
  const earlier = before.buckets(name);
  const counts = [...after.buckets(name)].map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)] as const);
  const total = counts.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const rank = fraction * total;
  let lowerBound = 0;
  let lowerCount = 0;
  for (const [bound, count] of counts) {
    if (count >= rank) {
      if (bound === Infinity) return lowerBound;
      const within = count === lowerCount ? 1 : (rank - lowerCount) / (count - lowerCount);
      return lowerBound + (bound - lowerBound) * within;
    }
    lowerBound = bound;
    lowerCount = count;
  }
  return lowerBound;
}
