/** The worklist: jobs filtered by name and state, sorted, in pages. Running jobs are updated. */

import * as api from "./api";
import { ended, type Job, type JobPage, type Status } from "./contract";
import { button, el, icon } from "./dom";
import { pause } from "./follow";
import { bytes, fixed, moment } from "./format";
import { confirmRemoval } from "./removal";
import { problemBox } from "./problem";

const EACH = 100; // jobs for each request
const MOST = 1000; // the newest jobs are listed
const ROWS = 8; // on a page
const PERIOD = 4000; // ms

export type Column = "scan" | "state" | "read" | "submitted" | "size";
const COLUMNS: { key: Column; name: string; of: (job: Job) => string | number }[] = [
  { key: "scan", name: "Scan", of: ({ scan_id }) => scan_id.toLowerCase() },
  { key: "state", name: "State", of: ({ status }) => status },
  { key: "read", name: "Read", of: ({ review }) => (review ? (review.total > 0 ? review.read / review.total : 1) : 2) },
  { key: "submitted", name: "Submitted", of: ({ created_at }) => created_at },
  { key: "size", name: "Size", of: ({ size_bytes }) => size_bytes },
];
const STATES: Status[] = ["queued", "running", "completed", "failed", "cancelled"];
const UNREAD = "to read";

export interface Wanted {
  text: string; // part of the scan's name
  state: Status | typeof UNREAD | ""; // UNREAD: completed, with findings that nobody has read
  column: Column;
  falling: boolean;
}

/** The jobs that fit the filter, in order. The browser filters, because names may be patients' names. */
export function listed(jobs: Job[], { text, state, column, falling }: Wanted): Job[] {
  const key = COLUMNS.find((one) => one.key === column)?.of ?? ((): string => "");
  const part = text.trim().toLowerCase();
  const isOf = (job: Job): boolean => state === "" || (state === UNREAD ? isUnread(job) : job.status === state);
  const fits = (job: Job): boolean => job.scan_id.toLowerCase().includes(part) && isOf(job);
  const compare = (one: Job, other: Job): number => {
    const [a, b] = [key(one), key(other)];
    return a === b ? 0 : a < b !== falling ? -1 : 1;
  };
  return jobs.filter(fits).sort(compare); // a stable sort: equal jobs stay newest first
}

const isUnread = ({ review }: Job): boolean => review != null && review.read < review.total;

/** The progress of the review, and its readers. */
export function readBy({ review }: Job): string {
  if (!review) return "–";
  if (review.total === 0) return "nothing marked";
  return `${review.read} of ${review.total}${review.by.length > 0 ? `, ${review.by.join(", ")}` : ""}`;
}

/** The panel of jobs, which is updated until the signal. */
export function jobsPanel(signal: AbortSignal): { element: HTMLElement; refresh: () => Promise<void> } {
  const wanted: Wanted = { text: "", state: "", column: "submitted", falling: true };
  let [all, first]: [Job[], number] = [[], 0];
  const list = el("div", { class: "joblist" });
  const paging = el("nav", { class: "paging", "aria-label": "Pages of jobs" });
  const count = el("output", { class: "hint" });
  const text = el("input", { type: "search", id: "jobs-text", autocomplete: "off" });
  const state = el("select", { id: "jobs-state" }, el("option", { value: "" }, "all"), ...[UNREAD, ...STATES].map((one) => el("option", { value: one }, one)));
  text.addEventListener("input", () => change({ text: text.value }));
  state.addEventListener("change", () => change({ state: state.value as Wanted["state"] }));
  const filter = el("div", { class: "said", role: "search" }, el("label", { class: "pick" }, "Name", text), el("label", { class: "pick" }, "State", state), count);

  const change = (now: Partial<Wanted>): void => {
    Object.assign(wanted, now);
    first = 0;
    show();
  };
  const sort = (column: Column): void => {
    change({ column, falling: column === wanted.column ? !wanted.falling : column === "submitted" || column === "size" });
    list.querySelector<HTMLElement>(`[data-focus="sort-${column}"]`)?.focus();
  };
  const show = (): void => {
    const at = focusedIn(list);
    const jobs = listed(all, wanted);
    first = Math.max(0, Math.min(first, ROWS * Math.floor((jobs.length - 1) / ROWS)));
    const none = all.length > 0 ? el("p", { class: "empty" }, "No scan has this name and state.") : empty();
    list.replaceChildren(jobs.length > 0 ? table(jobs.slice(first, first + ROWS), wanted, sort, () => void refresh()) : none);
    if (at) list.querySelector<HTMLElement>(`[data-focus="${at}"]`)?.focus();
    filter.hidden = all.length === 0;
    count.textContent = `${jobs.length} of ${all.length}${all.length === MOST ? ", the newest" : ""}`;
    const go = (by: number) => (): void => {
      first += by;
      show();
    };
    const newest = wanted.column === "submitted" && wanted.falling;
    const [before, after] = newest ? ["Newer", "Older"] : ["Previous", "Next"];
    paging.replaceChildren(
      button(before, go(-ROWS), { class: "button small", disabled: first === 0 }),
      button(after, go(ROWS), { class: "button small", disabled: first + ROWS >= jobs.length }),
    );
    paging.hidden = jobs.length <= ROWS;
  };
  const refresh = async (): Promise<void> => {
    try {
      const found: Job[] = [];
      for (let url: string | null = `${api.INFERENCE}?limit=${EACH}`; url !== null && found.length < MOST; ) {
        const page: JobPage = await api.jobPage(url, signal);
        found.push(...page.jobs);
        url = page.next;
      }
      all = found.slice(0, MOST);
      show();
      if (all.some((job) => !ended(job.status))) later();
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
  return { element: el("section", { class: "card jobs", "aria-labelledby": "jobs-title" }, title, filter, list, paging), refresh };
}

const empty = (): HTMLElement => el("p", { class: "empty" }, "No scans yet. Results appear here until they expire.");

const focusedIn = (list: HTMLElement): string | undefined =>
  list.contains(document.activeElement) ? (document.activeElement as HTMLElement).dataset.focus : undefined;

function table(jobs: Job[], { column, falling }: Wanted, sort: (by: Column) => void, changed: () => void): HTMLElement {
  const head = COLUMNS.map(({ key, name }) => {
    const order = key === column ? (falling ? "descending" : "ascending") : "none";
    return el("th", { scope: "col", "aria-sort": order }, button(name, () => sort(key), { "data-focus": `sort-${key}` }));
  });
  return el(
    "table",
    { class: "sortable" },
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
    el("td", { class: isUnread(job) ? "read unread" : "read", title: job.review?.at ? `Last change ${moment(job.review.at)}` : null }, readBy(job)),
    el("td", { class: "when" }, moment(job.created_at)),
    el("td", { class: "number" }, bytes(job.size_bytes)),
    el("td", { class: "number" }, removal(job, changed)),
  );
}

function badge(job: Job): HTMLElement {
  const share = job.status === "running" ? ` ${fixed(Math.floor(job.progress))} %` : "";
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
