/** A job beside an earlier one of the same patient: both images, linked by the registration, and the change of each nodule. */

import * as api from "./api";
import type { Followed, Followup, Job, Report, Seen } from "./contract";
import { examined } from "./details";
import { button, el, icon } from "./dom";
import { asReviewed, type Finding, findingsOf, thresholdOf, whereOf } from "./findings";
import { fixed } from "./format";
import { placeOf } from "./lattice";
import { shapesOf } from "./outlines";
import { priorPanel } from "./prior";
import { problemBox } from "./problem";
import { type Reader, reader } from "./reader";
import { plain } from "./review";
import { onKeys } from "./shortcuts";

/** Fill `view` with both examinations. */
export async function followupView(id: string, prior: string, days: number | null, view: HTMLElement, signal: AbortSignal): Promise<void> {
  document.title = "PIVOT";
  view.replaceChildren(el("p", { class: "waiting", role: "status" }, "Comparing the scans. This takes about a minute …"));
  const back = el("a", { class: "button small", href: `#/jobs/${id}` }, icon("back"), "This scan alone");
  try {
    const [now, before] = await Promise.all([api.job(id, signal), api.job(prior, signal)]);
    document.title = `${before.scan_id} → ${now.scan_id} – PIVOT`;
    const found = await api.followup(now, prior, days);
    if (signal.aborted) return;
    const panels = await Promise.all([panel(before, "the prior", signal), panel(now, "now", signal)]);
    view.replaceChildren(...linked(found, [before, now], panels, back, signal));
  } catch (error) {
    if (signal.aborted) return;
    const again = button("Try again", () => void followupView(id, prior, days, view, signal), { class: "button small" });
    view.replaceChildren(el("div", { class: "card single" }, problemBox(error, again, back)));
  }
}

interface Panel {
  image: Reader;
  report: Report;
  findings: Finding[]; // after the review, without candidates
  trouble: HTMLElement; // the error of saving a distance
}

async function panel(job: Job, which: "the prior" | "now", signal: AbortSignal): Promise<Panel> {
  const [report, files, outlines, review] = await Promise.all([api.report(job, signal), api.files(job, signal), api.outlines(job, signal), api.review(job, signal)]);
  const image = reader(job, files, signal, `Image of ${which}`, which === "the prior");
  image.outline(shapesOf(outlines, review.added));
  image.setDistances(review.distances);
  const trouble = el("div", {});
  let [saved, saving] = [review, Promise.resolve()];
  image.onMeasured((distances) => {
    saving = saving.then(async () => {
      try {
        saved = await api.writeReview(job, saved, saved.findings.map(plain), distances);
        trouble.replaceChildren();
      } catch (error) {
        trouble.replaceChildren(problemBox(error));
      }
    });
  });
  const findings = asReviewed(findingsOf(report), review).filter(({ sort }) => sort !== "candidate");
  return { image, report, findings, trouble };
}

function linked(found: Followup, jobs: [Job, Job], panels: [Panel, Panel], back: HTMLElement, signal: AbortSignal): HTMLElement[] {
  const [before, now] = panels;
  // The image that the reader moves; the other follows. Until both are loaded, each moves alone.
  let leading: Reader | "none yet" | null = "none yet";
  const follow = (one: Reader, other: Reader, lattice: Followup["links"]["to_baseline"]): void => {
    one.onMove((place) => {
      if (leading !== null && leading !== one) return;
      leading = one;
      other.moveTo(placeOf(place, lattice));
      leading = null;
    });
  };
  follow(now.image, before.image, found.links.to_baseline);
  follow(before.image, now.image, found.links.to_followup);
  const show = (selected: Followed | null): void => {
    for (const [panel, which] of [[before, "baseline"], [now, "followup"]] as const) {
      panel.image.show(panel.findings, findingOf(panel, selected?.[which] ?? null));
    }
    if (selected?.followup) now.image.moveTo(selected.followup.coordinates_lps);
    else if (selected?.baseline) before.image.moveTo(selected.baseline.coordinates_lps);
  };
  void Promise.all([before.image.whole, now.image.whole]).then(() => {
    leading = null;
    const place = now.image.place();
    if (place) now.image.moveTo(place);
  });
  const where = ({ baseline, followup }: Followed): string | null =>
    whereOf(findingOf(now, followup)?.detection?.location) ?? whereOf(findingOf(before, baseline)?.detection?.location);
  const table = followedTable(found.nodules, where, show, signal);
  const { days, reason } = found.interval;
  const side = el(
    "section",
    { class: "side", "aria-label": "Follow-up" },
    el("div", { class: "actions" }, back, el("h1", {}, "Follow-up")),
    el("p", { class: "hint" }, days === null ? `Interval unknown: ${reason ?? ""}. No doubling time.` : `${days} days between the examinations.`),
    table,
    el("p", { class: "hint" }, examined("Lung-RADS with the prior", found.lung_rads)),
    el(
      "ul",
      { class: "remarks hint" },
      ...[...found.registration.warnings, ...found.notes].map((text) => el("li", {}, text)),
      el("li", {}, `Repeated measurements of a volume agree within ${fixed(found.repeatability.volume_change_percent_95)} % (${found.repeatability.source}); a smaller change is not growth. Registration: ${found.registration.method}, the lungs overlap by ${fixed(100 * found.registration.lung_overlap)} %.`),
    ),
    priorPanel(jobs[1], thresholdOf(now.report), signal, jobs[0]),
  );
  const named = (job: Job, what: string, { image, trouble }: Panel): HTMLElement => el("div", { class: "exam" }, el("h2", {}, `${what}: ${job.scan_id}`), trouble, image.element);
  return [el("div", { class: "results pair" }, named(jobs[0], "Prior", before), named(jobs[1], "Now", now), side)];
}

/** The finding of a panel that is this nodule of the comparison, or null. */
const findingOf = ({ findings }: Panel, seen: Seen | null): Finding | null => findings.find(({ label }) => label === seen?.label) ?? null;

const HEADS = ["Prior", "Now", "Position", "Status", "Prior mm", "Now mm", "Change", "Doubling time", "LR"];
const NUMBERS = HEADS.slice(4, 8);

function followedTable(nodules: Followed[], where: (one: Followed) => string | null, show: (selected: Followed | null) => void, signal: AbortSignal): HTMLElement {
  let selected = -1;
  const choose = (at: number): void => {
    selected = nodules.length > 0 ? (at + nodules.length) % nodules.length : -1;
    rows.forEach((row, index) => (index === selected ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current")));
    rows[selected]?.scrollIntoView({ block: "nearest" });
    show(nodules[selected] ?? null);
  };
  const rows = nodules.map((one, index) => followedRow(one, where(one), () => choose(index)));
  onKeys({ j: () => choose(selected + 1), k: () => choose(selected - 1) }, signal);
  show(null);
  if (rows.length > 0) choose(0);
  const head = HEADS.map((name) => el("th", { scope: "col", class: NUMBERS.includes(name) ? "number" : "" }, name));
  const none = el("tr", {}, el("td", { colspan: HEADS.length, class: "empty" }, "No nodule in either examination."));
  return el("div", { class: "nodules scroll" }, el("table", { "aria-label": "Nodules of both examinations" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...(rows.length > 0 ? rows : [none]))));
}

/** The doubling time with its range, which has no upper end if the nodule may not grow at all. */
export function doubling(growth: Followed["growth"]): string {
  if (growth?.doubling_time_days == null) return "–";
  const [low, high] = growth.doubling_time_days_95 ?? [null, null];
  return `${fixed(growth.doubling_time_days)} d${low === null ? "" : ` (${fixed(low)} to ${high === null ? "?" : fixed(high)})`}`;
}

function followedRow(one: Followed, where: string | null, choose: () => void): HTMLTableRowElement {
  const { growth } = one;
  const change = growth?.volume_change_percent;
  const name = (seen: Seen | null): string => (seen ? (seen.label ?? "2nd look") : "–");
  const size = (seen: Seen | null): string => fixed(seen?.diameter_mm, 1);
  const cell = (text: string, number = true): HTMLElement => el("td", { class: number ? "number" : "" }, text);
  return el(
    "tr",
    { click: choose, "data-followed": one.number, class: one.status === "new" || growth?.trend === "growing" ? "alarming" : "" },
    el("td", {}, name(one.baseline)),
    el("th", { scope: "row" }, el("button", { type: "button", "aria-label": `Show nodule ${one.number + 1} of the follow-up: ${name(one.followup)}` }, name(one.followup))),
    cell(where ?? "–", false),
    cell(one.status === "matched" ? (growth?.trend ?? "matched") : one.status, false),
    cell(size(one.baseline)),
    cell(size(one.followup)),
    cell(change == null ? "–" : `${change > 0 ? "+" : ""}${fixed(change)} %`),
    cell(doubling(growth)),
    cell(one.lung_rads?.category ?? "–", false),
  );
}
