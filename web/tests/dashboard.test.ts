import { expect, test } from "vitest";
import { axisTop } from "../src/dashboard/chart.tsx";
import { newestFigures } from "../src/dashboard/figures.ts";
import { columnHeights } from "../src/dashboard/top.tsx";
import { growth, parseSamples, percentile, Scrape } from "../src/dashboard/prometheus.ts";

const scrape = (text: string, atSeconds = 0, model: string | null = null) => new Scrape(atSeconds, parseSamples(text), model);

test("samples are read with their labels, comments are not", () => {
  const [first, second, ...rest] = parseSamples(
    '# HELP abaci_x Something.\nabaci_x{model_name="a \\"b\\" {c}",engine="0"} 3.5 1700000000\nabaci_y +Inf\n\nnonsense\n',
  );
  expect(first).toEqual({ name: "abaci_x", labels: { model_name: 'a "b" {c}', engine: "0" }, value: 3.5 });
  expect(second).toEqual({ name: "abaci_y", labels: {}, value: Infinity });
  expect(rest).toEqual([]);
});

test("one model is told from the others, and what has no model belongs to each", () => {
  const text = 'abaci_t{model_name="a"} 1\nabaci_t{model_name="b"} 2\nabaci_build_info{version="1"} 1\nother_t 9';
  expect(scrape(text).sum("t")).toBe(3);
  expect(scrape(text, 0, "b").sum("t")).toBe(2);
  expect(scrape(text, 0, "b").label("build_info", "version")).toBe("1");
  expect(scrape(text).sum("missing")).toBeNull();
});

test("a counter that fell was started again", () => {
  expect(growth(scrape("abaci_t 5"), scrape("abaci_t 8"), "t")).toBe(3);
  expect(growth(scrape("abaci_t 8"), scrape("abaci_t 5"), "t")).toBeNull();
  expect(growth(scrape(""), scrape("abaci_t 5"), "t")).toBe(5);
});

function histogram(counts: Record<string, number>): string {
  return Object.entries(counts)
    .map(([bound, count]) => `abaci_h_bucket{le="${bound}"} ${count}`)
    .join("\n");
}

test("a percentile is of what was counted in between, linear within its bucket", () => {
  const before = scrape(histogram({ "0.1": 50, "1.0": 50, "+Inf": 50 }));
  const after = scrape(histogram({ "+Inf": 70, "0.1": 60, "1.0": 68 }));
  expect(percentile(before, after, "h", 0.25)).toBeCloseTo(0.05);
  expect(percentile(before, after, "h", 0.5)).toBeCloseTo(0.1);
  expect(percentile(before, after, "h", 0.7)).toBeCloseTo(0.1 + 0.9 * 0.5);
  expect(percentile(before, after, "h", 0.99)).toBe(1);
  expect(percentile(after, after, "h", 0.5)).toBeNull();
});

test("rates are over the last seconds, and prompt tokens are what was computed beside the generated ones", () => {
  const at = (seconds: number) =>
    scrape(
      `abaci_iteration_tokens_total ${400 * seconds}\nabaci_inter_token_latency_seconds_count ${100 * seconds}\n` +
        `abaci_time_to_first_token_seconds_count ${2 * seconds}\nabaci_prefix_cache_queries_total ${10 * seconds}\n` +
        `abaci_prefix_cache_hits_total ${4 * seconds}`,
      seconds,
    );
  expect(newestFigures([at(0)])).toBeNull();
  const figures = newestFigures([at(0), at(2), at(4), at(40), at(42)]);
  expect(figures?.generation).toBeCloseTo(102);
  expect(figures?.prompt).toBeCloseTo(300);
  expect(figures?.cacheHits).toBeCloseTo(0.4);
  expect(figures?.running).toBeNull();
});

test("an axis ends at a round number", () => {
  expect([0, 0.03, 1, 122, 999].map((value) => axisTop(value))).toEqual([1, 0.05, 1, 200, 1000]);
  expect([0, 1, 5, 31].map((value) => axisTop(value, true))).toEqual([2, 2, 6, 40]);
});

test("columns fill the height, and what is not nothing is seen", () => {
  expect(columnHeights([0, 1, 50, 100], 120)).toEqual([0, 2, 60, 120]);
  expect(columnHeights([0, 0], 120)).toEqual([0, 0]);
  expect(columnHeights([], 120)).toEqual([]);
});
