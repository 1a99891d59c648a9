/** The progress of a job in words and as a bar. */

import type { Job, Progress } from "./contract";
import { el } from "./dom";
import { duration, fixed } from "./format";

export interface Shown {
  stage: HTMLElement;
  bar: HTMLElement;
  words: HTMLElement;
  tell: (progress: Progress) => void;
}

/** The seconds until 100 %, by the mean rate since the first report; null until the rate is known. */
export function secondsLeft(first: { at: number; progress: number }, at: number, progress: number): number | null {
  const rate = (progress - first.progress) / (at - first.at);
  return rate > 0 && Number.isFinite(rate) ? (100 - progress) / rate : null;
}

/** The elements that show the progress of a job. */
export function progressOf(job: Job): Shown {
  const bar = el("progress", { max: 100, "aria-label": "Progress of the analysis" });
  const stage = el("p", { role: "status" });
  const words = el("span", { class: "hint" });
  let first: { at: number; progress: number } | null = null;
  const tell = (now: Progress): void => {
    const at = performance.now() / 1000;
    if (now.status === "running") first ??= { at, progress: now.progress };
    const left = first && secondsLeft(first, at, now.progress);
    if (now.status === "running") bar.value = now.progress;
    const name = now.status === "queued" ? "Waiting for its turn" : now.progress < 100 ? "Searching for nodules" : "Writing the results";
    if (stage.textContent !== name) stage.textContent = name;
    const windows = now.windows_total ? `${fixed(now.progress)} % · ${now.windows_done} of ${now.windows_total} parts` : "";
    words.textContent = windows + (left === null || now.progress >= 100 ? "" : ` · about ${duration(left)} left`);
  };
  tell(job);
  return { stage, bar, words, tell };
}
