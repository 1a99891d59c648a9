/** The inset: the selected finding, magnified, on the slice that the largest plane shows. */

import type { Niivue, NVImage } from "@niivue/niivue";
import type { Vec3 } from "./contract";
import { fixed } from "./format";
import { ringRadius } from "./geometry";
import { AXIS, box, type Canvas, label, MARGIN, type Mark, onSlice, OTHER, outline, pixelsPerMm, type Plane, type Tile, UNKNOWN } from "./pen";

const SHARE = 0.28; // of the plane's shorter side
const SIDE = { least: 80, most: 240 }; // CSS pixels
const FIELD = { least: 30, most: 90, diameters: 2.5 }; // mm
const LEAST_TIMES = 1.5; // below this magnification there is no inset
type Axis = 0 | 1 | 2; // of RAS+

/** A square of the canvas, in canvas pixels. */
export type Square = readonly [left: number, top: number, side: number];

/** The width of the field around a finding, mm. */
export const fieldOf = (diameter: number | null): number => Math.min(FIELD.most, Math.max(FIELD.least, FIELD.diameters * (diameter ?? 0)));

/**
 * The position of the inset in an upper corner of a plane: the right one, unless it would cover the point `at`.
 * Null if the plane is too small.
 */
export function cornerOf([left, top, wide, high]: readonly [number, number, number, number], at: readonly [number, number], scale: number): Square | null {
  const side = Math.min(SIDE.most * scale, SHARE * Math.min(wide, high));
  if (side < SIDE.least * scale) return null;
  const margin = MARGIN * scale;
  const below = at[0] > left + wide / 2 && at[1] < top + high / 2;
  return [below ? left + margin : left + wide - side - margin, top + margin, side];
}

/** Draw the inset of `mark`, with or without its outline, if the slice cuts the finding. Returns its position or null. */
export function drawInset(canvas: Canvas, tile: Tile, plane: Plane, mark: Mark, outlined: boolean): Square | null {
  const { pen, nv, scale } = canvas;
  const [volume] = nv.volumes;
  const { frac, away } = onSlice(nv, plane, mark.centre);
  const [markX = 0, markY = 0] = nv.frac2canvasPosWithTile(frac, plane)?.pos ?? [];
  const square = cornerOf(box(tile), [markX, markY], scale);
  if (!volume || !square || ringRadius(mark.finding.diameter_mm ?? UNKNOWN, away) === null) return null;
  const [left, top, side] = square;
  const pixels = side / fieldOf(mark.finding.diameter_mm); // for each mm
  const times = pixels / pixelsPerMm(tile);
  if (times < LEAST_TIMES) return null;
  const grid = gridOf(nv, volume, plane);
  const middle = grid.index(mark.centre);
  const place = ([a, b]: readonly [number, number]): [number, number] => [
    left + side / 2 + (middle[0] - a) * grid.step[0] * pixels,
    top + side / 2 + (middle[1] - b) * grid.step[1] * pixels,
  ];
  pen.save();
  pen.beginPath();
  pen.rect(left, top, side, side);
  pen.clip();
  pen.fillStyle = "#000";
  pen.fillRect(left, top, side, side);
  const most = grid.step.map((step, axis) => Math.ceil((middle[axis] ?? 0) + side / pixels / 2 / step)) as [number, number];
  const count = grid.step.map((step) => Math.ceil(side / pixels / step) + 2) as [number, number];
  const [x, y] = place([most[0] + 0.5, most[1] + 0.5]);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(voxels(volume, grid, most, count), x, y, count[0] * grid.step[0] * pixels, count[1] * grid.step[1] * pixels);
  if (outlined) outline(canvas, plane, mark, (end) => place(grid.index(end)));
  pen.restore();
  pen.strokeStyle = OTHER;
  pen.lineWidth = scale;
  pen.strokeRect(left, top, side, side);
  label(pen, `${mark.finding.label} · × ${fixed(times, 1)}`, left + 6 * scale, top + side - 8 * scale, scale, OTHER);
  return square;
}

/** The voxels of a slice: `axes` go to the left and up on the screen, because it shows the patient from the feet and the left. */
interface Grid {
  axes: readonly [Axis, Axis];
  size: readonly [number, number];
  step: readonly [number, number]; // mm
  across: Axis;
  slice: number;
  index: (mm: Vec3) => [number, number]; // whole numbers are voxel centres
}

function gridOf(nv: Niivue, { dimsRAS = [], pixDimsRAS = [] }: NVImage, plane: Plane): Grid {
  const across = AXIS[plane];
  const axes: [Axis, Axis] = [across === 0 ? 1 : 0, across === 2 ? 1 : 2];
  const size = axes.map((axis) => dimsRAS[axis + 1] ?? 1) as [number, number];
  const step = axes.map((axis) => pixDimsRAS[axis + 1] ?? 1) as [number, number];
  const slices = dimsRAS[across + 1] ?? 1;
  const slice = Math.min(slices - 1, Math.floor(nv.scene.crosshairPos[across] * slices));
  const index = (mm: Vec3): [number, number] => {
    const frac = nv.mm2frac(mm);
    return [frac[axes[0]] * size[0] - 0.5, frac[axes[1]] * size[1] - 0.5];
  };
  return { axes, size, step, across, slice, index };
}

const kept = new WeakMap<NVImage, { key: string; image: OffscreenCanvas }>(); // the last image, which most changes leave as it is

/** A part of a slice as grey values in the volume's window. It starts at the voxel `most` and runs to smaller indices. */
function voxels(volume: NVImage, { axes, size, across, slice }: Grid, most: readonly [number, number], count: readonly [number, number]): OffscreenCanvas {
  const { cal_min: low = 0, cal_max: high = 1 } = volume;
  const key = [axes, slice, most, count, low, high].join();
  const before = kept.get(volume);
  if (before?.key === key) return before.image;
  const image = new OffscreenCanvas(...count);
  const data = new ImageData(...count);
  const at: Vec3 = [slice, slice, slice];
  for (let row = 0; row < count[1]; row++)
    for (let column = 0; column < count[0]; column++) {
      const [a, b] = [most[0] - column, most[1] - row];
      [at[axes[0]], at[axes[1]], at[across]] = [a, b, slice];
      const inside = a >= 0 && b >= 0 && a < size[0] && b < size[1];
      const grey = inside ? (255 * (volume.getValue(...at) - low)) / (high - low) : 0;
      data.data.set([grey, grey, grey, 255], 4 * (row * count[0] + column)); // clamped to 0 to 255
    }
  image.getContext("2d")?.putImageData(data, 0, 0);
  kept.set(volume, { key, image });
  return image;
}
