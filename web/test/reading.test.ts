import { expect, test } from "vitest";
import type { Detection, Job, Lattice, Report, Review, Vec3 } from "../src/contract";
import { asReviewed, findingsOf } from "../src/findings";
import { doubling } from "../src/followup";
import { listed, type Wanted } from "../src/jobs";
import { placeOf } from "../src/lattice";
import { toDistance, toMeasure } from "../src/rulers";
import { samples } from "../src/slab";

/** A lattice whose nodes are moved by an affine map, which interpolation must give back. */
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
])("%s of the lattice is where the map puts it", (_, point) => {
  const move = ([x, y, z]: Vec3): Vec3 => [2 * x - y + 3, y + 0.5 * z, z - 7];
  expect(placeOf(point, lattice(move)).map((value) => value.toFixed(6))).toEqual(move(point).map((value) => value.toFixed(6)));
});

test("a point beyond the lattice moves as its edge does", () => {
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

test("a corrected type takes the place of the measured one, and of its guidelines", () => {
  const detection = { id: 0, properties: { nodule_type: "solid" }, guidelines: {} } as unknown as Detection;
  const report = { detections: [detection, { ...detection, id: 1 }] } as unknown as Report;
  const said = { finding: "2", verdict: "accepted", reason: null, nodule_type: "ground-glass", comment: "" } as const;
  const review: Review = { version: 1, findings: [said], added: [], distances: [], comment: "", progress: { read: 1, total: 2 } };
  const [first, second] = asReviewed(findingsOf(report), review);
  expect([first?.detection?.properties.nodule_type, first?.corrected, first?.detection?.guidelines]).toEqual(["solid", undefined, {}]);
  expect([second?.detection?.properties.nodule_type, second?.corrected, second?.detection?.guidelines]).toEqual(["ground-glass", true, undefined]);
  expect(detection.properties.nodule_type).toBe("solid");
});

test("a line that the service kept is drawn where it was measured", () => {
  const kept = { from_lps: [1, 2, 3] as Vec3, to_lps: [4, -5, 6] as Vec3, plane: "coronal" as const };
  expect(toMeasure(kept)).toEqual({ from: [-1, -2, 3], to: [-4, 5, 6], plane: 1 });
  expect(toDistance(toMeasure(kept))).toEqual(kept);
});

test("a doubling time has its range, with an open end where it may not grow at all", () => {
  const growth = { trend: "growing", volume_change_percent: 80, doubling_time_days: 210.4, doubling_time_days_95: [160, null] as [number, null] };
  expect(doubling(growth)).toBe("210 d (160 to ?)");
  expect(doubling({ ...growth, doubling_time_days: null })).toBe("–");
  expect(doubling(null)).toBe("–");
});

test.each<[string, Partial<Wanted>, string]>([
  ["newest first", {}, "c B a d"],
  ["by name, whatever its case", { column: "scan", falling: false }, "a B c d"],
  ["by size, equal ones newest first", { column: "size" }, "d B a c"],
  ["of one state", { state: "failed" }, "B d"],
  ["with a part of the name", { text: " b " }, "B"],
])("the worklist shows jobs %s", (_, wanted, names) => {
  const made = [["c", "completed", 1], ["B", "failed", 5], ["a", "running", 5], ["d", "failed", 9]] as const;
  const jobs = made.map(([scan_id, status, size_bytes], age) => ({ scan_id, status, size_bytes, created_at: `2026-01-0${9 - age}` }) as Job);
  const found = listed(jobs, { text: "", state: "", column: "submitted", falling: true, ...wanted });
  expect(found.map(({ scan_id }) => scan_id).join(" ")).toBe(names);
});
