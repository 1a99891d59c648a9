/** Positions in the viewer's world: RAS+ mm, as in NIfTI. */

import type { Mark, Vec3 } from "./contract";

/** The centre of a mark in RAS+ mm, from its index and the scan's `affine` (by rows) if the report has no world point. */
export function centre(mark: Mark, affine: number[][]): Vec3 {
  if (mark.coordinates_lps) {
    const [x, y, z] = mark.coordinates_lps;
    return [-x, -y, z];
  }
  const spacing = [0, 1, 2].map((axis) => Math.hypot(...[0, 1, 2].map((row) => affine[row]?.[axis] ?? 0)));
  const voxel = [...mark.coordinates.map((mm, axis) => mm / (spacing[axis] ?? 1)), 1];
  const row = (index: number): number => voxel.reduce((sum, value, at) => sum + value * (affine[index]?.[at] ?? 0), 0);
  return [row(0), row(1), row(2)];
}

/** The radius of a ball's ring on a slice `distance` mm from its centre; null if the slice misses the ball. */
export function ringRadius(diameter: number, distance: number, margin = 2): number | null {
  return distance < diameter / 2 ? diameter / 2 + margin : null;
}

/** The distance between two points, mm. */
export const distance = (one: Vec3, other: Vec3): number => Math.hypot(...one.map((value, axis) => value - (other[axis] ?? 0)));

/** The longest of 1, 2, 5, 10, 20, 50 and 100 mm that takes at most `most` pixels. */
export function scaleLength(pixelsPerMm: number, most: number): number {
  return [100, 50, 20, 10, 5, 2].find((mm) => mm * pixelsPerMm <= most) ?? 1;
}
