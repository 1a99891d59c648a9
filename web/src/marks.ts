/** What is drawn over the planes: the crosshair, and rings around the nodules that they cut. */

import { type Niivue, SLICE_TYPE } from "@niivue/niivue";
import type { Detection, Vec3 } from "./contract";
import { ringRadius } from "./geometry";

const AXIS = { [SLICE_TYPE.SAGITTAL]: 0, [SLICE_TYPE.CORONAL]: 1, [SLICE_TYPE.AXIAL]: 2 } as const;
type Plane = keyof typeof AXIS;
const CROSSHAIR = "#5cc9d3b0";
const SELECTED = "#ffb454";
const OTHER = "#e8f1f5";
const GAP = 14; // CSS pixels that the crosshair leaves free around its place

/** A nodule to ring: its centre in RAS+ mm, and whether it is the selected one. */
export interface Mark {
  nodule: Detection;
  centre: Vec3;
  selected: boolean;
}

type Tile = Niivue["screenSlices"][number];

/** Clear the overlay and draw crosshair and `marks` anew on every plane. */
export function drawMarks(overlay: HTMLCanvasElement, nv: Niivue, marks: Mark[]): void {
  const { width, height } = nv.gl.canvas;
  Object.assign(overlay, { width, height }); // also clears it
  const pen = overlay.getContext("2d");
  if (!pen || nv.volumes.length === 0) return;
  const scale = nv.uiData.dpr ?? 1;
  pen.font = `600 ${12 * scale}px system-ui, sans-serif`;
  for (const tile of nv.screenSlices) {
    const plane = tile.axCorSag;
    if (!isPlane(plane)) continue;
    crosshair(pen, nv, tile, plane, scale);
    for (const mark of marks) ring(pen, nv, tile, plane, mark, scale);
  }
}

const isPlane = (type: SLICE_TYPE): type is Plane => type in AXIS;

function crosshair(pen: CanvasRenderingContext2D, nv: Niivue, tile: Tile, plane: Plane, scale: number): void {
  const at = nv.frac2canvasPosWithTile(nv.scene.crosshairPos, plane)?.pos;
  if (!at) return;
  const [x, y] = [Math.round(at[0] ?? 0) + 0.5, Math.round(at[1] ?? 0) + 0.5];
  const [left = 0, top = 0, wide = 0, high = 0] = tile.leftTopWidthHeight;
  const [west, east] = [Math.min(left, left + wide), Math.max(left, left + wide)]; // a mirrored plane is negative
  const gap = GAP * scale;
  pen.strokeStyle = CROSSHAIR;
  pen.lineWidth = scale;
  pen.beginPath();
  for (const [from, to] of [[west, x - gap], [x + gap, east]] as const)
    if (from < to) line(pen, from, y, to, y);
  for (const [from, to] of [[top, y - gap], [y + gap, top + high]] as const)
    if (from < to) line(pen, x, from, x, to);
  pen.stroke();
}

function line(pen: CanvasRenderingContext2D, x: number, y: number, toX: number, toY: number): void {
  pen.moveTo(x, y);
  pen.lineTo(toX, toY);
}

function ring(pen: CanvasRenderingContext2D, nv: Niivue, tile: Tile, plane: Plane, mark: Mark, scale: number): void {
  const onSlice = nv.mm2frac(mark.centre);
  onSlice[AXIS[plane]] = nv.scene.crosshairPos[AXIS[plane]];
  const mm = nv.frac2mm(onSlice);
  const distance = Math.hypot(...mark.centre.map((value, axis) => value - (mm[axis] ?? 0)));
  const radius = ringRadius(mark.nodule.diameter_mm, distance);
  const at = nv.frac2canvasPosWithTile(onSlice, plane)?.pos;
  if (radius === null || !at) return;
  const [x = 0, y = 0] = at;
  const pixels = radius * Math.abs((tile.leftTopWidthHeight[2] ?? 0) / (tile.fovMM[0] ?? 1));
  pen.strokeStyle = pen.fillStyle = mark.selected ? SELECTED : OTHER;
  pen.lineWidth = (mark.selected ? 2 : 1.25) * scale;
  pen.beginPath();
  pen.arc(x, y, pixels, 0, 2 * Math.PI);
  pen.stroke();
  pen.fillText(String(mark.nodule.id + 1), x + pixels * 0.72 + 3 * scale, y - pixels * 0.72 - 3 * scale);
}
