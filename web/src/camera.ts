/** Which planes the canvas shows, and at which zoom. */

import { type Niivue, SLICE_TYPE } from "@niivue/niivue";

export type View = "All planes" | "Axial" | "Coronal" | "Sagittal";

const ZOOMS = { least: 0.5, most: 12, close: 4 }; // relative to the whole plane; `close` is for one nodule
const SINGLE = { Axial: SLICE_TYPE.AXIAL, Coronal: SLICE_TYPE.CORONAL, Sagittal: SLICE_TYPE.SAGITTAL };

/** The position of the pointer on the canvas, in canvas pixels. */
export function pixelAt(nv: Niivue, canvas: HTMLCanvasElement, { clientX, clientY }: MouseEvent): [number, number] {
  const { left, top } = canvas.getBoundingClientRect();
  const scale = nv.uiData.dpr ?? 1;
  return [(clientX - left) * scale, (clientY - top) * scale];
}

/** One plane, or all of them with the axial one largest: the others beside it on a wide canvas, below it on a tall one. */
export function arrange(nv: Niivue, { clientWidth, clientHeight }: HTMLCanvasElement, view: View): void {
  if (view !== "All planes") {
    nv.clearCustomLayout();
    nv.setSliceType(SINGLE[view]);
    return;
  }
  nv.setCustomLayout(
    clientWidth > clientHeight
      ? [
          { sliceType: SLICE_TYPE.AXIAL, position: [0, 0, 0.62, 1] },
          { sliceType: SLICE_TYPE.CORONAL, position: [0.62, 0, 0.38, 0.5] },
          { sliceType: SLICE_TYPE.SAGITTAL, position: [0.62, 0.5, 0.38, 0.5] },
        ]
      : [
          { sliceType: SLICE_TYPE.AXIAL, position: [0, 0, 1, 0.6] },
          { sliceType: SLICE_TYPE.CORONAL, position: [0, 0.6, 0.5, 0.4] },
          { sliceType: SLICE_TYPE.SAGITTAL, position: [0.5, 0.6, 0.5, 0.4] },
        ],
  );
}

/** Zoom by a factor around the crosshair; null shows the whole planes. */
export function zoom(nv: Niivue, factor: number | null): void {
  const [x = 0, y = 0, z = 0, now = 1] = nv.scene.pan2Dxyzmm;
  if (factor === null) {
    nv.setPan2Dxyzmm([0, 0, 0, 1]);
    return;
  }
  const next = Math.min(ZOOMS.most, Math.max(ZOOMS.least, now * factor));
  const at = nv.frac2mm(nv.scene.crosshairPos);
  const moved = [x, y, z].map((pan, axis) => pan - (next - now) * (at[axis] ?? 0));
  nv.setPan2Dxyzmm([moved[0] ?? 0, moved[1] ?? 0, moved[2] ?? 0, next]);
}

/** Whether the planes are zoomed in. */
export const isNear = (nv: Niivue): boolean => nv.scene.pan2Dxyzmm[3] > 1;

/** Zoom to the crosshair and centre it in each plane. */
export function closeUp(nv: Niivue): void {
  const [x = 0, y = 0, z = 0] = nv.frac2mm(nv.scene.crosshairPos);
  const [r = 0, f = 0, s = 0] = nv.frac2mm([0.5, 0.5, 0.5]); // the middle of the scan
  nv.setPan2Dxyzmm([r - ZOOMS.close * x, f - ZOOMS.close * y, s - ZOOMS.close * z, ZOOMS.close]);
}
