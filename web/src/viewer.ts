/** The CT with the heatmap over it, in three planes, drawn by NiiVue. */

import { DRAG_MODE, Niivue, NVImage, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";
import type { Mark, Vec3 } from "./contract";
import type { Finding } from "./findings";
import { centre } from "./geometry";
import { drawMarks, isPlane, type Measure, type Plane } from "./marks";
import type { Shape } from "./outlines";
import { setSlab, useSlabs } from "./slab";

export const VIEWS = ["All planes", "Axial", "Coronal", "Sagittal"] as const;
export type View = (typeof VIEWS)[number];
export type Window = readonly [level: number, width: number]; // HU

/** What lies under the crosshair: world LPS mm, HU, and the heatmap's value where there is one. */
export interface Place {
  lps: Vec3;
  hu: number | null;
  heat: number | null;
}

const ZOOMS = { step: 1.25, least: 0.5, most: 12, close: 4 }; // times the whole plane; `close` is for one nodule
const SINGLE = { Axial: SLICE_TYPE.AXIAL, Coronal: SLICE_TYPE.CORONAL, Sagittal: SLICE_TYPE.SAGITTAL };
const VISIBLE_FROM = 0.1; // of the heatmap
const BACKGROUND = [0, 0, 0, 1];
const LETTERS = [1, 0.7, 0.25, 1]; // is seen on black and on white

export class Viewer {
  onPlace: (place: Place) => void = () => undefined;
  onWindow: (level: number, width: number) => void = () => undefined;
  onMeasures: (measures: Measure[]) => void = () => undefined; // drawn by the reader
  private findings: Finding[] = [];
  private selected: Finding | null = null;
  private shapes = new Map<string, Shape>();
  private rings = true;
  private outlines = true;
  private measuring = false;
  private measures: Measure[] = [];
  private slab = 0;
  private windowed: [number, number] = [0, 0];
  private view: View = "All planes";

  private constructor(
    private readonly nv: Niivue,
    private readonly canvas: HTMLCanvasElement,
    private readonly overlay: HTMLCanvasElement,
  ) {}

  /** A viewer on `canvas`, with its marks on the transparent `overlay` of the same size. */
  static async open(canvas: HTMLCanvasElement, overlay: HTMLCanvasElement): Promise<Viewer> {
    const nv = new Niivue({
      backColor: BACKGROUND,
      crosshairWidth: 0, // drawn with the marks, as fine as the screen allows
      fontColor: LETTERS,
      fontMinPx: 12,
      fontSizeScaling: 0.3,
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      isOrientationTextVisible: true,
      showAllOrientationMarkers: true,
      invertScrollDirection: true, // the wheel, turned towards the reader, goes to the feet
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarPadPixels: 4,
      dragAndDropEnabled: false,
      loadingText: "",
      logLevel: "error",
      isColorbar: false,
    });
    nv.setMouseEventConfig({
      leftButton: { primary: DRAG_MODE.crosshair },
      rightButton: DRAG_MODE.windowing,
      centerButton: DRAG_MODE.pan,
    });
    await nv.attachToCanvas(canvas);
    useSlabs(nv);
    const viewer = new Viewer(nv, canvas, overlay);
    viewer.listen();
    return viewer;
  }

  private listen(): void {
    const draw = this.nv.drawScene.bind(this.nv);
    this.nv.drawScene = () => {
      const drawn = draw();
      this.mark();
      return drawn;
    };
    this.nv.onLocationChange = () => this.tellPlace();
    new ResizeObserver(() => this.arrange()).observe(this.canvas);
    this.listenToRuler();
    const stage = this.canvas.parentElement ?? this.canvas;
    const zoom = (event: WheelEvent): void => {
      if (!event.ctrlKey) return; // a pinch on a touch pad is a wheel with Ctrl, too
      event.preventDefault();
      event.stopPropagation();
      this.zoom(event.deltaY < 0 ? ZOOMS.step : 1 / ZOOMS.step);
    };
    stage.addEventListener("wheel", zoom, { capture: true, passive: false });
    stage.addEventListener("dblclick", () => this.closeUp());
  }

  /** Draw a line while the reader drags with Shift, or with the ruler on; NiiVue must not see it. */
  private listenToRuler(): void {
    const stage = this.canvas.parentElement ?? this.canvas;
    const held = (event: MouseEvent): boolean => event.button === 0 && (this.measuring || event.shiftKey);
    const hide = (event: Event): void => {
      if (this.measuring || (event instanceof MouseEvent && held(event))) event.stopPropagation();
    };
    for (const name of ["mousedown", "touchstart"]) stage.addEventListener(name, hide, { capture: true });
    stage.addEventListener("pointerdown", (event) => {
      const start = held(event) ? this.pointed(event) : null;
      if (!start) return;
      stage.setPointerCapture(event.pointerId);
      const line: Measure = { from: start.mm, to: start.mm, plane: start.plane };
      this.measures = [...this.measures, line];
      const draw = (move: PointerEvent): void => {
        const point = this.pointed(move, start.tile);
        if (point) line.to = point.mm;
        this.mark();
      };
      const end = (): void => {
        stage.removeEventListener("pointermove", draw);
        if (line.to === line.from) this.measures = this.measures.filter((one) => one !== line);
        this.onMeasures(this.measures);
      };
      stage.addEventListener("pointermove", draw);
      for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, end, { once: true });
    });
  }

  /** The place under the pointer, in RAS+ mm, on a plane: the one under it, or that of the tile `on`. */
  private pointed(event: MouseEvent, on?: number): { mm: Vec3; plane: Plane; tile: number } | null {
    const { left, top } = this.canvas.getBoundingClientRect();
    const scale = this.nv.uiData.dpr ?? 1;
    const [x, y] = [(event.clientX - left) * scale, (event.clientY - top) * scale];
    const tile = on ?? this.nv.tileIndex(x, y);
    const plane = this.nv.screenSlices[tile]?.axCorSag;
    if (plane === undefined || !isPlane(plane)) return null;
    const [a = -1, b = -1, c = -1] = this.nv.screenXY2TextureFrac(x, y, tile, false);
    if (a < 0) return null;
    const [r = 0, f = 0, s = 0] = this.nv.frac2mm([a, b, c]);
    return { mm: [r, f, s], plane, tile };
  }

  /** Show the scan, a NIfTI file, in a window; a scan that is shown already is replaced, and nothing else changes. */
  async load(scan: ArrayBuffer, [level, width]: Window): Promise<void> {
    const [before] = this.nv.volumes;
    const range = { cal_min: level - width / 2, cal_max: level + width / 2 };
    const next = await NVImage.loadFromUrl({ url: scan, name: named("scan", scan), colormap: "gray", ...range });
    const [x, y, z] = this.nv.frac2mm(this.nv.scene.crosshairPos);
    const [r, f, s, zoom] = this.nv.scene.pan2Dxyzmm;
    if (before) {
      Object.assign(next, { cal_min: before.cal_min, cal_max: before.cal_max }); // as the reader has set it meanwhile
      this.nv.removeVolume(before);
    }
    this.nv.addVolume(next);
    this.arrange();
    setSlab(this.nv, this.slab);
    if (before) {
      this.nv.setPan2Dxyzmm([r ?? 0, f ?? 0, s ?? 0, zoom ?? 1]);
      this.moveTo([x ?? 0, y ?? 0, z ?? 0]);
    } else this.tellPlace();
  }

  /** Lay the heatmap, a NIfTI file, over the scan. */
  async loadHeatmap(heatmap: ArrayBuffer, opacity: number): Promise<void> {
    const look = { colormap: "warm", opacity, cal_min: VISIBLE_FROM, cal_max: 1 };
    this.nv.addVolume(await NVImage.loadFromUrl({ url: heatmap, name: named("heatmap", heatmap), ...look }));
    this.tellPlace();
  }

  /** The findings to draw rings around, and which of them is the selected one. */
  show(findings: Finding[], selected: Finding | null): void {
    this.findings = findings;
    this.selected = selected;
    this.mark();
  }

  /** The shapes of findings, by their labels. */
  setShapes(shapes: Map<string, Shape>): void {
    this.shapes = shapes;
    this.mark();
  }

  showRings(on: boolean): void {
    this.rings = on;
    this.mark();
  }

  showOutlines(on: boolean): void {
    this.outlines = on;
    this.mark();
  }

  /** Whether a drag measures a distance. */
  measure(on: boolean): void {
    this.measuring = on;
    this.canvas.style.cursor = on ? "crosshair" : "";
  }

  /** The distances that are drawn; the reader may have removed some. */
  setMeasures(measures: Measure[]): void {
    this.measures = measures;
    this.mark();
  }

  /** The slice of a measured distance. */
  goToMeasure({ from, to }: Measure): void {
    const middle = from.map((value, axis) => (value + (to[axis] ?? 0)) / 2) as Vec3;
    this.moveTo(middle);
  }

  /** Magnify by a factor, around the crosshair; null shows the whole planes again. */
  zoom(factor: number | null): void {
    const [x = 0, y = 0, z = 0, now = 1] = this.nv.scene.pan2Dxyzmm;
    if (factor === null) {
      this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
      return;
    }
    const next = Math.min(ZOOMS.most, Math.max(ZOOMS.least, now * factor));
    const at = this.nv.frac2mm(this.nv.scene.crosshairPos);
    const moved = [x, y, z].map((pan, axis) => pan - (next - now) * (at[axis] ?? 0));
    this.nv.setPan2Dxyzmm([moved[0] ?? 0, moved[1] ?? 0, moved[2] ?? 0, next]);
  }

  /** Magnify the selected finding, or show the whole planes again. */
  closeUp(): void {
    const near = this.nv.scene.pan2Dxyzmm[3] > 1;
    this.zoom(null);
    if (near) return;
    if (this.selected) this.goTo(this.selected);
    const [x = 0, y = 0, z = 0] = this.nv.frac2mm(this.nv.scene.crosshairPos);
    const [r, f, s] = this.middle;
    this.nv.setPan2Dxyzmm([r - ZOOMS.close * x, f - ZOOMS.close * y, s - ZOOMS.close * z, ZOOMS.close]);
  }

  /** Move the crosshair to a mark's centre. */
  goTo(mark: Mark): void {
    this.moveTo(centre(mark, this.affine));
  }

  private moveTo(mm: Vec3): void {
    if (this.nv.volumes.length === 0) return;
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm);
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }

  /** Move the crosshair by voxels to the patient's right-to-left, back-to-front and feet-to-head. */
  step(x: number, y: number, z: number): void {
    if (this.nv.volumes.length === 0) return;
    this.nv.moveCrosshairInVox(x, y, z);
    this.nv.drawScene();
  }

  /** The axial slice of the crosshair, from 1 at the feet, and how many there are. */
  get slice(): { at: number; of: number } {
    const of = this.nv.volumes[0]?.dimsRAS?.[3] ?? 1;
    return { at: Math.min(of, Math.floor(this.nv.scene.crosshairPos[2] * of) + 1), of };
  }

  set slice({ at, of }: { at: number; of: number }) {
    const [x = 0, y = 0] = this.nv.scene.crosshairPos;
    const [r = 0, f = 0, s = 0] = this.nv.frac2mm([x, y, (at - 0.5) / of]);
    this.moveTo([r, f, s]);
  }

  /** Show the brightest voxels of slabs of so many mm; 0: single slices. */
  setSlab(mm: number): void {
    this.slab = mm;
    setSlab(this.nv, mm);
    this.nv.drawScene();
  }

  setView(view: View): void {
    this.view = view;
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
    this.arrange();
  }

  setWindow([level, width]: Window): void {
    const [volume] = this.nv.volumes;
    if (!volume) return;
    [volume.cal_min, volume.cal_max] = [level - width / 2, level + width / 2];
    this.nv.updateGLVolume();
  }

  /** The heatmap's opacity, 0 to 1. */
  setOpacity(opacity: number): void {
    if (this.nv.volumes.length > 1) this.nv.setOpacity(1, opacity);
  }

  close(): void {
    this.nv.cleanup();
    this.nv.gl.getExtension("WEBGL_lose_context")?.loseContext(); // browsers allow only a few
  }

  /** The planes, the axial one largest; wide canvases have the others beside it, tall ones below. */
  private arrange(): void {
    if (this.view !== "All planes") {
      this.nv.clearCustomLayout();
      this.nv.setSliceType(SINGLE[this.view]);
      return;
    }
    const wide = this.canvas.clientWidth > this.canvas.clientHeight;
    this.nv.setCustomLayout(
      wide
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

  /** The middle of the scan, RAS+ mm. */
  private get middle(): Vec3 {
    const [x = 0, y = 0, z = 0] = this.nv.frac2mm([0.5, 0.5, 0.5]);
    return [x, y, z];
  }

  private get affine(): number[][] {
    return this.nv.volumes[0]?.hdr?.affine ?? [];
  }

  private mark(): void {
    const marks = this.findings.map((finding) => {
      const shape = this.shapes.get(finding.label) ?? null;
      return { finding, shape, centre: shape?.centroid ?? centre(finding, this.affine), selected: finding === this.selected };
    });
    drawMarks(this.overlay, this.nv, { marks, rings: this.rings, outlines: this.outlines, measures: this.measures, slab: this.slab });
    this.tellWindow();
  }

  /** Tell the window that is drawn, whoever changed it. */
  private tellWindow(): void {
    const { cal_min: low = 0, cal_max: high = 0 } = this.nv.volumes[0] ?? {};
    if (this.windowed[0] === low && this.windowed[1] === high) return;
    this.windowed = [low, high];
    this.onWindow((low + high) / 2, high - low);
  }

  private tellPlace(): void {
    const [scan, heatmap] = this.nv.volumes;
    if (!scan) return;
    const mm = this.nv.frac2mm(this.nv.scene.crosshairPos);
    const value = (volume: NVImage): number => {
      const [x, y, z] = volume.mm2vox([mm[0], mm[1], mm[2]]);
      return volume.getValue(x ?? 0, y ?? 0, z ?? 0);
    };
    this.onPlace({ lps: [-mm[0], -mm[1], mm[2]], hu: value(scan), heat: heatmap ? value(heatmap) : null });
  }
}

/** The name by which NiiVue recognises the format. */
function named(name: string, data: ArrayBuffer): string {
  const [first, second] = new Uint8Array(data, 0, 2);
  return `${name}.nii${first === 0x1f && second === 0x8b ? ".gz" : ""}`;
}
