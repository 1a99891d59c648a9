/** Earlier jobs, a page at a time; what still runs is kept up to date. */

import * as api from "./api";
import { ended, type Job, type JobPage } from "./contract";
import { button, el, icon } from "./dom";
import { pause } from "./follow";
import { bytes, fixed, moment } from "./format";
import { confirmRemoval } from "./removal";
import { problemBox } from "./problem";

const FIRST = `${api.INFERENCE}?limit=8`;
const PERIOD = 4000; // ms

/** The panel of jobs; it stops with the signal. */
export function jobsPanel(signal: AbortSignal): { element: HTMLElement; refresh: () => Promise<void> } {
  const earlier: string[] = []; // the pages before this one
  let here = FIRST;
  const list = el("div", { class: "joblist" });
  const paging = el("nav", { class: "paging", "aria-label": "Pages of jobs" });

  const go = (url: string): void => {
    here = url;
    void refresh();
  };
  const show = (page: JobPage): void => {
    const at = focusedIn(list);
    list.replaceChildren(page.jobs.length > 0 ? table(page.jobs, () => void refresh()) : empty());
    if (at) list.querySelector<HTMLElement>(`[data-focus="${at}"]`)?.focus();
    const back = button("Newer", () => go(earlier.pop() ?? FIRST), { class: "button small", disabled: earlier.length === 0 });
    const on = (): void => {
      earlier.push(here);
      go(page.next ?? FIRST);
    };
    paging.replaceChildren(back, button("Older", on, { class: "button small", disabled: page.next === null }));
    paging.hidden = earlier.length === 0 && page.next === null;
  };
  const refresh = async (): Promise<void> => {
    try {
      const page = await api.jobPage(here, signal);
      show(page);
      if (page.jobs.some((job) => !ended(job.status))) later();
    } catch (error) {
      if (signal.aborted) return;
      list.replaceChildren(problemBox(error, button("Try again", () => void refresh(), { class: "button small" })));
    }
  };
  let waiting = false;
  const later = (): void => {
    if (waiting) return;
    waiting = true;
    void pause(PERIOD, signal).then(() => {
      waiting = false;
      return signal.aborted ? undefined : refresh();
    });
  };
  void refresh();
  const title = el("h2", { id: "jobs-title" }, "Scans");
  return { element: el("section", { class: "card jobs", "aria-labelledby": "jobs-title" }, title, list, paging), refresh };
}

const empty = (): HTMLElement => el("p", { class: "empty" }, "None yet. Results appear here, and stay until they expire.");

const focusedIn = (list: HTMLElement): string | undefined =>
  list.contains(document.activeElement) ? (document.activeElement as HTMLElement).dataset.focus : undefined;

function table(jobs: Job[], changed: () => void): HTMLElement {
  const head = ["Scan", "State", "Submitted", "Size"].map((name) => el("th", { scope: "col" }, name));
  return el(
    "table",
    {},
    el("thead", {}, el("tr", {}, ...head, el("th", {}, el("span", { class: "unseen" }, "Actions")))),
    el("tbody", {}, ...jobs.map((job) => row(job, changed))),
  );
}

function row(job: Job, changed: () => void): HTMLElement {
  const href = `#/jobs/${job.job_id}`;
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, el("a", { href, "data-focus": `open-${job.job_id}` }, job.scan_id)),
    el("td", {}, badge(job)),
    el("td", { class: "when" }, moment(job.created_at)),
    el("td", { class: "number" }, bytes(job.size_bytes)),
    el("td", { class: "number" }, removal(job, changed)),
  );
}

function badge(job: Job): HTMLElement {
  const share = job.status === "running" ? ` ${fixed(job.progress)} %` : "";
  return el("span", { class: `badge ${job.status}` }, job.status + share);
}

function removal(job: Job, changed: () => void): HTMLElement {
  const label = ended(job.status) ? `Remove ${job.scan_id}` : `Cancel ${job.scan_id}`;
  return button(
    "",
    () => void confirmRemoval(job).then((done) => done && changed()),
    { class: "button bare", "aria-label": label, title: label, "data-focus": `remove-${job.job_id}` },
    icon(ended(job.status) ? "trash" : "close"),
  );
}
