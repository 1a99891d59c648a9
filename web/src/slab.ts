/** Slabs: each plane shows the brightest voxels within some millimetres (maximum intensity projection). */

import type { Vec3 } from "./contract";

export const SLABS = [0, 5, 8, 10] as const; // mm; 0: single slices

/** For each axis, the number of voxels within the slab of `mm` on each side, and the slab's edge as a fraction of the volume. */
export function samples(mm: number, size: Vec3, spacing: Vec3): { count: Vec3; edge: Vec3 } {
  const count = spacing.map((one) => Math.floor(mm / 2 / one + 1e-6)) as Vec3;
  const edge = size.map((number, axis) => mm / 2 / (number * (spacing[axis] ?? 1))) as Vec3;
  return { count, edge };
}
