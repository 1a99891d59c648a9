/** The reader's verdicts, which the service stores with reader and time. */

import * as api from "./api";
import type { Distance, Job, Review, Vec3, Verdict } from "./contract";
import { button, el } from "./dom";
import type { Finding } from "./findings";
import { moment } from "./format";
import { problemBox } from "./problem";
import { onKeys } from "./shortcuts";

export const REASONS = ["other", "vessel", "lymph node", "scar", "pleura", "bone", "artefact", "duplicate"] as const;
const TYPES = ["solid", "part-solid", "ground-glass"] as const;
/** The files of a review. Some exist only for DICOM scans. */
const REVIEWED = [
  { kind: "json", name: "JSON", ending: ".json", dicom: false },
  { kind: "csv", name: "CSV", ending: ".csv", dicom: false },
  { kind: "pdf", name: "PDF", ending: ".pdf", dicom: false },
  { kind: "sr", name: "DICOM SR", ending: "_sr.dcm", dicom: true },
  { kind: "seg", name: "DICOM SEG", ending: "_seg.dcm", dicom: true },
] as const;
type Change = Partial<Omit<Verdict, "finding">>;

export interface Reviewing {
  element: HTMLElement;
  /** Show the verdict on this finding. */
  select: (finding: Finding | null) => void;
  /** Save the distances that the reader measured. */
  measured: (distances: Distance[]) => void;
}

export interface Surroundings {
  changed: (review: Review) => void; // called after a change by this or another reader
  place: () => Vec3 | null; // of the crosshair, LPS mm
  nextUnread: () => void;
}

/** The verdicts with one changed. An empty verdict is removed. */
export function withChange(findings: readonly Verdict[], label: string, change: Change): Verdict[] {
  const before = findings.find(({ finding }) => finding === label);
  const { verdict, reason, nodule_type, comment } = { verdict: null, reason: null, nodule_type: null, comment: "", ...before, ...change };
  const after: Verdict = { finding: label, verdict, reason: verdict === "rejected" ? (reason ?? "other") : null, nodule_type, comment };
  const said = after.verdict !== null || after.nodule_type !== null || after.comment !== "";
  const others = findings.filter(({ finding }) => finding !== label);
  return [...others, ...(said ? [after] : [])].map(plain);
}

/** A distance without the fields that the service adds. */
const bare = ({ from_lps, to_lps, plane }: Distance): Distance => ({ from_lps, to_lps, plane });
/** A verdict without reader and time. */
export const plain = ({ finding, verdict, reason, nodule_type, comment }: Verdict): Verdict => ({ finding, verdict, reason, nodule_type, comment });

/** The panel of the review, which saves every change at once. `dicom`: the job has DICOM objects. */
export function reviewPanel(job: Job, first: Review, dicom: boolean, around: Surroundings, signal: AbortSignal): Reviewing {
  let review = first;
  let selected: Finding | null = null;
  let saving = Promise.resolve();
  const progress = el("p", { role: "status" });
  const signed = el("p", { class: "hint" });
  const trouble = el("div", {});
  const accept = button("Accept", () => toggle("accepted"), { class: "button toggle", title: "Y" });
  const reject = button("Reject", () => toggle("rejected"), { class: "button toggle", title: "N; press again for the next reason" });
  const reason = picker("Reason", REASONS, (value) => say({ verdict: "rejected", reason: value }));
  const type = picker("Type", ["as measured", ...TYPES], (value) => say({ nodule_type: value === "as measured" ? null : value }));
  const comment = el("input", { type: "text", id: "review-comment", maxlength: 1000, autocomplete: "off" });
  comment.addEventListener("change", () => say({ comment: comment.value }));
  const add = button("Add nodule at crosshair", () => void addHere(), { class: "button small", title: "A" });

  const now = (): Verdict | undefined => review.findings.find(({ finding }) => finding === selected?.label);
  const show = (): void => {
    const said = now();
    const { read, total } = review.progress;
    const words = `${read} of ${total} read`;
    if (progress.textContent !== words) progress.textContent = words;
    for (const [one, verdict] of [[accept, "accepted"], [reject, "rejected"]] as const) {
      one.setAttribute("aria-pressed", String(said?.verdict === verdict));
      one.disabled = !selected;
    }
    reason.element.hidden = said?.verdict !== "rejected";
    reason.input.value = said?.reason ?? "other";
    type.input.value = said?.nodule_type ?? "as measured";
    type.input.disabled = comment.disabled = !selected;
    if (document.activeElement !== comment) comment.value = said?.comment ?? "";
    signed.textContent = said?.by && said.at ? `By ${said.by}, ${moment(said.at)}.` : "";
  };
  const take = (next: Review): void => {
    review = next;
    show();
    around.changed(review);
  };
  /** Run a change after those that are being saved, and show its errors. */
  const after = (act: () => Promise<Review>): Promise<void> => {
    saving = saving.then(async () => {
      try {
        take(await act());
        trouble.replaceChildren();
      } catch (error) {
        if (signal.aborted) return;
        trouble.replaceChildren(problemBox(error));
        if (error instanceof api.Refused && error.problem.status === 412) take(await api.review(job));
      }
    });
    return saving;
  };
  /** Change the verdict on the selected finding. `change` gets the verdict after all earlier changes were saved. */
  const say = (change: Change | ((said: Verdict | undefined) => Change)): void => {
    const label = selected?.label;
    if (label === undefined) return;
    void after(() => {
      const said = review.findings.find(({ finding }) => finding === label);
      return api.writeReview(job, review, withChange(review.findings, label, typeof change === "function" ? change(said) : change));
    });
  };
  const toggle = (verdict: "accepted" | "rejected"): void => say((said) => ({ verdict: said?.verdict === verdict ? null : verdict }));
  const nextReason = (): void =>
    say((said) => {
      const at = REASONS.findIndex((one) => one === said?.reason);
      return { verdict: "rejected", reason: said?.verdict === "rejected" ? (REASONS[(at + 1) % REASONS.length] ?? "other") : "other" };
    });
  const addHere = async (): Promise<void> => {
    const place = around.place();
    if (!place || add.disabled) return;
    add.disabled = true;
    await after(() => api.addNodule(job, place));
    add.disabled = false;
  };
  show();
  const saved = ({ kind, name, ending }: (typeof REVIEWED)[number]): HTMLButtonElement => {
    const save = async (): Promise<void> => {
      one.disabled = true;
      trouble.replaceChildren();
      try {
        await api.save({ url: `${job.links.self}/review/reviewed.${kind}`, name: `${job.scan_id}_reviewed${ending}` });
      } catch (error) {
        trouble.replaceChildren(problemBox(error));
      }
      one.disabled = false;
    };
    const one = button(`Reviewed (${name})`, () => void save(), { class: "button small", title: kind === "sr" ? "E" : null });
    return one;
  };
  const files = REVIEWED.filter((one) => dicom || !one.dicom).map(saved);
  onKeys({ e: () => files[dicom ? REVIEWED.findIndex(({ kind }) => kind === "sr") : 0]?.click(), y: () => toggle("accepted"), n: nextReason, u: around.nextUnread, a: () => void addHere() }, signal);
  const element = el(
    "section",
    { class: "review", "aria-labelledby": "review-title" },
    el("div", { class: "spread" }, el("h2", { id: "review-title" }, "Review"), progress),
    el("div", { class: "actions" }, accept, reject, button("Next unread", around.nextUnread, { class: "button small", title: "U" }), add),
    el("div", { class: "said" }, reason.element, type.element, el("label", { for: "review-comment" }, "Comment"), comment),
    signed,
    trouble,
    el("div", { class: "links" }, ...files),
  );
  return {
    element,
    select: (finding) => {
      selected = finding;
      show();
    },
    measured: (distances) => void after(() => api.writeReview(job, review, review.findings.map(plain), distances.map(bare))),
  };
}

function picker<T extends string>(name: string, values: readonly T[], change: (value: T) => void): { element: HTMLElement; input: HTMLSelectElement } {
  const input = el("select", {}, ...values.map((value) => el("option", { value }, value)));
  input.addEventListener("change", () => change(input.value as T));
  return { element: el("label", { class: "pick" }, name, input), input };
}
