/** The details of the selected finding. */

import type { Detection, LungRads } from "./contract";
import { el } from "./dom";
import { type Finding, nameOf, whereOf } from "./findings";
import { fixed, percent, place } from "./format";

type Fact = [string, string | null | undefined];

/** Measurements, triage and guidelines of a finding, or the hint to select one. */
export function details(finding: Finding | null): HTMLElement {
  if (!finding) return el("div", { class: "details empty" }, "Select a finding to see its measurements and guidelines.");
  const { detection } = finding;
  const guidelines = detection?.guidelines;
  return el(
    "div",
    { class: "details" },
    el("h2", {}, nameOf(finding)),
    facts([["Nodule probability", finding.nodule_probability == null ? null : `${percent(finding.nodule_probability)} by validation`], ...(detection ? measured(detection) : [])]),
    !detection && el("p", { class: "hint" }, "Below the detection threshold: not reported and not measured. The diameter is the network's estimate."),
    finding.corrected && el("p", { class: "hint" }, "A reader corrected the type. The guidelines used the measured type and are not shown."),
    guidelines && el("h3", {}, "Guidelines"),
    guidelines && facts(guided(guidelines)),
    guidelines && assumptions(guidelines),
  );
}

function measured(nodule: Detection): Fact[] {
  const { properties, triage } = nodule;
  const axes = properties.long_axis_mm == null ? null : `${fixed(properties.long_axis_mm, 1)} × ${fixed(properties.short_axis_mm, 1)} mm`;
  return [
    ["Where", whereOf(nodule.location)],
    ["Image", nodule.image_number == null ? null : `${nodule.image_number} of the series`],
    ["Position", nodule.coordinates_lps ? `${place(nodule.coordinates_lps)} mm` : null],
    ["Voxel", nodule.coordinates_voxel.join(", ")],
    ["Axes", axes],
    ["Type", properties.nodule_type],
    ["Mean", properties.mean_intensity == null ? null : `${fixed(properties.mean_intensity)} HU`],
    ["Sphericity", properties.sphericity == null ? null : fixed(properties.sphericity, 2)],
    ["Solid part", properties.solid_fraction == null ? null : percent(properties.solid_fraction)],
    ["Triage score", triage.malignancy_score == null ? triage.reason : fixed(triage.malignancy_score, 2)],
    ["Diameter from", nodule.diameter_source === "network" ? "the network, as it could not be segmented" : null],
  ];
}

/** A reason with plain words in place of field names: `prior_cancer` becomes prior cancer. */
const words = (reason: string | null): string | null => reason?.replaceAll("_", " ").replace("immunosuppressed", "immunosuppression") ?? null;

const IN_WORDS: Record<string, string> = {
  "screening assumption: baseline, no prior": "baseline screening CT, no prior CT",
  "screening assumption": "screening CT",
};

/** The assumptions of a result, from the JSON, for a radiologist. */
const listed = (assumptions: Iterable<string>): string => [...assumptions].map((each) => IN_WORDS[each] ?? each).join("; ");

function guided({ lung_rads, fleischner, bts, brock }: NonNullable<Detection["guidelines"]>): Fact[] {
  const category = lung_rads.category && `${lung_rads.category}: ${lung_rads.management ?? ""}`;
  const by = [fleischner.low_risk && `low risk: ${fleischner.low_risk}`, fleischner.high_risk && `high risk: ${fleischner.high_risk}`];
  const lobes = brock["2a"];
  const probability = lobes && `upper lobe ${percent(lobes.upper_lobe)}, other lobe ${percent(lobes.other_lobe)}`;
  return [
    ["Lung-RADS", category ?? words(lung_rads.reason)],
    ["Fleischner", by.filter(Boolean).join("; ") || words(fleischner.reason)],
    ["BTS", bts.management ?? words(bts.reason)],
    ["Brock", probability ?? words(brock.reason)],
  ];
}

/** The category of an examination with its assumptions, or why there is none. `name` is that of the guideline. */
export function examined(name: string, { category, management, assumptions: assumed, reason }: LungRads): string {
  if (category === null) return `${name}: no category. ${words(reason) ?? "The reason is unknown"}.`;
  const why = (reason === null ? "" : `, because ${reason}`) + (assumed.length > 0 ? ` (assumptions: ${listed(assumed)})` : "");
  return `${name}: category ${category}${why}.${management ? ` Management: ${management}.` : ""}`;
}

function assumptions(guidelines: NonNullable<Detection["guidelines"]>): HTMLElement | null {
  const all = new Set((["lung_rads", "fleischner", "bts", "brock"] as const).flatMap((name) => guidelines[name].assumptions));
  return all.size > 0 ? el("p", { class: "hint" }, `Assumptions: ${listed(all)}.`) : null;
}

/** A list of the facts that are known. */
export function facts(all: Fact[]): HTMLElement {
  const known = all.filter((fact): fact is [string, string] => Boolean(fact[1]));
  return el("dl", { class: "facts" }, ...known.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}
