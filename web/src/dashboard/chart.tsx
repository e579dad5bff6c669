/** Lines over the last minutes, drawn as SVG. A pointer on it shows the figures of that moment. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

export interface Line {
  name: string;
  /** Of the style sheet: one, two. */
  tone: "one" | "two";
  isFilled?: boolean;
  values: readonly (number | null)[];
}

interface ChartProps {
  title: string;
  unit: string;
  lines: readonly Line[];
  /** Seconds before now of each value. */
  ages: readonly number[];
  windowSeconds: number;
  format(value: number): string;
  /** Of the axis; found from the values where it is not given. */
  maximum?: number;
  /** Values are counts: the axis has no halves. */
  isWhole?: boolean;
}

const HEIGHT = 150;
const LEFT = 52;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 22;

export function Chart({ title, unit, lines, ages, windowSeconds, format, maximum, isWhole }: ChartProps) {
  const place = useRef<HTMLDivElement>(null);
  const width = useSignal(420);
  const pointed = useSignal<number | null>(null);

  useEffect(() => {
    if (!place.current) return;
    const observer = new ResizeObserver(([entry]) => (width.value = Math.max(220, entry?.contentRect.width ?? 420)));
    observer.observe(place.current);
    return () => observer.disconnect();
  }, []);

  const largest = Math.max(0, ...lines.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const top = maximum ?? axisTop(largest, isWhole);
  const right = width.value - RIGHT;
  const x = (index: number) => right - ((ages[index] ?? 0) / windowSeconds) * (right - LEFT);
  const y = (value: number) => HEIGHT - BOTTOM - (Math.min(value, top) / top) * (HEIGHT - BOTTOM - TOP);
  const shown = pointed.value ?? ages.length - 1;

  function point(event: PointerEvent): void {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    const at = event.clientX - box.left;
    let nearest: number | null = null;
    ages.forEach((_, index) => {
      if (nearest === null || Math.abs(x(index) - at) < Math.abs(x(nearest) - at)) nearest = index;
    });
    pointed.value = nearest;
  }

  return (
    <figure class="chart">
      <figcaption>
        <h2>
          {title} <span class="soft">{unit}</span>
        </h2>
        <ul class="legend">
          {lines.map(({ name, tone, values }) => (
            <li key={name} class={`tone-${tone}`}>
              <i /> {name} <strong>{show(values[shown], format)}</strong>
            </li>
          ))}
        </ul>
      </figcaption>
      <div ref={place} class="plot">
        <svg
          width={width.value}
          height={HEIGHT}
          role="img"
          aria-label={`${title}: ${lines.map(({ name, values }) => `${name} ${show(values.at(-1), format)}`).join(", ")}`}
          onPointerMove={point}
          onPointerLeave={() => (pointed.value = null)}
        >
          {[0, 0.5, 1].map((share) => (
            <g key={share}>
              <path class="grid" d={`M${LEFT} ${y(share * top)}H${right}`} />
              <text class="axis" x={LEFT - 8} y={y(share * top) + 4} text-anchor="end">
                {share === 0 ? 0 : format(share * top).replace(/\.0+(?=\D|$)/, "")}
              </text>
            </g>
          ))}
          <text class="axis" x={LEFT} y={HEIGHT - 5}>
            {Math.round(windowSeconds / 60)} min ago
          </text>
          <text class="axis" x={right} y={HEIGHT - 5} text-anchor="end">
            now
          </text>
          {lines.map(({ name, tone, isFilled, values }) => {
            const parts = runsOf(values).map((run) => run.map((index) => [x(index), y(values[index] ?? 0)] as const));
            return (
              <g key={name} class={`tone-${tone}`}>
                {isFilled && parts.map((part, index) => <path key={index} class="area" d={areaPath(part, y(0))} />)}
                {parts.map((part, index) => (
                  <path key={index} class="line" d={linePath(part)} />
                ))}
                {pointed.value !== null && values[pointed.value] != null && (
                  <circle class="dot" cx={x(pointed.value)} cy={y(values[pointed.value] ?? 0)} r="3.5" />
                )}
              </g>
            );
          })}
          {pointed.value !== null && <path class="cursor" d={`M${x(pointed.value)} ${TOP}V${HEIGHT - BOTTOM}`} />}
        </svg>
      </div>
    </figure>
  );
}

export function show(value: number | null | undefined, format: (value: number) => string): string {
  return value == null ? "–" : format(value);
}

/** Indices of values in a row; a gap is left where there was nothing to measure. */
function runsOf(values: readonly (number | null)[]): number[][] {
  const runs: number[][] = [];
  values.forEach((value, index) => {
    if (value === null) return;
    if (index > 0 && values[index - 1] !== null) runs.at(-1)?.push(index);
    else runs.push([index]);
  });
  return runs;
}

type Point = readonly [number, number];

function linePath(points: readonly Point[]): string {
  const steps = points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`);
  return `M${steps.join("L")}${points.length === 1 ? "h.1" : ""}`;
}

function areaPath(points: readonly Point[], floor: number): string {
  const [first] = points;
  const last = points.at(-1);
  return first && last ? `${linePath(points)}L${last[0].toFixed(1)} ${floor}L${first[0].toFixed(1)} ${floor}Z` : "";
}

/** The next round number at or above a value, one that can be halved where values are whole. */
export function axisTop(largest: number, isWhole = false): number {
  if (largest <= 0) return isWhole ? 2 : 1;
  const power = 10 ** Math.floor(Math.log10(largest));
  const steps = isWhole ? [2, 4, 6, 8, 10] : [1, 2, 5, 10];
  return steps.map((step) => step * power).find((top) => top >= largest * 0.999) ?? 10 * power;
}
