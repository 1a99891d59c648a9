/** The outlines of the findings' masks: edges of voxels on each slice. */

import type { Added, FindingMasks, PackedMask, Vec3 } from "./contract";

export type Edge = readonly [from: Vec3, to: Vec3]; // RAS+ mm

/** The mask of one finding: its centre, and its edges on any slice. */
export interface Shape {
  centroid: Vec3;
  steps: [Vec3, Vec3, Vec3]; // from a voxel to the next along each array axis, mm
  /** The edges of the mask on the slice at `mm` along an array axis; empty if the slice misses the mask. */
  edges: (axis: 0 | 1 | 2, mm: Vec3) => Edge[];
}

/** The shapes by the labels of the findings, including nodules that readers added. */
export function shapesOf({ affine, masks }: FindingMasks, added: Added[] = []): Map<string, Shape> {
  const own = added.flatMap(({ finding, outline }): [string, PackedMask][] => (outline ? [[finding, outline]] : []));
  const all: [string, PackedMask][] = [...masks.map((mask): [string, PackedMask] => [String(mask.number), mask]), ...own];
  return new Map((affine.length > 0 ? all : []).map(([label, mask]) => [label, shapeOf(mask, affine)]));
}

function shapeOf({ origin, shape, bits }: PackedMask, affine: number[][]): Shape {
  const bytes = Uint8Array.from(atob(bits), (letter) => letter.charCodeAt(0));
  const [, high, deep] = shape;
  const has = (at: Vec3): boolean => {
    if (at.some((index, axis) => index < 0 || index >= (shape[axis] ?? 0))) return false;
    const place = (at[0] * high + at[1]) * deep + at[2];
    return (((bytes[place >> 3] ?? 0) >> (7 - (place & 7))) & 1) === 1;
  };
  const world = (voxel: Vec3): Vec3 => {
    const row = (index: number): number =>
      voxel.reduce((sum, value, axis) => sum + (value + (origin[axis] ?? 0)) * (affine[index]?.[axis] ?? 0), affine[index]?.[3] ?? 0);
    return [row(0), row(1), row(2)];
  };
  const step = (axis: number): Vec3 => [affine[0]?.[axis] ?? 0, affine[1]?.[axis] ?? 0, affine[2]?.[axis] ?? 0];
  const normals = inverse(affine);
  const indexAt = (axis: 0 | 1 | 2, mm: Vec3): number => {
    const along = mm.reduce((sum, value, row) => sum + (value - (affine[row]?.[3] ?? 0)) * (normals[axis]?.[row] ?? 0), 0);
    return Math.round(along) - origin[axis];
  };
  const kept = new Map<string, Edge[]>();
  const trace = (axis: 0 | 1 | 2, slice: number): Edge[] => {
    const [one, other] = ([0, 1, 2] as const).filter((each) => each !== axis) as [0 | 1 | 2, 0 | 1 | 2];
    const edges: Edge[] = [];
    const corner = (a: number, b: number): Vec3 => {
      const at: Vec3 = [slice, slice, slice];
      [at[one], at[other]] = [a - 0.5, b - 0.5];
      return world(at);
    };
    const inside = (a: number, b: number): boolean => {
      const at: Vec3 = [slice, slice, slice];
      [at[one], at[other]] = [a, b];
      return has(at);
    };
    for (let a = 0; a <= shape[one]; a++)
      for (let b = 0; b <= shape[other]; b++) {
        if (inside(a, b) !== inside(a - 1, b)) edges.push([corner(a, b), corner(a, b + 1)]);
        if (inside(a, b) !== inside(a, b - 1)) edges.push([corner(a, b), corner(a + 1, b)]);
      }
    return edges;
  };
  return {
    centroid: world(middle(shape, has)),
    steps: [step(0), step(1), step(2)],
    edges: (axis, mm) => {
      const slice = indexAt(axis, mm);
      const name = `${axis} ${slice}`;
      const found = kept.get(name) ?? (slice < 0 || slice >= shape[axis] ? [] : trace(axis, slice));
      kept.set(name, found);
      return found;
    },
  };
}

/** The mean index of the voxels. */
function middle([wide, high, deep]: Vec3, has: (at: Vec3) => boolean): Vec3 {
  const sum: Vec3 = [0, 0, 0];
  let count = 0;
  for (let x = 0; x < wide; x++)
    for (let y = 0; y < high; y++)
      for (let z = 0; z < deep; z++)
        if (has([x, y, z])) {
          count += 1;
          [sum[0], sum[1], sum[2]] = [sum[0] + x, sum[1] + y, sum[2] + z];
        }
  return sum.map((value) => value / count) as Vec3;
}

/** The inverse of an affine's linear part, by rows. */
function inverse(affine: number[][]): number[][] {
  const at = (row: number, column: number): number => affine[row % 3]?.[column % 3] ?? 0;
  const minor = (row: number, column: number): number =>
    at(row + 1, column + 1) * at(row + 2, column + 2) - at(row + 1, column + 2) * at(row + 2, column + 1);
  const determinant = [0, 1, 2].reduce((sum, column) => sum + at(0, column) * minor(0, column), 0);
  return [0, 1, 2].map((row) => [0, 1, 2].map((column) => minor(column, row) / determinant));
}
