/** The viewer: the CT with the heatmap over it in three planes, drawn by NiiVue. */

import { DRAG_MODE, Niivue, NVImage, SHOW_RENDER } from "@niivue/niivue";
import { arrange, closeUp, isNear, pixelAt, type View, zoom } from "./camera";
import type { Mark, Vec3 } from "./contract";
import { described, type Finding } from "./findings";
import { centre } from "./geometry";
import { listenToGestures } from "./gestures";
import { drawMarks, type Found, type Measure } from "./marks";
import { Measuring } from "./measuring";
import type { Shape } from "./outlines";
import { setHeat, setSlab, useSlices } from "./slices";

export type Window = readonly [level: number, width: number]; // HU

/** The position of the crosshair in LPS mm, its HU, and its heatmap value if a heatmap is loaded. */
export interface Place {
  lps: Vec3;
  hu: number | null;
  heat: number | null;
}

const VISIBLE_FROM = 0.1; // heatmap values below are transparent
const BACKGROUND = [0, 0, 0, 1];

export class Viewer {
  onPlace: (place: Place) => void = () => undefined;
  onWindow: (level: number, width: number) => void = () => undefined;
  onMeasures: (measures: Measure[]) => void = () => undefined; // drawn by the reader
  private findings: Finding[] = [];
  private selected: Finding | null = null;
  private shapes = new Map<string, Shape>();
  private rings = true;
  private outlines = true;
  private inset = true;
  private found: Found = { rings: [], inset: null };
  private slab = 0;
  private windowed: [number, number] = [0, 0];
  private view: View = "All planes";
  private readonly measuring: Measuring;

  private constructor(
    private readonly nv: Niivue,
    private readonly canvas: HTMLCanvasElement,
    private readonly overlay: HTMLCanvasElement,
  ) {
    this.measuring = new Measuring(nv, canvas, () => this.mark(), (measures) => this.onMeasures(measures));
  }

  /** A viewer on `canvas`, with its marks on the transparent `overlay` of the same size. */
  static async open(canvas: HTMLCanvasElement, overlay: HTMLCanvasElement): Promise<Viewer> {
    const nv = new Niivue({
      backColor: BACKGROUND,
      crosshairWidth: 0, // drawn with the marks, in device pixels
      isRadiologicalConvention: true, // as the letters at the edges state
      sagittalNoseLeft: true,
      isOrientationTextVisible: false, // drawn with the marks, legible on black and on white
      invertScrollDirection: true, // turning the wheel towards oneself scrolls to the feet
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
    useSlices(nv);
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
    new ResizeObserver(() => arrange(this.nv, this.canvas, this.view)).observe(this.canvas);
    listenToGestures(this.canvas, {
      zoom: (factor) => this.zoom(factor),
      closeUp: () => this.closeUp(),
      nameAt: (event) => this.nameAt(event),
      isHidden: (event) => this.isInInset(event),
      choose: () => this.selected && this.goTo(this.selected),
    });
  }

  /** Show the scan (NIfTI) in a window. It replaces a scan that is already shown; nothing else changes. */
  async load(scan: ArrayBuffer, [level, width]: Window): Promise<void> {
    const [before] = this.nv.volumes;
    const range = { cal_min: level - width / 2, cal_max: level + width / 2 };
    const next = await NVImage.loadFromUrl({ url: scan, name: named("scan", scan), colormap: "gray", ...range });
    const [x, y, z] = this.nv.frac2mm(this.nv.scene.crosshairPos);
    const [r, f, s, times] = this.nv.scene.pan2Dxyzmm;
    if (before) {
      Object.assign(next, { cal_min: before.cal_min, cal_max: before.cal_max }); // as the reader has set it in the meantime
      this.nv.removeVolume(before);
    }
    this.nv.addVolume(next);
    arrange(this.nv, this.canvas, this.view);
    setSlab(this.nv, this.slab);
    if (before) {
      this.nv.setPan2Dxyzmm([r ?? 0, f ?? 0, s ?? 0, times ?? 1]);
      this.moveTo([x ?? 0, y ?? 0, z ?? 0]);
    } else this.tellPlace();
  }

  /** Draw the heatmap (NIfTI) over the scan. */
  async loadHeatmap(heatmap: ArrayBuffer, opacity: number): Promise<void> {
    const look = { colormap: "warm", opacity: 1, cal_min: VISIBLE_FROM, cal_max: 1 };
    setHeat(this.nv, opacity);
    this.nv.addVolume(await NVImage.loadFromUrl({ url: heatmap, name: named("heatmap", heatmap), ...look }));
    this.tellPlace();
  }

  /** The findings that get rings, and the selected one. */
  show(findings: Finding[], selected: Finding | null): void {
    this.findings = findings;
    this.selected = selected;
    this.mark();
  }

  /** The shapes of findings by their labels. */
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

  showInset(on: boolean): void {
    this.inset = on;
    this.mark();
  }

  /** Whether a drag measures a distance. */
  measure(on: boolean): void {
    this.measuring.on = on;
    this.canvas.style.cursor = on ? "crosshair" : "";
  }

  /** Draw these distances, without those that the reader removed. */
  setMeasures(measures: Measure[]): void {
    this.measuring.measures = measures;
    this.mark();
  }

  /** Show the slice of a measured distance. */
  goToMeasure({ from, to }: Measure): void {
    const middle = from.map((value, axis) => (value + (to[axis] ?? 0)) / 2) as Vec3;
    this.moveTo(middle);
  }

  /** Zoom by a factor around the crosshair; null shows the whole planes. */
  zoom(factor: number | null): void {
    zoom(this.nv, factor);
  }

  /** Zoom to the selected finding, or show the whole planes again. */
  closeUp(): void {
    const near = isNear(this.nv);
    this.zoom(null);
    if (near) return;
    if (this.selected) this.goTo(this.selected);
    closeUp(this.nv);
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

  /** Show maximum intensity projections of slabs of `mm`; 0: single slices. */
  setSlab(mm: number): void {
    this.slab = mm;
    setSlab(this.nv, mm);
    this.nv.drawScene();
  }

  setView(view: View): void {
    this.view = view;
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
    arrange(this.nv, this.canvas, this.view);
  }

  setWindow([level, width]: Window): void {
    const [volume] = this.nv.volumes;
    if (!volume) return;
    [volume.cal_min, volume.cal_max] = [level - width / 2, level + width / 2];
    this.nv.refreshLayers(volume, 0);
    this.nv.drawScene();
  }

  /** The heatmap's opacity, 0 to 1. */
  setOpacity(opacity: number): void {
    setHeat(this.nv, opacity);
    this.nv.drawScene();
  }

  close(): void {
    this.nv.cleanup();
    this.nv.gl.getExtension("WEBGL_lose_context")?.loseContext(); // browsers allow only a few contexts
  }

  private get affine(): number[][] {
    return this.nv.volumes[0]?.hdr?.affine ?? [];
  }

  private mark(): void {
    const marks = this.findings.map((finding) => {
      const shape = this.shapes.get(finding.label) ?? null;
      return { finding, shape, centre: shape?.centroid ?? centre(finding, this.affine), selected: finding === this.selected };
    });
    const { rings, outlines, inset, slab } = this;
    this.found = drawMarks(this.overlay, this.nv, { marks, rings, outlines, inset, measures: this.measuring.measures, slab });
    this.tellWindow();
  }

  /** The finding whose ring is under the pointer, as text. */
  private nameAt(event: MouseEvent): string {
    const [x, y] = pixelAt(this.nv, this.canvas, event);
    const ring = this.found.rings.find((one) => Math.hypot(x - one.x, y - one.y) <= one.radius);
    return ring ? described(ring.finding) : "";
  }

  private isInInset(event: MouseEvent): boolean {
    const [x, y] = pixelAt(this.nv, this.canvas, event);
    const [left, top, side] = this.found.inset ?? [0, 0, -1];
    return x >= left && x <= left + side && y >= top && y <= top + side;
  }

  /** Report the present window, whoever changed it. */
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

/** A file name from which NiiVue recognises the format. */
function named(name: string, data: ArrayBuffer): string {
  const [first, second] = new Uint8Array(data, 0, 2);
  return `${name}.nii${first === 0x1f && second === 0x8b ? ".gz" : ""}`;
}
