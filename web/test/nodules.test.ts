import { expect, test } from "vitest";
import type { Detection, Report, Risk } from "../src/contract";
import { type Finding, findingsOf } from "../src/findings";
import { centre, distance, ringRadius, scaleLength } from "../src/geometry";
import { arranged, type Column } from "../src/nodules";

const detection = (id: number, confidence: number, volume: number | null, risk: Risk | null): Detection => ({
  id,
  confidence,
  coordinates: [20, 40, 90],
  coordinates_voxel: [10, 20, 30],
  coordinates_lps: [1, 2, 3],
  diameter_mm: 5 + id,
  properties: { volume_mm3: volume, mean_intensity: null },
  triage: { malignancy_score: risk && 0.5, risk_category: risk },
});
const nodule = (...of: Parameters<typeof detection>): Finding => {
  const found = detection(...of);
  return { ...found, label: String(found.id + 1), sort: "nodule", detection: found };
};
const ALL = [nodule(0, 0.9, 100, "low"), nodule(1, 0.5, null, null), nodule(2, 0.7, 300, "high"), nodule(3, 0.7, 50, "intermediate")];

test.each<[number, Column, boolean, number[]]>([
  [0, "confidence", true, [0, 2, 3, 1]], // equal findings by number
  [0.6, "confidence", false, [2, 3, 0]],
  [0.7, "number", false, [0, 2, 3]], // the limit is inclusive
  [0, "volume", true, [2, 0, 3, 1]], // unknown values are last
  [0, "volume", false, [3, 0, 2, 1]], // in both directions
  [0, "risk", true, [2, 3, 0, 1]],
  [0.95, "number", true, []],
])("findings with a confidence of at least %s, sorted by %s, falling: %s", (least, column, falling, ids) =>
  expect(arranged(ALL, least, column, falling).map(({ label }) => Number(label) - 1)).toEqual(ids));

test("a nodule's centre is in RAS+, from its world point or else from its voxel", () => {
  const affine = [[-2, 0, 0, 5], [0, -2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]];
  expect(centre(nodule(0, 1, 1, null), affine)).toEqual([-1, -2, 3]);
  expect(centre({ ...nodule(0, 1, 1, null), coordinates_lps: null }, affine)).toEqual([-15, -34, 97]);
});

test("a ring has the radius of the nodule in the slice", () => {
  expect(ringRadius(10, 0)).toBe(7);
  expect(ringRadius(10, 4.9)).toBe(7);
  expect(ringRadius(10, 5)).toBeNull();
});

test("findings are nodules, masses and candidates, counted from 1", () => {
  const candidate = { coordinates: [1, 2, 3], coordinates_lps: null, diameter_mm: 4, confidence: 0.3 };
  const report = { detections: [detection(0, 0.9, 1, null)], masses: [detection(1, 0.6, 1, null)], candidates: [candidate] } as unknown as Report;
  const all = findingsOf(report);
  expect(all.map(({ label, sort }) => [label, sort])).toEqual([["1", "nodule"], ["2", "mass"], ["c1", "candidate"]]);
});

test("a candidate without a world point is positioned by its index", () =>
  expect(centre({ coordinates: [20, 40, 90], coordinates_lps: null, diameter_mm: 4, confidence: 0.3 }, [[0, 2, 0, 1], [2, 0, 0, 1], [0, 0, 3, 0], [0, 0, 0, 1]])).toEqual([41, 21, 90]));

test("distances between points and the length of the scale bar", () => {
  expect(distance([1, 2, 3], [4, 6, 3])).toBe(5);
  expect(scaleLength(2, 100)).toBe(50);
  expect(scaleLength(2, 99)).toBe(20);
  expect(scaleLength(50, 20)).toBe(1);
});
