/** What the dashboard shows of each moment, computed from scrapes. */

import { growth, percentile, type Scrape } from "./prometheus.ts";

export interface Figures {
  atSeconds: number;
  /** Tokens per second. */
  generation: number | null;
  prompt: number | null;
  running: number | null;
  waiting: number | null;
  /** Seconds. */
  firstTokenMedian: number | null;
  firstToken95: number | null;
  nextTokenMedian: number | null;
  nextToken99: number | null;
  /** 0 to 1. */
  cacheUsed: number | null;
  cacheHits: number | null;
}

/** Over this long rates are averaged: short enough to be live, long enough not to flicker. */
const RATE_SECONDS = 6;
/** Percentiles need more to count. */
const PERCENTILE_SECONDS = 30;

/** The figures at the newest of these scrapes, which are in order. Null before there are two. */
export function newestFigures(scrapes: readonly Scrape[]): Figures | null {
  const now = scrapes.at(-1);
  if (!now || scrapes.length < 2) return null;
  const recent = firstWithin(scrapes, now.atSeconds - RATE_SECONDS);
  const earlier = firstWithin(scrapes, now.atSeconds - PERCENTILE_SECONDS);
  const elapsed = now.atSeconds - recent.atSeconds;
  const rate = (grown: number | null) => (grown === null || elapsed <= 0 ? null : grown / elapsed);
  const next = growth(recent, now, "inter_token_latency_seconds_count") ?? 0;
  const first = growth(recent, now, "time_to_first_token_seconds_count") ?? 0;
  const computed = growth(recent, now, "iteration_tokens_total");
  const queried = growth(earlier, now, "prefix_cache_queries_total");
  const hit = growth(earlier, now, "prefix_cache_hits_total");
  return {
    atSeconds: now.atSeconds,
    // Counted as tokens come: the counter of generated tokens moves when a request has ended. The first token of an
    // answer comes out of the step that reads its prompt, so it is not among those computed for generation.
    generation: rate(next + first),
    prompt: rate(computed === null ? null : Math.max(0, computed - next)),
    running: now.sum("num_requests_running"),
    waiting: now.sum("num_requests_waiting"),
    firstTokenMedian: percentile(earlier, now, "time_to_first_token_seconds", 0.5),
    firstToken95: percentile(earlier, now, "time_to_first_token_seconds", 0.95),
    nextTokenMedian: percentile(earlier, now, "inter_token_latency_seconds", 0.5),
    nextToken99: percentile(earlier, now, "inter_token_latency_seconds", 0.99),
    cacheUsed: now.largest("kv_cache_usage_perc"),
    cacheHits: queried ? (hit ?? 0) / queried : null,
  };
}

function firstWithin(scrapes: readonly Scrape[], sinceSeconds: number): Scrape {
  const last = scrapes.length - 2;
  const found = scrapes.findIndex(({ atSeconds }) => atSeconds >= sinceSeconds - 0.5);
  return scrapes[Math.min(found, last)] as Scrape;
}
