/** Reads the server's metrics every two seconds while the page is seen, and keeps the last five minutes. */

import { signal } from "@preact/signals";
import { ApiError, request } from "../shared/api.ts";
import { newestFigures, type Figures } from "./figures.ts";
import { modelsIn, parseSamples, Scrape, type Sample } from "./prometheus.ts";

const INTERVAL_SECONDS = 2;
export const WINDOW_SECONDS = 300;

interface Reading {
  atSeconds: number;
  samples: Sample[];
}

export class Feed {
  readonly models = signal<string[]>([]);
  readonly model = signal<string | null>(null);
  readonly history = signal<readonly Figures[]>([]);
  readonly latest = signal<Scrape | null>(null);
  readonly failure = signal<ApiError | null>(null);

  private readings: Reading[] = [];

  /** Reads until the page is closed. */
  async run(): Promise<void> {
    for (;;) {
      if (!document.hidden) await this.read();
      await new Promise((resolve) => setTimeout(resolve, INTERVAL_SECONDS * 1000));
    }
  }

  /** Shows one model, or all (null), computing the past anew. */
  choose(model: string | null): void {
    this.model.value = model;
    const scrapes = this.readings.map((reading) => this.scrape(reading));
    this.history.value = scrapes.flatMap((_, index) => newestFigures(scrapes.slice(0, index + 1)) ?? []);
    this.latest.value = scrapes.at(-1) ?? null;
  }

  private async read(): Promise<void> {
    try {
      const text = await (await request("metrics", {}, "once")).text();
      this.failure.value = null;
      this.add({ atSeconds: performance.now() / 1000, samples: parseSamples(text) });
    } catch (error) {
      this.failure.value = error instanceof ApiError ? error : new ApiError(String(error), 0);
    }
  }

  private add(reading: Reading): void {
    const since = reading.atSeconds - WINDOW_SECONDS;
    this.readings = [...this.readings.filter(({ atSeconds }) => atSeconds >= since), reading];
    this.models.value = modelsIn(reading.samples);
    this.latest.value = this.scrape(reading);
    const recent = this.readings.slice(-20).map((kept) => this.scrape(kept));
    const figures = newestFigures(recent);
    if (figures) this.history.value = [...this.history.value.filter(({ atSeconds }) => atSeconds >= since), figures];
  }

  private scrape({ atSeconds, samples }: Reading): Scrape {
    return new Scrape(atSeconds, samples, this.model.value);
  }
}
