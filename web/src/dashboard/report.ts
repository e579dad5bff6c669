/** A report of the server, asked for again every now and then while it is looked at. Knows no report's meaning. */

import { type Signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiError, requestJson } from "../shared/api.ts";

const REFRESH_SECONDS = 30;

interface Shown<Report> {
  report: Signal<Report | null>;
  failure: Signal<ApiError | null>;
}

/** The latest answer from `path`; what was asked of another path before is no longer heard. */
export function useReport<Report>(path: string): Shown<Report> {
  const report = useSignal<Report | null>(null);
  const failure = useSignal<ApiError | null>(null);

  useEffect(() => {
    let isCurrent = true;
    const load = () =>
      requestJson<Report>(path, "once").then(
        (answer) => {
          if (!isCurrent) return;
          report.value = answer;
          failure.value = null;
        },
        (error: unknown) => {
          if (isCurrent) failure.value = error instanceof ApiError ? error : new ApiError(String(error), 0);
        },
      );
    void load();
    const timer = setInterval(() => document.hidden || void load(), REFRESH_SECONDS * 1000);
    return () => {
      isCurrent = false;
      clearInterval(timer);
    };
  }, [path]);

  return { report, failure };
}
