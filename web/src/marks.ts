/** Draws over the planes: crosshair, rings around findings, measured distances, scale and slice number. */

import { type Niivue, SLICE_TYPE } from "@niivue/niivue";
import type { Vec3 } from "./contract";
import type { Finding } from "./findings";
import { fixed } from "./format";
import { distance, ringRadius, scaleLength } from "./geometry";
import { drawInset, type Square } from "./inset";
import { AXIS, box, type Canvas, isPlane, label, line, MARGIN, type Mark, onSlice, OTHER, outline, pixelsPerMm, type Plane, SELECTED, type Tile, UNKNOWN } from "./pen";

const CROSSHAIR = "#5cc9d3b0";
const MEASURED = "#8df08d";
const SIDE = "#ffd08a";
const NARROW = 240; // CSS pixels
const GAP = 14; // CSS pixels around its centre that the crosshair leaves free
const LONGEST_SCALE = 0.4; // fraction of a plane's width
const SIDES = { [SLICE_TYPE.SAGITTAL]: "APSI", [SLICE_TYPE.CORONAL]: "RLSI", [SLICE_TYPE.AXIAL]: "RLAP" } as const; // left, right, top, bottom

/** A distance measured by the reader, on one slice of one plane; its ends are RAS+ mm. */
export interface Measure {
  from: Vec3;
  to: Vec3;
  plane: Plane;
}

/** What is drawn over the planes. The reader can hide rings and outlines. */
export interface Drawn {
  marks: Mark[];
  rings: boolean;
  outlines: boolean;
  inset: boolean;
  measures: Measure[];
  slab: number; // mm; 0: single slices
}

/** A ring that was drawn, in pixels of the canvas. */
export interface Ring {
  x: number;
  y: number;
  radius: number;
  finding: Finding;
}

/** What the pointer can select on the overlay. */
export interface Found {
  rings: Ring[];
  inset: Square | null;
}

/** Clear the overlay and redraw every plane. */
export function drawMarks(overlay: HTMLCanvasElement, nv: Niivue, drawn: Drawn): Found {
  const { width, height } = nv.gl.canvas;
  Object.assign(overlay, { width, height }); // this also clears it
  const pen = overlay.getContext("2d");
  const found: Found = { rings: [], inset: null };
  if (!pen || nv.volumes.length === 0) return found;
  const canvas = { pen, nv, scale: nv.uiData.dpr ?? 1 };
  pen.font = `600 ${12 * canvas.scale}px system-ui, sans-serif`;
  for (const tile of nv.screenSlices) {
    const plane = tile.axCorSag;
    if (!isPlane(plane)) continue;
    crosshair(canvas, tile, plane);
    for (const mark of drawn.marks) {
      if (drawn.outlines) outline(canvas, plane, mark, (end) => nv.frac2canvasPosWithTile(onSlice(nv, plane, end).frac, plane)?.pos);
      const ringed = drawn.rings ? ring(canvas, tile, plane, mark) : null;
      if (ringed) found.rings.push(ringed);
    }
    for (const measure of drawn.measures) if (measure.plane === plane) ruler(canvas, measure);
    sides(canvas, tile, plane);
    legend(canvas, tile, plane, drawn.slab);
  }
  const [largest] = nv.screenSlices; // of all planes, the axial one
  const chosen = drawn.marks.find(({ selected }) => selected);
  if (drawn.inset && chosen && largest && isPlane(largest.axCorSag)) found.inset = drawInset(canvas, largest, largest.axCorSag, chosen, drawn.outlines);
  return found;
}

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

function ring({ pen, nv, scale }: Canvas, tile: Tile, plane: Plane, { finding, centre, selected }: Mark): Ring | null {
  const { frac, away } = onSlice(nv, plane, centre);
  const radius = ringRadius(finding.diameter_mm ?? UNKNOWN, away);
  const at = nv.frac2canvasPosWithTile(frac, plane)?.pos;
  if (radius === null || !at) return null;
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
  return { x, y, radius: pixels, finding };
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

/** The letters of the patient's sides. */
function sides({ pen, scale }: Canvas, tile: Tile, plane: Plane): void {
  const [left, top, wide, high] = box(tile);
  const [x, y, away] = [left + wide / 2, top + high / 2, MARGIN * scale];
  const base = top + high - away - (wide < NARROW * scale ? 2 * away : 0); // above the slice number
  const places = [[left + away, y], [left + wide - away, y], [x, top + away], [x, base]] as const;
  places.forEach(([letterX, letterY], index) => {
    const letter = SIDES[plane].charAt(index);
    label(pen, letter, letterX - pen.measureText(letter).width / 2, letterY + 4 * scale, scale, SIDE);
  });
}

/** The number of the slice, the thickness of the slab, and a bar of known length. */
function legend({ pen, nv, scale }: Canvas, tile: Tile, plane: Plane, slab: number): void {
  const slices = nv.volumes[0]?.dimsRAS?.[AXIS[plane] + 1] ?? 1;
  const slice = Math.floor(nv.scene.crosshairPos[AXIS[plane]] * slices);
  const [left, top, wide, high] = box(tile);
  const margin = MARGIN * scale;
  const base = top + high - margin;
  const number = `${Math.min(slices, slice + 1)} of ${slices}${slab > 0 ? ` · MIP ${slab} mm` : ""}`;
  label(pen, number, left + margin, base, scale, OTHER);
  const millimetres = scaleLength(pixelsPerMm(tile), LONGEST_SCALE * wide);
  const pixels = millimetres * pixelsPerMm(tile);
  const text = `${millimetres} mm`;
  const needed = pen.measureText(number).width + Math.max(pixels, pen.measureText(text).width) + 3 * margin;
  if (needed > wide) return; // a small plane has no room for the scale
  const right = left + wide - margin;
  pen.strokeStyle = OTHER;
  pen.lineWidth = 1.5 * scale;
  pen.beginPath();
  line(pen, right - pixels, base, right, base);
  for (const x of [right - pixels, right]) line(pen, x, base - 4 * scale, x, base + 4 * scale);
  pen.stroke();
  label(pen, text, right - pen.measureText(text).width, base - 8 * scale, scale, OTHER);
}
