/** Shared code for drawing over the planes. */

import { type Niivue, SLICE_TYPE } from "@niivue/niivue";
import type { Vec3 } from "./contract";
import type { Finding } from "./findings";
import { distance } from "./geometry";
import type { Shape } from "./outlines";

/** The RAS+ axis perpendicular to each plane. */
export const AXIS = { [SLICE_TYPE.SAGITTAL]: 0, [SLICE_TYPE.CORONAL]: 1, [SLICE_TYPE.AXIAL]: 2 } as const;
export type Plane = keyof typeof AXIS;
export const SELECTED = "#ffb454";
export const OTHER = "#e8f1f5";
export const UNKNOWN = 8; // mm, the diameter of the ring around a nodule that could not be measured
export const MARGIN = 10; // CSS pixels from the edge of a plane

/** A finding to mark: its centre in RAS+ mm, its shape if it has one, and whether it is selected. */
export interface Mark {
  finding: Finding;
  centre: Vec3;
  shape: Shape | null;
  selected: boolean;
}

export type Tile = Niivue["screenSlices"][number];

export interface Canvas {
  pen: CanvasRenderingContext2D;
  nv: Niivue;
  scale: number; // device pixels for each CSS pixel
}

export const isPlane = (type: SLICE_TYPE): type is Plane => type in AXIS;

/** Left, top, width and height of a plane; NiiVue gives mirrored planes a negative width. */
export function box(tile: Tile): [number, number, number, number] {
  const [left = 0, top = 0, wide = 0, high = 0] = tile.leftTopWidthHeight;
  return [Math.min(left, left + wide), top, Math.abs(wide), high];
}

export function line(pen: CanvasRenderingContext2D, x: number, y: number, toX: number, toY: number): void {
  pen.moveTo(x, y);
  pen.lineTo(toX, toY);
}

export const pixelsPerMm = (tile: Tile): number => Math.abs((tile.leftTopWidthHeight[2] ?? 0) / (tile.fovMM[0] ?? 1));

/** A point (RAS+ mm) projected onto the shown slice, and its distance from the slice in mm. */
export function onSlice(nv: Niivue, plane: Plane, point: Vec3): { frac: ReturnType<Niivue["mm2frac"]>; away: number } {
  const frac = nv.mm2frac(point);
  frac[AXIS[plane]] = nv.scene.crosshairPos[AXIS[plane]];
  const [x = 0, y = 0, z = 0] = nv.frac2mm(frac);
  return { frac, away: distance(point, [x, y, z]) };
}

/** Draw the outline of a mask on the shown slice; `place` maps a point to the canvas. */
export function outline({ pen, nv, scale }: Canvas, plane: Plane, { shape, selected }: Mark, place: (end: Vec3) => readonly number[] | undefined): void {
  if (!shape) return;
  const [x = 0, y = 0, z = 0] = nv.frac2mm(nv.scene.crosshairPos);
  pen.strokeStyle = selected ? SELECTED : OTHER;
  pen.lineWidth = (selected ? 2 : 1) * scale; // 2 pixels wide, so that at least one pixel is fully covered
  pen.beginPath();
  for (const ends of shape.edges(acrossAxis(nv, plane, shape), [x, y, z])) {
    const [from, to] = ends.map(place);
    if (from && to) line(pen, from[0] ?? 0, from[1] ?? 0, to[0] ?? 0, to[1] ?? 0);
  }
  pen.stroke();
}

/** The axis of the mask's array perpendicular to a plane. NiiVue reorders the axes of the array. */
function acrossAxis(nv: Niivue, plane: Plane, { steps }: Shape): 0 | 1 | 2 {
  const start = nv.mm2frac([0, 0, 0])[AXIS[plane]];
  const across = steps.map((step) => Math.abs(nv.mm2frac(step)[AXIS[plane]] - start));
  return across.indexOf(Math.max(...across)) as 0 | 1 | 2;
}

/** Draw text that is legible on black and on white. */
export function label(pen: CanvasRenderingContext2D, text: string, x: number, y: number, scale: number, colour: string): void {
  const { width } = pen.measureText(text);
  pen.fillStyle = "#000b";
  pen.fillRect(x - 4 * scale, y - 13 * scale, width + 8 * scale, 18 * scale);
  pen.fillStyle = colour;
  pen.fillText(text, x, y);
}
