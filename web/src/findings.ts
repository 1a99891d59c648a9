/** What the page lists: nodules, masses, candidates below the threshold, and what a reader added. */

import type { Added, Detection, Mark, Report, Review } from "./contract";

export type Sort = "nodule" | "mass" | "candidate" | "added";

/** One row and its ring. */
export interface Finding extends Mark {
  label: string; // counted from 1; others have a letter before it
  sort: Sort;
  detection: Detection | null; // of a candidate nothing was measured
  corrected?: boolean; // a reader corrected the type
}

/** All findings of a report: nodules, then masses, then candidates, each from the strongest. */
export function findingsOf(report: Report): Finding[] {
  const measured = (sort: Sort) => (detection: Detection): Finding => ({
    ...detection,
    label: String(detection.id + 1),
    sort,
    detection,
  });
  return [
    ...report.detections.map(measured("nodule")),
    ...(report.masses ?? []).map(measured("mass")),
    ...(report.candidates ?? []).map((mark, index): Finding => ({ ...mark, label: `c${index + 1}`, sort: "candidate", detection: null })),
  ];
}

/** What readers added to a report. */
export const addedOf = (added: Added[]): Finding[] =>
  added.map((one, index) => {
    const triage = { malignancy_score: null, risk_category: null, reason: "added by a reader, without a confidence" };
    return { ...one, confidence: null, label: one.finding, sort: "added", detection: { ...one, confidence: null, id: index, triage } };
  });

/** All findings as the readers left them: with corrected types, without the guidelines that rest on the measured ones. */
export function asReviewed(found: Finding[], review: Review): Finding[] {
  const types = new Map(review.findings.map(({ finding, nodule_type }) => [finding, nodule_type]));
  return [...found, ...addedOf(review.added)].map((one) => {
    const nodule_type = types.get(one.label);
    if (!nodule_type || !one.detection) return one;
    const detection: Detection = { ...one.detection, properties: { ...one.detection.properties, nodule_type } };
    delete detection.guidelines;
    return { ...one, corrected: true, detection };
  });
}

/** The confidence from which nothing but nodules and masses is shown; `otherwise` where there are none. */
export function reportedFrom(findings: Finding[], otherwise: number): number {
  const confidences = findings.filter(({ sort }) => sort !== "candidate").flatMap(({ confidence }) => confidence ?? []);
  return confidences.length > 0 ? Math.min(...confidences) : otherwise;
}
