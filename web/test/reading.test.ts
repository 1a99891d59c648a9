import { expect, test } from "vitest";
import type { Detection, Job, Lattice, Location, LungRads, ReadState, Report, Review, Vec3 } from "../src/contract";
import { examined } from "../src/details";
import { asReviewed, described, findingsOf, isChanged, thresholdOf, whereOf } from "../src/findings";
import { doubling } from "../src/followup";
import { halves, LEVELS } from "../src/half";
import { cornerOf, fieldOf } from "../src/inset";
import { listed, readBy, type Wanted } from "../src/jobs";
import { placeOf } from "../src/lattice";
import { toDistance, toMeasure } from "../src/rulers";
import { samples } from "../src/slab";
import { slicesOf } from "../src/slices";

/** A lattice whose nodes are moved by an affine map, which interpolation must reproduce. */
function lattice(move: (at: Vec3) => Vec3): Lattice {
  const [origin, step, shape]: [Vec3, Vec3, Vec3] = [[-40, 10, 100], [20, 15, 10], [3, 2, 4]];
  const places: number[] = [];
  for (let z = 0; z < shape[2]; z++)
    for (let y = 0; y < shape[1]; y++)
      for (let x = 0; x < shape[0]; x++) places.push(...move([origin[0] + x * step[0], origin[1] + y * step[1], origin[2] + z * step[2]]));
  return { origin, step, shape, places };
}

test.each<[string, Vec3]>([
  ["a node", [-20, 25, 110]],
  ["between nodes", [-33, 12.5, 117]],
  ["the last node", [0, 25, 130]],
])("%s of the lattice is mapped exactly", (_, point) => {
  const move = ([x, y, z]: Vec3): Vec3 => [2 * x - y + 3, y + 0.5 * z, z - 7];
  expect(placeOf(point, lattice(move)).map((value) => value.toFixed(6))).toEqual(move(point).map((value) => value.toFixed(6)));
});

test("a point outside the lattice moves like the edge of the lattice", () => {
  expect(placeOf([50, 25, 130], lattice(([x, y, z]) => [x + 5, y, z - 2]))).toEqual([55, 25, 128]);
});

test.each<[number, Vec3, Vec3]>([
  // mm, spacing, voxels on each side
  [0, [0.7, 0.7, 2.5], [0, 0, 0]],
  [5, [0.7, 0.7, 2.5], [3, 3, 1]],
  [10, [1, 0.5, 3], [5, 10, 1]],
])("a slab of %s mm reaches half as far on each side", (mm, spacing, counts) => {
  const size: Vec3 = [512, 400, 60];
  const { count, edge } = samples(mm, size, spacing);
  expect(count).toEqual(counts);
  edge.forEach((share, axis) => expect(share * (size[axis] ?? 0) * (spacing[axis] ?? 0)).toBeCloseTo(mm / 2, 9));
});

test("a corrected type replaces the measured one and removes its guidelines", () => {
  const detection = { id: 0, properties: { nodule_type: "solid" }, guidelines: {} } as unknown as Detection;
  const report = { detections: [detection, { ...detection, id: 1 }] } as unknown as Report;
  const said = { finding: "2", verdict: "accepted", reason: null, nodule_type: "ground-glass", comment: "" } as const;
  const review: Review = { version: 1, findings: [said], added: [], distances: [], comment: "", progress: { read: 1, total: 2 } };
  const [first, second] = asReviewed(findingsOf(report), review);
  expect([first?.detection?.properties.nodule_type, first?.corrected, first?.detection?.guidelines]).toEqual(["solid", undefined, {}]);
  expect([second?.detection?.properties.nodule_type, second?.corrected, second?.detection?.guidelines]).toEqual(["ground-glass", true, undefined]);
  expect(detection.properties.nodule_type).toBe("solid");
});

test("a saved distance is drawn where it was measured", () => {
  const kept = { from_lps: [1, 2, 3] as Vec3, to_lps: [4, -5, 6] as Vec3, plane: "coronal" as const };
  expect(toMeasure(kept)).toEqual({ from: [-1, -2, 3], to: [-4, 5, 6], plane: 1 });
  expect(toDistance(toMeasure(kept))).toEqual(kept);
});

test("a doubling time has a range without upper end if the nodule may not grow at all", () => {
  const growth = { trend: "growing", volume_change_percent: 80, doubling_time_days: 210.4, doubling_time_days_95: [160, null] as [number, null] };
  expect(doubling(growth)).toBe("210 d (160 to ?)");
  expect(doubling({ ...growth, doubling_time_days: null })).toBe("–");
  expect(doubling(null)).toBe("–");
});

test.each<[string, Partial<Wanted>, string]>([
  ["newest first", {}, "c B a d"],
  ["by name, without regard to case", { column: "scan", falling: false }, "a B c d"],
  ["by size, equal jobs newest first", { column: "size" }, "d B a c"],
  ["in one state", { state: "failed" }, "B d"],
  ["with a part of the name", { text: " b " }, "B"],
])("the worklist shows jobs %s", (_, wanted, names) => {
  const made = [["c", "completed", 1], ["B", "failed", 5], ["a", "running", 5], ["d", "failed", 9]] as const;
  const jobs = made.map(([scan_id, status, size_bytes], age) => ({ scan_id, status, size_bytes, created_at: `2026-01-0${9 - age}` }) as Job);
  const found = listed(jobs, { text: "", state: "", column: "submitted", falling: true, ...wanted });
  expect(found.map(({ scan_id }) => scan_id).join(" ")).toBe(names);
});

const read = (read: number, total: number, ...by: string[]): ReadState => ({ read, total, by, at: null });

test.each<[string, ReadState | null | undefined, string]>([
  ["a running job", null, "–"],
  ["a job of an earlier release", undefined, "–"],
  ["a job without findings", read(0, 0), "nothing marked"],
  ["an unread job", read(0, 3), "0 of 3"],
  ["a job with two readers", read(2, 3, "anna", "ben"), "2 of 3, anna, ben"],
])("the worklist shows the review progress of %s", (_, review, words) => expect(readBy({ review } as Job)).toBe(words));

test("the worklist shows unread jobs and sorts by progress", () => {
  const made: [string, ReadState | null][] = [["all", read(2, 2)], ["running", null], ["half", read(1, 2)], ["none", read(0, 2)], ["empty", read(0, 0)]];
  const jobs = made.map(([scan_id, review]) => ({ scan_id, review, status: "completed" }) as Job);
  const names = (wanted: Partial<Wanted>): string =>
    listed(jobs, { text: "", state: "", column: "read", falling: false, ...wanted }).map(({ scan_id }) => scan_id).join(" ");
  expect(names({ state: "to read" })).toBe("none half");
  expect(names({})).toBe("none half all empty running");
});

test.each<[Location | undefined, string | null]>([
  [{ side: "left", third: "middle" }, "left lung, middle third"],
  [{ side: "midline", third: "upper" }, "midline, upper third"],
  [{ side: "right", third: null }, "right lung"],
  [{ side: null, third: null }, null],
  [undefined, null],
])("a location in words: %s is %s", (location, words) => expect(whereOf(location)).toBe(words));

test("a finding in one line has its name, location and size", () => {
  const detection = { id: 0, diameter_mm: 8.24, location: { side: "left", third: "lower" } } as unknown as Detection;
  const report = { detections: [detection], candidates: [{ diameter_mm: 4 }] } as unknown as Report;
  const [nodule, candidate] = findingsOf(report);
  expect(nodule && described(nodule)).toBe("Nodule 1, left lung, lower third, 8.2 mm");
  expect(candidate && described(candidate)).toBe("Candidate c1, 4.0 mm, estimated");
  expect(nodule && described({ ...nodule, sort: "added", label: "a1", diameter_mm: null })).toBe("Added nodule a1, left lung, lower third, not measured");
});

test.each<[string, Partial<LungRads>, string]>([
  ["is shown with its assumptions", { category: "1", management: "yearly", assumptions: ["screening assumption: baseline, no prior", "no nodule was missed"] }, "Lung-RADS: category 1 (assumptions: baseline screening CT, no prior CT; no nodule was missed). Management: yearly."],
  ["is 0 with the reason", { category: "0", reason: "a part is missing" }, "Lung-RADS: category 0, because a part is missing."],
  ["is missing with the reason", { reason: "needs the prior_ct" }, "Lung-RADS: no category. needs the prior ct."],
])("the category of an examination %s", (_, given, words) =>
  expect(examined("Lung-RADS", { category: null, management: null, assumptions: [], reason: null, ...given })).toBe(words));

test("a review has changed the findings if one is rejected, added or of another type", () => {
  const said = { finding: "1", verdict: "accepted", reason: null, nodule_type: null, comment: "seen" } as const;
  const review = (findings: Review["findings"], added: unknown[] = []): Review => ({ findings, added }) as unknown as Review;
  expect(isChanged(review([said]))).toBe(false);
  expect(isChanged(review([said, { ...said, verdict: "rejected" }]))).toBe(true);
  expect(isChanged(review([{ ...said, nodule_type: "solid" }]))).toBe(true);
  expect(isChanged(review([said], [{}]))).toBe(true);
});

test("the threshold of a report is the higher of its two settings, or the default", () => {
  const of = (post_processing: unknown): number => thresholdOf({ metadata: { config: { post_processing } } } as unknown as Report);
  expect(of({ peak_detection: { threshold: 0.3 } })).toBe(0.3);
  expect(of({ peak_detection: { threshold: 0.3 }, confidence_filter: { min_confidence: 0.6 } })).toBe(0.6);
  expect(of({ peak_detection: { threshold: 0.4 }, confidence_filter: { min_confidence: 0.2 } })).toBe(0.4);
  expect(thresholdOf({ metadata: {} } as unknown as Report)).toBe(0.5);
});

test("the inset's width follows its finding, and its corner does not cover the finding", () => {
  expect([null, 5, 20, 60].map(fieldOf)).toEqual([30, 30, 50, 90]);
  const plane = [100, 50, 500, 600] as const;
  expect(cornerOf(plane, [300, 100], 1)).toEqual([450, 60, 140]);
  expect(cornerOf(plane, [500, 400], 1)).toEqual([450, 60, 140]);
  expect(cornerOf(plane, [500, 100], 1)).toEqual([110, 60, 140]); // otherwise the inset would cover the finding
  expect(cornerOf([0, 0, 2000, 2000], [0, 0], 2)).toEqual([1500, 20, 480]); // no larger than 240 pixels of the page
  expect(cornerOf([0, 0, 400, 280], [0, 0], 1)).toBeNull(); // a small plane has no inset
});

/** The value of a half-precision float (IEEE 754: sign, 5 bits of exponent, 10 of fraction). */
const ofHalf = (bits: number): number => (bits & 0x8000 ? -1 : 1) * 2 ** (((bits >> 10) & 31) - 15) * (1 + (bits & 1023) / 1024);

test("as half-precision floats, HU are exact up to 2048 and rounded beyond", () => {
  const half = halves();
  const error = (hu: number): number => Math.abs(ofHalf(half[hu + LEVELS / 2] ?? 0) - hu);
  expect(half[LEVELS / 2]).toBe(0);
  for (let hu = 1; hu <= 2048; hu++) expect(error(hu) + error(-hu)).toBe(0);
  for (let hu = 2049; hu < 32768; hu += 7) expect(error(hu)).toBeLessThanOrEqual(hu / 2048);
});

test("slices in HU follow the axes of the body for any axes of the file", () => {
  const [wide, high, deep] = [2, 3, 4]; // the axes of the file: forward, up, and left to right
  const stored = (forward: number, up: number, left: number): number => 10 * forward + 100 * up + 500 * left - 900;
  const img = new Int16Array(wide * high * deep);
  for (let k = 0; k < deep; k++) for (let j = 0; j < high; j++) for (let i = 0; i < wide; i++) img[i + wide * (j + high * k)] = stored(i, j, k);
  const volume = { img, hdr: { scl_slope: 2, scl_inter: -5 }, dimsRAS: [3, deep, wide, high], img2RASstep: [-wide * high, 1, wide], img2RASstart: [wide * high * (deep - 1), 0, 0] };
  const seen = [...slicesOf(volume)].length;
  expect(seen).toBe(high);
  let z = 0;
  for (const slice of slicesOf(volume)) {
    for (let y = 0; y < wide; y++)
      for (let x = 0; x < deep; x++) {
        const hu = 2 * stored(y, z, deep - 1 - x) - 5;
        expect(Math.abs(ofHalf(slice[x + deep * y] ?? 0) - hu)).toBeLessThanOrEqual(Math.abs(hu) <= 2048 ? 0 : 1);
      }
    z += 1;
  }
});
