/** Maps points of one examination to the other by interpolation between the nodes of a lattice. */

import type { Lattice, Vec3 } from "./contract";

/** The mapped position of a point, both LPS mm. A point outside the lattice moves like the lattice's edge. */
export function placeOf(point: Vec3, { origin, step, shape, places }: Lattice): Vec3 {
  const at = point.map((value, axis) => (value - (origin[axis] ?? 0)) / (step[axis] ?? 1));
  const inside = at.map((value, axis) => Math.min(Math.max(value, 0), (shape[axis] ?? 1) - 1));
  const low = inside.map((value, axis) => Math.min(Math.floor(value), Math.max(0, (shape[axis] ?? 1) - 2)));
  const share = inside.map((value, axis) => value - (low[axis] ?? 0));
  const sum: Vec3 = [0, 0, 0];
  for (let corner = 0; corner < 8; corner++) {
    const bits = [corner & 1, (corner >> 1) & 1, corner >> 2];
    const weight = bits.reduce((product, bit, axis) => product * (bit ? (share[axis] ?? 0) : 1 - (share[axis] ?? 0)), 1);
    if (weight === 0) continue;
    const [x = 0, y = 0, z = 0] = bits.map((bit, axis) => (low[axis] ?? 0) + bit);
    const node = ((z * shape[1] + y) * shape[0] + x) * 3;
    for (const axis of [0, 1, 2] as const) sum[axis] += weight * (places[node + axis] ?? 0);
  }
  return sum.map((value, axis) => value + ((at[axis] ?? 0) - (inside[axis] ?? 0)) * (step[axis] ?? 1)) as Vec3;
}
