import { expect, test } from "vitest";
import type { Vec3 } from "../src/contract";
import { shapesOf } from "../src/outlines";

const SHAPE: Vec3 = [2, 3, 4];
// Axes in the order z, x, y; y runs backwards; 2, 3 and 5 mm.
const AFFINE = [
  [0, 3, 0, 10],
  [0, 0, -5, 20],
  [2, 0, 0, 30],
  [0, 0, 0, 1],
];

/** The outlines of a box of voxels, those in which `inside` holds. */
function shape(inside: (x: number, y: number, z: number) => boolean) {
  const bits = new Uint8Array(3);
  for (let place = 0; place < 24; place++)
    if (inside(Math.floor(place / 12), Math.floor(place / 4) % 3, place % 4)) bits[place >> 3] = (bits[place >> 3] ?? 0) | (128 >> (place & 7));
  const mask = { number: 3, origin: [5, 6, 7] as Vec3, shape: SHAPE, bits: btoa(String.fromCharCode(...bits)) };
  const found = shapesOf({ affine: AFFINE, masks: [mask] }).get("3");
  if (!found) throw new Error("no shape");
  return found;
}

test("a voxel has four edges around its centre, and is its own centroid", () => {
  const one = shape((x, y, z) => x === 1 && y === 2 && z === 0);
  const centre: Vec3 = [10 + 3 * 8, 20 - 5 * 7, 30 + 2 * 6];
  expect(one.centroid).toEqual(centre);
  const edges = one.edges(0, centre);
  expect(edges).toHaveLength(4);
  const corners = edges.flat();
  expect([...new Set(corners.map(([x]) => x))].sort()).toEqual([centre[0] - 1.5, centre[0] + 1.5]);
  expect([...new Set(corners.map(([, y]) => y))].sort()).toEqual([centre[1] - 2.5, centre[1] + 2.5].sort());
  expect(corners.every(([, , z]) => z === centre[2])).toBe(true);
});

test("a slice outside the mask has no edges", () => {
  const one = shape((x) => x === 1);
  const [x, y, z] = one.centroid;
  expect(one.edges(0, [x, y, z + 0.9])).toHaveLength(2 * (3 + 4));
  for (const beside of [z - 2, z + 2]) expect(one.edges(0, [x, y, beside])).toEqual([]);
});

test("edges between voxels are not drawn, edges of a hole are", () => {
  const all = shape(() => true);
  expect(all.edges(1, all.centroid)).toHaveLength(2 * (2 + 4));
  const hole = shape((_, y, z) => !(y === 1 && z === 2));
  expect(hole.edges(0, hole.centroid)).toHaveLength(2 * (3 + 4) + 4);
});
