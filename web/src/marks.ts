/** What is drawn over the planes: crosshair, rings around findings, measured distances, scale and slice number. */

import { type Niivue, SLICE_TYPE } from "@niivue/niivue";
import type { Vec3 } from "./contract";
import type { Finding } from "./findings";
import { fixed } from "./format";
import { distance, ringRadius, scaleLength } from "./geometry";
import type { Shape } from "./outlines";

const AXIS = { [SLICE_TYPE.SAGITTAL]: 0, [SLICE_TYPE.CORONAL]: 1, [SLICE_TYPE.AXIAL]: 2 } as const;
export type Plane = keyof typeof AXIS;
const CROSSHAIR = "#5cc9d3b0";
const SELECTED = "#ffb454";
const OTHER = "#e8f1f5";
const MEASURED = "#8df08d";
const GAP = 14; // CSS pixels that the crosshair leaves free around its place
const MARGIN = 10; // CSS pixels from the edge of a plane
const UNKNOWN = 8; // mm, of the ring around a nodule that could not be measured
const LONGEST_SCALE = 0.4; // of a plane's width

/** A finding to mark: its centre in RAS+ mm, its shape where there is one, and whether it is the selected one. */
export interface Mark {
  finding: Finding;
  centre: Vec3;
  shape: Shape | null;
  selected: boolean;
}

/** A distance measured by the reader, on one slice of one plane; its ends are RAS+ mm. */
export interface Measure {
  from: Vec3;
  to: Vec3;
  plane: Plane;
}

type Tile = Niivue["screenSlices"][number];

interface Canvas {
  pen: CanvasRenderingContext2D;
  nv: Niivue;
  scale: number; // device pixels of a CSS pixel
}

/** What is drawn over the planes; the reader can hide rings and outlines. */
export interface Drawn {
  marks: Mark[];
  rings: boolean;
  outlines: boolean;
  measures: Measure[];
  slab: number; // mm; 0: single slices
}

/** Clear the overlay and draw everything anew on every plane. */
export function drawMarks(overlay: HTMLCanvasElement, nv: Niivue, drawn: Drawn): void {
  const { width, height } = nv.gl.canvas;
  Object.assign(overlay, { width, height }); // also clears it
  const pen = overlay.getContext("2d");
  if (!pen || nv.volumes.length === 0) return;
  const canvas = { pen, nv, scale: nv.uiData.dpr ?? 1 };
  pen.font = `600 ${12 * canvas.scale}px system-ui, sans-serif`;
  for (const tile of nv.screenSlices) {
    const plane = tile.axCorSag;
    if (!isPlane(plane)) continue;
    crosshair(canvas, tile, plane);
    for (const mark of drawn.marks) {
      if (drawn.outlines) outline(canvas, plane, mark);
      if (drawn.rings) ring(canvas, tile, plane, mark);
    }
    for (const measure of drawn.measures) if (measure.plane === plane) ruler(canvas, measure);
    legend(canvas, tile, plane, drawn.slab);
  }
}

export const isPlane = (type: SLICE_TYPE): type is Plane => type in AXIS;

function crosshair({ pen, nv, scale }: Canvas, tile: Tile, plane: Plane): void {
  const at = nv.frac2canvasPosWithTile(nv.scene.crosshairPos, plane)?.pos;
  if (!at) return;
  const [x, y] = [Math.round(at[0] ?? 0) + 0.5, Math.round(at[1] ?? 0) + 0.5];
  const [west, top, wide, high] = box(tile);
  const gap = GAP * scale;
  pen.strokeStyle = CROSSHAIR;
  pen.lineWidth = scale;
  pen.beginPath();
  for (const [from, to] of [[west, x - gap], [x + gap, west + wide]] as const)
    if (from < to) line(pen, from, y, to, y);
  for (const [from, to] of [[top, y - gap], [y + gap, top + high]] as const)
    if (from < to) line(pen, x, from, x, to);
  pen.stroke();
}

/** Left, top, width and height of a plane; NiiVue gives mirrored planes a negative width. */
function box(tile: Tile): [number, number, number, number] {
  const [left = 0, top = 0, wide = 0, high = 0] = tile.leftTopWidthHeight;
  return [Math.min(left, left + wide), top, Math.abs(wide), high];
}

function line(pen: CanvasRenderingContext2D, x: number, y: number, toX: number, toY: number): void {
  pen.moveTo(x, y);
  pen.lineTo(toX, toY);
}

const pixelsPerMm = (tile: Tile): number => Math.abs((tile.leftTopWidthHeight[2] ?? 0) / (tile.fovMM[0] ?? 1));

/** A point in RAS+ mm moved onto the slice that is shown, and how far that is in mm. */
function onSlice(nv: Niivue, plane: Plane, point: Vec3): { frac: ReturnType<Niivue["mm2frac"]>; away: number } {
  const frac = nv.mm2frac(point);
  frac[AXIS[plane]] = nv.scene.crosshairPos[AXIS[plane]];
  const [x = 0, y = 0, z = 0] = nv.frac2mm(frac);
  return { frac, away: distance(point, [x, y, z]) };
}

function ring({ pen, nv, scale }: Canvas, tile: Tile, plane: Plane, { finding, centre, selected }: Mark): void {
  const { frac, away } = onSlice(nv, plane, centre);
  const radius = ringRadius(finding.diameter_mm ?? UNKNOWN, away);
  const at = nv.frac2canvasPosWithTile(frac, plane)?.pos;
  if (radius === null || !at) return;
  const [x = 0, y = 0] = at;
  const pixels = radius * pixelsPerMm(tile);
  pen.strokeStyle = pen.fillStyle = selected ? SELECTED : OTHER;
  pen.lineWidth = (selected ? 2 : 1.25) * scale;
  pen.setLineDash(finding.sort === "candidate" ? [4 * scale, 3 * scale] : []);
  pen.beginPath();
  pen.arc(x, y, pixels, 0, 2 * Math.PI);
  pen.stroke();
  pen.setLineDash([]);
  pen.fillText(finding.label, x + pixels * 0.72 + 3 * scale, y - pixels * 0.72 - 3 * scale);
}

/** The outline of a finding's mask on the slice that is shown. */
function outline({ pen, nv, scale }: Canvas, plane: Plane, { shape, selected }: Mark): void {
  if (!shape) return;
  const [x = 0, y = 0, z = 0] = nv.frac2mm(nv.scene.crosshairPos);
  pen.strokeStyle = selected ? SELECTED : OTHER;
  pen.lineWidth = (selected ? 2 : 1) * scale; // of two pixels, at least one is covered wholly
  pen.beginPath();
  for (const ends of shape.edges(acrossAxis(nv, plane, shape), [x, y, z])) {
    const [from, to] = ends.map((end) => nv.frac2canvasPosWithTile(onSlice(nv, plane, end).frac, plane)?.pos);
    if (from && to) line(pen, from[0] ?? 0, from[1] ?? 0, to[0] ?? 0, to[1] ?? 0);
  }
  pen.stroke();
}

/** The axis of the mask's array across a plane. NiiVue turns the array, so that its axes have another order. */
function acrossAxis(nv: Niivue, plane: Plane, { steps }: Shape): 0 | 1 | 2 {
  const start = nv.mm2frac([0, 0, 0])[AXIS[plane]];
  const across = steps.map((step) => Math.abs(nv.mm2frac(step)[AXIS[plane]] - start));
  return across.indexOf(Math.max(...across)) as 0 | 1 | 2;
}

/** A measured distance, with its ends and its length, on the slice that it was measured on. */
function ruler({ pen, nv, scale }: Canvas, { from, to, plane }: Measure): void {
  const [start, end] = [onSlice(nv, plane, from), onSlice(nv, plane, to)];
  const [a, b] = [start, end].map(({ frac }) => nv.frac2canvasPosWithTile(frac, plane)?.pos);
  const thick = nv.volumes[0]?.pixDimsRAS?.[AXIS[plane] + 1] ?? 1;
  if (!a || !b || start.away > thick / 2) return;
  const [x = 0, y = 0, toX = 0, toY = 0] = [...a, ...b];
  pen.strokeStyle = MEASURED;
  pen.lineWidth = 1.5 * scale;
  pen.beginPath();
  line(pen, x, y, toX, toY);
  const length = Math.hypot(toX - x, toY - y) || 1;
  const [acrossX, acrossY] = [(-(toY - y) / length) * 5 * scale, ((toX - x) / length) * 5 * scale];
  for (const [endX, endY] of [[x, y], [toX, toY]] as const) line(pen, endX - acrossX, endY - acrossY, endX + acrossX, endY + acrossY);
  pen.stroke();
  label(pen, `${fixed(distance(from, to), 1)} mm`, Math.max(x, toX) + 8 * scale, (y + toY) / 2, scale, MEASURED);
}

/** Text that can be read on black and on white. */
function label(pen: CanvasRenderingContext2D, text: string, x: number, y: number, scale: number, colour: string): void {
  const { width } = pen.measureText(text);
  pen.fillStyle = "#000b";
  pen.fillRect(x - 4 * scale, y - 13 * scale, width + 8 * scale, 18 * scale);
  pen.fillStyle = colour;
  pen.fillText(text, x, y);
}

/** The number of the slice, the thickness of the slab, and a bar of known length. */
function legend({ pen, nv, scale }: Canvas, tile: Tile, plane: Plane, slab: number): void {
  const slices = nv.volumes[0]?.dimsRAS?.[AXIS[plane] + 1] ?? 1;
  const slice = Math.floor(nv.scene.crosshairPos[AXIS[plane]] * slices);
  const [left, top, wide, high] = box(tile);
  const margin = MARGIN * scale;
  const base = top + high - margin;
  label(pen, `${Math.min(slices, slice + 1)} / ${slices}${slab > 0 ? ` · MIP ${slab} mm` : ""}`, left + margin, base, scale, OTHER);
  const millimetres = scaleLength(pixelsPerMm(tile), LONGEST_SCALE * wide);
  const pixels = millimetres * pixelsPerMm(tile);
  const right = left + wide - margin;
  pen.strokeStyle = OTHER;
  pen.lineWidth = 1.5 * scale;
  pen.beginPath();
  line(pen, right - pixels, base, right, base);
  for (const x of [right - pixels, right]) line(pen, x, base - 4 * scale, x, base + 4 * scale);
  pen.stroke();
  const text = `${millimetres} mm`;
  label(pen, text, right - pen.measureText(text).width, base - 8 * scale, scale, OTHER);
}
