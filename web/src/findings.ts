/** The findings that the page lists: nodules, masses, candidates below the threshold, and nodules that a reader added. */

import type { Added, Detection, Location, Mark, Report, Review } from "./contract";
import { fixed } from "./format";

export type Sort = "nodule" | "mass" | "candidate" | "added";

/** One row of the table and its ring on the image. */
export interface Finding extends Mark {
  label: string; // nodules count from 1; other kinds have a letter before the number
  sort: Sort;
  detection: Detection | null; // null for a candidate, which is not measured
  corrected?: boolean; // a reader corrected the type
}

/** The name of a finding: `Nodule 1`, `Added nodule a1`. */
export const nameOf = ({ sort, label }: Finding): string => `${{ nodule: "Nodule", mass: "Mass", candidate: "Candidate", added: "Added nodule" }[sort]} ${label}`;

/** A location in words: `left lung, middle third`; null if it is unknown. */
export function whereOf(location: Location | undefined): string | null {
  const { side = null, third = null } = location ?? {};
  const words = [side && (side === "midline" ? side : `${side} lung`), third && `${third} third`];
  return words.filter(Boolean).join(", ") || null;
}

/** A finding in one line: its name, position and size. */
export function described(finding: Finding): string {
  const size = finding.diameter_mm === null ? "not measured" : `${fixed(finding.diameter_mm, 1)} mm${finding.detection ? "" : ", estimated"}`;
  return [nameOf(finding), whereOf(finding.detection?.location), size].filter(Boolean).join(", ");
}

/** All findings of a report: nodules, masses, candidates, each by falling confidence. */
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

/** The nodules that readers added. */
export const addedOf = (added: Added[]): Finding[] =>
  added.map((one, index) => {
    const triage = { malignancy_score: null, risk_category: null, reason: "added by a reader, without a confidence" };
    return { ...one, confidence: null, label: one.finding, sort: "added", detection: { ...one, confidence: null, id: index, triage } };
  });

/** All findings after the review: with corrected types, and without guidelines that used the measured types. */
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

/** Whether readers rejected or added a finding or corrected a type. */
export const isChanged = ({ findings, added }: Review): boolean =>
  added.length > 0 || findings.some(({ verdict, nodule_type }) => verdict === "rejected" || nodule_type !== null);

const DEFAULT = 0.5; // the threshold of reports without one

/** The confidence threshold of a report. */
export function thresholdOf({ metadata }: Report): number {
  const rules = metadata.config?.post_processing;
  return Math.max(rules?.peak_detection?.threshold ?? DEFAULT, rules?.confidence_filter?.min_confidence ?? 0);
}
