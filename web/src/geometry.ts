/** Where a nodule lies in the viewer's world: RAS+ millimetres, as NIfTI has it. */

import type { Mark, Vec3 } from "./contract";

/** A nodule's centre in RAS+ mm; by its voxel and the scan's `affine` (rows) where the report has no world point. */
export function centre(nodule: Mark, affine: number[][]): Vec3 {
  if (nodule.coordinates_lps) {
    const [x, y, z] = nodule.coordinates_lps;
    return [-x, -y, z];
  }
  const voxel = [...nodule.coordinates_voxel, 1];
  const row = (index: number): number => voxel.reduce((sum, value, at) => sum + value * (affine[index]?.[at] ?? 0), 0);
  return [row(0), row(1), row(2)];
}

/** The radius of the ring around a ball on a slice `distance` mm from its centre; null where the slice misses it. */
export function ringRadius(diameter: number, distance: number, margin = 2): number | null {
  return distance < diameter / 2 ? diameter / 2 + margin : null;
}
