/** What keys have used and what that cost, from the server's own books. */

import { useSignal } from "@preact/signals";
import { request } from "../shared/api.ts";
import { download } from "../shared/download.ts";
import * as format from "../shared/format.ts";
import { show } from "./chart.tsx";
import { useReport } from "./report.ts";

interface UsageRow {
  day: string | null;
  key: string | null;
  key_id: string | null;
  model: string | null;
  requests: number;
  errors: number;
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
  cost_dollars: number | null;
  dollars_per_million_prompt_tokens: number | null;
  dollars_per_million_completion_tokens: number | null;
  full_load_dollars_per_million_prompt_tokens: number | null;
  full_load_dollars_per_million_completion_tokens: number | null;
}

interface UsageReport {
  hourly_price: number | null;
  rows: UsageRow[];
  total: UsageRow;
}

type Dimension = "key" | "model" | "day";

const DIMENSIONS: Record<Dimension, string> = { key: "Key", model: "Model", day: "Day" };
/** As the server writes them: days up to today. */
const PERIODS = { "1d": "Today", "7d": "7 days", "30d": "30 days", "": "All time" };

export function Usage() {
  const by = useSignal<Dimension>("key");
  const period = useSignal("30d");
  const { report, failure } = useReport<UsageReport>(`usage?${query(by.value, period.value)}`);

  return (
    <section class="panel usage">
      <header class="usage-head">
        <h2>Usage and cost</h2>
        <span class="spacer" />
        <Choice label="By" value={by.value} choices={DIMENSIONS} onChange={(value) => (by.value = value as Dimension)} />
        <Choice label="Over" value={period.value} choices={PERIODS} onChange={(value) => (period.value = value)} />
        <button type="button" class="button" onClick={() => void downloadCsv(by.value, period.value)}>
          CSV
        </button>
      </header>
      {failure.value && <p class="danger-text small">{format.sentence(failure.value.message)}</p>}
      {report.value && <Table report={report.value} by={by.value} />}
    </section>
  );
}

interface ChoiceProps {
  label: string;
  value: string;
  choices: Record<string, string>;
  onChange(value: string): void;
}

export function Choice({ label, value, choices, onChange }: ChoiceProps) {
  return (
    <label class="choice">
      <span class="visually-hidden">{label}</span>
      <select value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        {Object.entries(choices).map(([key, name]) => (
          <option key={key} value={key}>
            {name}
          </option>
        ))}
      </select>
    </label>
  );
}

function Table({ report, by }: { report: UsageReport; by: Dimension }) {
  const { rows, total, hourly_price: hourlyPrice } = report;
  if (rows.length === 0) return <p class="soft small">Nothing was used in this time.</p>;
  const ordered = by === "day" ? [...rows].reverse() : [...rows].sort((a, b) => weight(b) - weight(a));
  const heaviest = Math.max(...rows.map(weight)) || 1;
  return (
    <>
      <div class="table-scroll" tabIndex={0}>
        <table>
          <thead>
            <tr>
              <th scope="col">{DIMENSIONS[by]}</th>
              <th scope="col">Requests</th>
              <th scope="col">Prompt tokens</th>
              <th scope="col">from cache</th>
              <th scope="col">Output tokens</th>
              {hourlyPrice !== null && (
                <>
                  <th scope="col">$ per M prompt</th>
                  <th scope="col">$ per M output</th>
                  <th scope="col">Cost</th>
                </>
              )}
            </tr>
          </thead>
          <tbody>
            {ordered.map((row) => (
              <tr key={`${row.day} ${row.key_id} ${row.model}`}>
                <th scope="row">
                  {nameOf(row, by)}
                  <meter min={0} max={heaviest} value={weight(row)} aria-label="Share" />
                </th>
                <Cells row={row} hasPrice={hourlyPrice !== null} />
              </tr>
            ))}
          </tbody>
          <tfoot>
            <tr>
              <th scope="row">All</th>
              <Cells row={total} hasPrice={hourlyPrice !== null} />
            </tr>
          </tfoot>
        </table>
      </div>
      <p class="soft small">{hourlyPrice === null ? NO_PRICE : atFullLoad(total, hourlyPrice)}</p>
    </>
  );
}

const NO_PRICE = "Give the server the hourly price of its machine, and this table shows what each key costs.";

function Cells({ row, hasPrice }: { row: UsageRow; hasPrice: boolean }) {
  return (
    <>
      <td>
        {format.count(row.requests)}
        {row.errors > 0 && <span class="soft"> · {format.plural(row.errors, "error")}</span>}
      </td>
      <td>{format.count(row.prompt_tokens)}</td>
      <td>{row.prompt_tokens > 0 ? format.percent(row.cached_tokens / row.prompt_tokens) : "–"}</td>
      <td>{format.count(row.completion_tokens)}</td>
      {hasPrice && (
        <>
          <td>{show(row.dollars_per_million_prompt_tokens, format.dollars)}</td>
          <td>{show(row.dollars_per_million_completion_tokens, format.dollars)}</td>
          <td>
            <strong>{show(row.cost_dollars, format.dollars)}</strong>
          </td>
        </>
      )}
    </>
  );
}

function atFullLoad(total: UsageRow, hourlyPrice: number): string {
  const prompt = total.full_load_dollars_per_million_prompt_tokens;
  const output = total.full_load_dollars_per_million_completion_tokens;
  const price = `The machine costs ${format.dollars(hourlyPrice)} an hour.`;
  const costs = [
    prompt !== null && `${format.dollars(prompt)} of prompt`,
    output !== null && `${format.dollars(output)} of output`,
  ].filter(Boolean);
  if (costs.length === 0) return `${price} What tokens cost at full load is not measured yet.`;
  return `${price} At full load a million tokens would cost ${costs.join(" and ")}.`;
}

/** What is dear is heavy; without a price, what is long. */
function weight(row: UsageRow): number {
  return row.cost_dollars ?? row.prompt_tokens - row.cached_tokens + row.completion_tokens;
}

function nameOf(row: UsageRow, by: Dimension): string {
  if (by === "key") return row.key || row.key_id || "without a key";
  return (by === "model" ? row.model : row.day) ?? "–";
}

function query(by: Dimension, period: string): string {
  return new URLSearchParams({ by, ...(period && { since: period }) }).toString();
}

/** Through the page, since a plain link would not carry the key. */
async function downloadCsv(by: Dimension, period: string): Promise<void> {
  const answer = await request(`usage?${query(by, period)}&format=csv`);
  download("usage.csv", await answer.blob());
}
