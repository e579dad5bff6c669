/** What ran here over time: models, families or keys by tokens, from the server's books and this machine's journal. */

import { useSignal } from "@preact/signals";
import * as format from "../shared/format.ts";
import { useReport } from "./report.ts";
import { Choice } from "./usage.tsx";

export interface TopRow {
  name: string;
  requests: number;
  prompt_tokens: number;
  completion_tokens: number;
  /** Per period. */
  tokens: number[];
}

export interface TopReport {
  period_days: number;
  periods: string[];
  rows: TopRow[];
  total: TopRow;
}

type Dimension = "model" | "family" | "key";

const DIMENSIONS: Record<Dimension, string> = { model: "Model", family: "Family", key: "Key" };
const PERIODS = { "7d": "7 days", "30d": "30 days", "365d": "A year", "": "All time" };
const MOST_ROWS = 10;
const WIDTH = 600;
const HEIGHT = 120;

export function Top() {
  const by = useSignal<Dimension>("model");
  const period = useSignal("7d");
  const query = new URLSearchParams({ by: by.value, ...(period.value && { since: period.value }) });
  const { report, failure } = useReport<TopReport>(`usage/top?${query}`);

  return (
    <section class="panel usage">
      <header class="usage-head">
        <h2>What ran here</h2>
        <span class="spacer" />
        <Choice label="By" value={by.value} choices={DIMENSIONS} onChange={(value) => (by.value = value as Dimension)} />
        <Choice label="Over" value={period.value} choices={PERIODS} onChange={(value) => (period.value = value)} />
      </header>
      {failure.value && <p class="danger-text small">{format.sentence(failure.value.message)}</p>}
      {report.value && <Report report={report.value} by={by.value} />}
    </section>
  );
}

function Report({ report, by }: { report: TopReport; by: Dimension }) {
  if (report.rows.length === 0) return <p class="soft small">Nothing ran in this time.</p>;
  const heaviest = sum(report.rows[0]?.tokens ?? []) || 1;
  const hidden = report.rows.length - MOST_ROWS;
  return (
    <>
      <Columns values={report.total.tokens} periods={report.periods} periodDays={report.period_days} />
      <div class="table-scroll" tabIndex={0}>
        <table>
          <thead>
            <tr>
              <th scope="col">{DIMENSIONS[by]}</th>
              <th scope="col">Requests</th>
              <th scope="col">Prompt tokens</th>
              <th scope="col">Output tokens</th>
            </tr>
          </thead>
          <tbody>
            {report.rows.slice(0, MOST_ROWS).map((row) => (
              <tr key={row.name}>
                <th scope="row">
                  {row.name}
                  <meter min={0} max={heaviest} value={sum(row.tokens)} aria-label="Share" />
                </th>
                <td>{format.count(row.requests)}</td>
                <td>{format.count(row.prompt_tokens)}</td>
                <td>{format.count(row.completion_tokens)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {hidden > 0 && <p class="soft small">And {format.count(hidden)} more.</p>}
    </>
  );
}

interface ColumnsProps {
  values: readonly number[];
  periods: readonly string[];
  periodDays: number;
}

/** A column per period; a pointer on it tells its figures. */
function Columns({ values, periods, periodDays }: ColumnsProps) {
  const heights = columnHeights(values, HEIGHT);
  const step = WIDTH / Math.max(1, values.length);
  const unit = periodDays === 1 ? "day" : `${periodDays} days`;
  return (
    <figure class="columns">
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={`Tokens per ${unit}`}>
        {heights.map((height, index) => (
          <rect key={periods[index]} x={index * step} y={HEIGHT - height} width={step * 0.8} height={height}>
            <title>{`${periods[index]}: ${format.count(values[index] ?? 0)} tokens`}</title>
          </rect>
        ))}
      </svg>
      <figcaption class="soft small">
        Tokens per {unit} from {periods[0]}, at most {format.compact(Math.max(0, ...values))}
      </figcaption>
    </figure>
  );
}

/** Of the whole height for the greatest; what is not nothing is seen. */
export function columnHeights(values: readonly number[], height: number): number[] {
  const most = Math.max(1, ...values);
  return values.map((value) => (value > 0 ? Math.max(2, (value / most) * height) : 0));
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
