/** One job: its progress, and its results when it has ended. */

import * as api from "./api";
import { ended, type FindingMasks, type Job, type JobFile, type Progress, type Report, type Review } from "./contract";
import { details, examined } from "./details";
import { button, el, icon } from "./dom";
import { asReviewed, type Finding, findingsOf, isChanged, thresholdOf } from "./findings";
import { follow } from "./follow";
import { bytes, duration, moment } from "./format";
import { noduleTable } from "./nodules";
import { shapesOf } from "./outlines";
import { priorPanel } from "./prior";
import { problemBox } from "./problem";
import { progressOf } from "./progress";
import { reader } from "./reader";
import { type Reviewing, reviewPanel } from "./review";
import { confirmRemoval } from "./removal";
import { onKeys } from "./shortcuts";

/** Fill `view` with the job and update it until the signal. */
export async function jobView(id: string, view: HTMLElement, signal: AbortSignal): Promise<void> {
  document.title = "PIVOT";
  view.replaceChildren(el("p", { class: "waiting", role: "status" }, "Loading …"));
  try {
    let job = await api.job(id, signal);
    document.title = `${job.scan_id} – PIVOT`;
    if (!ended(job.status)) {
      const panel = progressPanel(job, () => void jobView(id, view, signal));
      view.replaceChildren(panel.element);
      await follow(job, panel.tell, signal);
      job = await api.job(id, signal);
    }
    if (job.status !== "completed") {
      view.replaceChildren(endPanel(job));
      return;
    }
    const parts = [api.report(job, signal), api.files(job, signal), api.outlines(job, signal), api.review(job, signal)] as const;
    const [report, files, outlines, review] = await Promise.all(parts);
    view.replaceChildren(...results(job, { report, files, outlines, review }, signal));
  } catch (error) {
    if (signal.aborted) return;
    const again = button("Try again", () => void jobView(id, view, signal), { class: "button small" });
    view.replaceChildren(el("div", { class: "card single" }, problemBox(error, again, allScans())));
  }
}

const allScans = (): HTMLElement => el("a", { class: "button small", href: "#/" }, icon("back"), "All scans");

function progressPanel(job: Job, again: () => void): { element: HTMLElement; tell: (progress: Progress) => void } {
  const { stage, bar, words, tell } = progressOf(job);
  const cancel = (): void => void confirmRemoval(job).then((done) => done && again());
  const element = el(
    "section",
    { class: "card single" },
    allScans(),
    el("h1", {}, job.scan_id),
    stage,
    bar,
    el("div", { class: "spread" }, words, button("Cancel", cancel, { class: "button small" })),
    el("p", { class: "hint" }, "It continues if you leave this page."),
  );
  return { element, tell };
}

function endPanel(job: Job): HTMLElement {
  const problem = job.error ? problemBox(new api.Refused(job.error)) : el("p", { role: "status" }, `This job was ${job.status}.`);
  return el("section", { class: "card single" }, allScans(), el("h1", {}, job.scan_id), problem, el("div", { class: "actions" }, remove(job)));
}

const remove = (job: Job): HTMLElement =>
  button(
    "Remove",
    () => void confirmRemoval(job).then((done) => done && (location.hash = "#/")),
    { class: "button small" },
    icon("trash"),
  );

interface Done {
  report: Report;
  files: JobFile[];
  outlines: FindingMasks;
  review: Review;
}

function results(job: Job, { report, files, outlines, review }: Done, signal: AbortSignal): HTMLElement[] {
  const image = reader(job, files, signal);
  const about = el("div", { "aria-live": "polite" }, details(null));
  const found = findingsOf(report);
  let read = new Set<string>();
  let reviewing: Reviewing | null = null;
  const threshold = thresholdOf(report);
  const counts = el("ul", { class: "figures" });
  const conclusion = el("p", { class: report.detections.length > 0 ? "hint" : "empty" });
  const exam = el("p", { class: "hint" });
  const table = noduleTable(asReviewed(found, review), threshold, (visible, selected, chosen) => {
    image.show(visible, selected);
    about.replaceChildren(details(selected));
    reviewing?.select(selected);
    if (selected && chosen) image.goTo(selected);
  });
  const take = (now: Review): void => {
    const verdicts = new Map(now.findings.map(({ finding, verdict }) => [finding, verdict]));
    read = new Set([...verdicts].flatMap(([label, verdict]) => (verdict ? label : [])));
    image.outline(shapesOf(outlines, now.added));
    image.setDistances(now.distances);
    const reviewed = asReviewed(found, now);
    table.update(reviewed, verdicts);
    counts.replaceChildren(...figures(report, reviewed.filter(({ label }) => verdicts.get(label) !== "rejected"), isChanged(now)));
    const said = report.summary.conclusion ?? "";
    conclusion.textContent = said && isChanged(now) ? `Before the review: ${said}` : said;
    exam.textContent = examination(report, now);
  };
  const nextUnread = (): void => table.next(({ label, sort }) => sort !== "candidate" && !read.has(label));
  reviewing = reviewPanel(job, review, files.some(({ kind }) => kind === "dicom"), { changed: take, place: image.place, nextUnread }, signal);
  image.onMeasured(reviewing.measured);
  take(review);
  onKeys({ j: () => table.move(1), k: () => table.move(-1) }, signal);
  table.move(1);
  const side = el(
    "section",
    { class: "side", "aria-label": "Findings" },
    heading(job, report, counts),
    conclusion,
    exam,
    ...(report.summary.warnings ?? []).map((text) => el("div", { class: "remark", role: "note" }, icon("warning"), el("p", {}, text))),
    table.element,
    reviewing.element,
    about,
    priorPanel(job, threshold, signal),
    downloads(files),
    remarks(job, report),
  );
  return [el("div", { class: "results" }, image.element, side)];
}

/** The Lung-RADS category of the examination in words; none if the review changed the findings. */
function examination({ summary: { lung_rads } }: Report, review: Review): string {
  if (!lung_rads) return "";
  return isChanged(review) ? "Lung-RADS: no category, because the review changed the findings." : examined("Lung-RADS", lung_rads);
}

function heading(job: Job, { metadata }: Report, counts: HTMLElement): HTMLElement {
  const spacing = metadata.spacing.map((value) => String(Number(value.toFixed(2)))).join(" × ");
  return el(
    "div",
    { class: "heading" },
    el("div", { class: "spread" }, allScans(), remove(job)),
    el("h1", {}, job.scan_id),
    el("p", { class: "hint" }, `${metadata.shape.join(" × ")} voxels of ${spacing} mm`),
    counts,
  );
}

/** How many nodules there are, by risk, without those that a reader rejected; and the category, unless the review changed the findings. */
function figures({ detections, summary }: Report, kept: Finding[], changed: boolean): HTMLElement[] {
  const nodules = kept.filter(({ sort }) => sort === "nodule" || sort === "added");
  const category = detections.length > 0 ? summary.lung_rads?.category : null; // without findings, it is not shown
  return [
    figure(String(nodules.length), nodules.length === 1 ? "nodule" : "nodules"),
    ...(["high", "intermediate", "low"] as const).map((risk) =>
      figure(String(nodules.filter(({ detection }) => detection?.triage.risk_category === risk).length), risk === "intermediate" ? risk : `${risk} risk`, risk),
    ),
    ...(category ? [figure(changed ? "–" : category, "Lung-RADS")] : []),
  ];
}

const figure = (value: string, name: string, kind = ""): HTMLElement =>
  el("li", { class: kind }, el("strong", {}, value), " ", el("span", {}, name));

const LABELS: Record<string, string> = {
  detections: "Findings (JSON)",
  table: "Table (CSV)",
  findings: "All findings (CSV)",
  report: "Report (PDF)",
  visualization: "Slices (PNG)",
  heatmap: "Heatmap",
  "3d": "3D view (HTML)",
  scan: "Scan (NIfTI)",
};
const DICOM: Record<string, string> = {
  nodules_sr: "Report (DICOM SR)",
  nodules_seg: "Outlines (DICOM SEG)",
  heatmap: "Heatmap (DICOM)",
  report: "Report (DICOM PDF)",
};

/** The label of a file. Key images are numbered. A file of an unknown kind has its name as label. */
export function labelOf({ kind, name }: Pick<JobFile, "kind" | "name">): string {
  if (kind !== "dicom") return LABELS[kind] ?? name;
  const number = /key_image_(\d+)/.exec(name)?.[1];
  const known = Object.keys(DICOM).find((part) => name.endsWith(`${part}.dcm`));
  return number ? `Key image ${Number(number)} (DICOM)` : ((known && DICOM[known]) ?? name);
}

function downloads(files: JobFile[]): HTMLElement {
  const trouble = el("div", {});
  const link = (file: JobFile): HTMLElement => {
    const click = (event: Event): void => {
      event.preventDefault(); // a plain link would not send the API key
      trouble.replaceChildren();
      api.save(file).catch((error: unknown) => trouble.replaceChildren(problemBox(error)));
    };
    const href = `${file.url}?download=1`;
    return el("a", { class: "button small", href, download: file.name, click, title: file.name }, icon("download"), labelOf(file), el("small", {}, bytes(file.size_bytes)));
  };
  const order = [...Object.keys(LABELS), "dicom"];
  const rank = ({ kind }: JobFile): number => (order.indexOf(kind) + order.length + 1) % (order.length + 1); // unknown kinds last
  const sorted = files.toSorted((one, other) => rank(one) - rank(other));
  return el("div", { class: "downloads" }, el("h2", {}, "Downloads"), el("div", { class: "links" }, ...sorted.map(link)), trouble);
}

function remarks(job: Job, report: Report): HTMLElement {
  const left = Object.entries(report.metadata.left_out ?? {}).filter(([, count]) => count > 0);
  const lines = [
    ...(report.metadata.notes ?? []),
    ...left.map(([why, count]) => `${count} mark${count === 1 ? "" : "s"} left out: ${why.replaceAll("_", " ")}.`),
    `Model ${report.model}; ${moment(report.timestamp)}; analysed in ${duration(report.summary.processing_time_seconds)}.`,
    job.expires_at ? `Will be removed ${moment(job.expires_at)}.` : "",
  ];
  return el("ul", { class: "remarks hint" }, ...lines.filter(Boolean).map((line) => el("li", {}, line)));
}
