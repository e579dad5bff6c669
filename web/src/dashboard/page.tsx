/** The dashboard: how fast, how busy and how full the server is now and was in the last minutes, and who used it. */

import { useMemo } from "preact/hooks";
import { askForKey } from "../shared/api.ts";
import { KeyDialog, ThemeButton } from "../shared/controls.tsx";
import * as format from "../shared/format.ts";
import { Icon, Mark } from "../shared/icons.tsx";
import { Chart, show } from "./chart.tsx";
import { WINDOW_SECONDS, type Feed } from "./feed.ts";
import type { Figures } from "./figures.ts";
import { Top } from "./top.tsx";
import { Choice, Usage } from "./usage.tsx";

export function DashboardPage({ feed }: { feed: Feed }) {
  const failure = feed.failure.value;
  return (
    <div class="dashboard">
      <header class="dashboard-head">
        <a class="brand" href="./" aria-label="Abaci: chat">
          <Mark /> Abaci
        </a>
        <h1>Dashboard</h1>
        <span class={`state ${failure ? "failing" : feed.latest.value ? "live" : ""}`} role="status">
          <i /> {failure ? format.sentence(failure.message) : feed.latest.value ? "live" : "reading…"}
        </span>
        {failure?.status === 401 && (
          <button type="button" class="link-button" onClick={() => void askForKey(failure.message)}>
            Give a key
          </button>
        )}
        <span class="spacer" />
        <ModelChoice feed={feed} />
        <a class="icon-button" href="./" aria-label="Chat" title="Chat">
          <Icon name="chat" />
        </a>
        <ThemeButton />
      </header>
      <Tiles feed={feed} />
      <Charts feed={feed} />
      <Top />
      <Usage />
      <Machine feed={feed} />
      <KeyDialog />
    </div>
  );
}

function ModelChoice({ feed }: { feed: Feed }) {
  const models = feed.models.value;
  if (models.length < 2) return null;
  return (
    <Choice
      label="Model"
      value={feed.model.value ?? ""}
      choices={{ "": "All models", ...Object.fromEntries(models.map((name) => [name, name])) }}
      onChange={(value) => feed.choose(value || null)}
    />
  );
}

function Tiles({ feed }: { feed: Feed }) {
  const now = feed.history.value.at(-1);
  return (
    <dl class="tiles">
      <Tile name="Generating" value={show(now?.generation, rate)} unit="tokens/s" />
      <Tile name="Reading prompts" value={show(now?.prompt, rate)} unit="tokens/s" />
      <Tile name="First token, p95" value={show(now?.firstToken95, format.seconds)} />
      <Tile name="Next token, p99" value={show(now?.nextToken99, format.seconds)} />
      <Tile name="Running" value={show(now?.running, format.count)} unit={now?.waiting ? `+ ${format.count(now.waiting)} waiting` : ""} />
      <Tile name="KV cache" value={show(now?.cacheUsed, format.percent)} unit="used" />
      <Tile name="Prefix cache" value={show(now?.cacheHits, format.percent)} unit="hits" />
    </dl>
  );
}

function Tile({ name, value, unit }: { name: string; value: string; unit?: string }) {
  return (
    <div class="tile panel">
      <dt>{name}</dt>
      <dd>
        <strong>{value}</strong> {value !== "–" && <span class="soft">{unit}</span>}
      </dd>
    </div>
  );
}

function Charts({ feed }: { feed: Feed }) {
  const history = feed.history.value;
  const now = history.at(-1)?.atSeconds ?? 0;
  const ages = useMemo(() => history.map(({ atSeconds }) => now - atSeconds), [history]);
  const of = (name: keyof Figures) => history.map((figures) => figures[name]);
  const windowSeconds = [60, 120].find((seconds) => seconds >= (ages[0] ?? 0)) ?? WINDOW_SECONDS;
  const common = { ages, windowSeconds };
  return (
    <div class="charts">
      <Chart
        {...common}
        title="Throughput"
        unit="tokens per second"
        format={rate}
        lines={[
          { name: "prompt", tone: "two", values: of("prompt") },
          { name: "generated", tone: "one", isFilled: true, values: of("generation") },
        ]}
      />
      <Chart
        {...common}
        title="Requests"
        unit="at a time"
        format={format.count}
        isWhole
        lines={[
          { name: "waiting", tone: "two", values: of("waiting") },
          { name: "running", tone: "one", isFilled: true, values: of("running") },
        ]}
      />
      <Chart
        {...common}
        title="Time to first token"
        unit="over 30 s"
        format={format.seconds}
        lines={[
          { name: "p95", tone: "two", values: of("firstToken95") },
          { name: "median", tone: "one", values: of("firstTokenMedian") },
        ]}
      />
      <Chart
        {...common}
        title="Time between tokens"
        unit="over 30 s"
        format={format.seconds}
        lines={[
          { name: "p99", tone: "two", values: of("nextToken99") },
          { name: "median", tone: "one", values: of("nextTokenMedian") },
        ]}
      />
      <Chart
        {...common}
        title="KV cache"
        unit="share of pages held"
        format={format.percent}
        maximum={1}
        lines={[{ name: "used", tone: "one", isFilled: true, values: of("cacheUsed") }]}
      />
      <Chart
        {...common}
        title="Prefix cache"
        unit="share of prompt tokens found"
        format={format.percent}
        maximum={1}
        lines={[{ name: "hits", tone: "one", isFilled: true, values: of("cacheHits") }]}
      />
    </div>
  );
}

/** What the server says of itself, on one line. */
function Machine({ feed }: { feed: Feed }) {
  const scrape = feed.latest.value;
  if (!scrape) return null;
  const version = scrape.label("build_info", "version");
  const threads = scrape.largest("cpu_threads_used");
  const cacheTokens = scrape.sum("kv_cache_tokens");
  const bandwidth = scrape.largest("memory_bandwidth_share");
  const preemptions = scrape.sum("num_preemptions_total");
  const kernel = scrape.label("kernel_info", "kernel");
  const facts = [
    version && `Abaci ${version}`,
    threads && format.plural(threads, "thread"),
    kernel,
    cacheTokens && `room for ${format.count(cacheTokens)} tokens`,
    bandwidth !== null && `${format.percent(bandwidth)} of the memory’s bandwidth`,
    preemptions && format.plural(preemptions, "preemption"),
  ].filter(Boolean);
  return <p class="machine soft small">{facts.join("  ·  ")}</p>;
}

function rate(tokensPerSecond: number): string {
  return tokensPerSecond < 10 && tokensPerSecond > 0 ? tokensPerSecond.toFixed(1) : format.count(tokensPerSecond);
}
