/** The prior of a job: selected among the analysed scans, or uploaded and analysed now. */

import * as api from "./api";
import type { Job } from "./contract";
import { button, el } from "./dom";
import { follow } from "./follow";
import { moment } from "./format";
import { yaml } from "./options";
import { problemBox } from "./problem";
import { progressOf } from "./progress";
import { isTyping, onKeys } from "./shortcuts";
import { sendAll, taking, zone } from "./upload";

/** The address of the view of a job with its prior. */
export const address = (job: string, prior: string, days: number | null): string => `#/jobs/${job}/prior/${prior}${days === null ? "" : `/days/${days}`}`;

/** The form that selects the prior of `job`. An uploaded prior is analysed with the same `threshold`. `shown` is the present prior. */
export function priorPanel(job: Job, threshold: number, signal: AbortSignal, shown: Job | null = null): HTMLElement {
  const choice = el("select", { id: "prior", disabled: true }, el("option", { value: "" }, "choose …"));
  const days = el("input", { type: "number", id: "prior-days", min: 1, max: 36525, step: 1, placeholder: "not known" });
  const go = button("Compare", () => { compare(); }, { class: "button small", title: "P", disabled: true });
  const compare = (): void => {
    element.open = true;
    if (choice.value === "") choice.focus();
    else if (!days.reportValidity()) return;
    else location.hash = address(job.job_id, choice.value, days.value === "" ? null : days.valueAsNumber);
  };
  const offer = (others: Job[]): void => {
    choice.append(...others.map(({ job_id, scan_id, created_at }) => el("option", { value: job_id }, `${scan_id}, ${moment(created_at)}`)));
    choice.disabled = go.disabled = choice.options.length < 2;
  };
  const below = el("div", { class: "uploads" });
  const take = async (scans: File[]): Promise<void> => {
    if (scans.length !== 1) throw new Error("A prior is one scan. Drop a single scan.");
    const files = { table: false, report: false, page: false, dicom: false };
    const [sent] = await sendAll(scans, (name) => ({ config: yaml({ ...files, threshold }, name), patient: null }), below, signal);
    if (!sent) return;
    const prior = await searched(sent, below, signal);
    offer([prior]);
    choice.value = prior.job_id;
    // A comment that is being typed must not be lost.
    const active = document.activeElement;
    if (isTyping(active) && !element.contains(active)) below.replaceChildren(el("p", { role: "status" }, `${prior.scan_id} is analysed. Compare (P) shows it beside this scan.`));
    else compare();
  };
  api
    .jobPage(`${api.INFERENCE}?limit=100&status=completed`, signal)
    .then(({ jobs }) => offer(jobs.filter(({ job_id }) => job_id !== job.job_id && job_id !== shown?.job_id)))
    .catch((error: unknown) => !signal.aborted && below.replaceChildren(problemBox(error)));
  onKeys({ p: compare }, signal);
  const drop = [el("p", {}, el("strong", {}, "Or drop the prior here")), el("p", { class: "hint" }, "It is analysed first and then listed with the other scans.")];
  const element = el(
    "details",
    { class: "options prior" },
    el("summary", {}, shown ? "Compare with another prior" : "Compare with a prior"),
    el("p", { class: "hint" }, "An earlier scan of the same patient. Without the number of days between them there is no doubling time."),
    el("div", { class: "said" }, el("label", { for: "prior" }, "Prior"), choice, el("label", { for: "prior-days" }, "Days between"), days, go),
    zone(drop, taking(take, below, signal)),
    below,
  );
  return element;
}

/** The job when it has ended; `place` shows its progress. */
async function searched(sent: Job, place: HTMLElement, signal: AbortSignal): Promise<Job> {
  const { stage, bar, words, tell } = progressOf(sent);
  place.replaceChildren(el("p", {}, el("strong", {}, sent.scan_id)), stage, bar, words);
  await follow(sent, tell, signal);
  const now = await api.job(sent.job_id, signal);
  if (now.status === "completed") return now;
  throw now.error ? new api.Refused(now.error) : new Error("The analysis of the prior was stopped.");
}
