/** The CT with the heatmap over it, in three planes, drawn by NiiVue. */

import { DRAG_MODE, Niivue, NVImage, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";
import type { Detection, Mark } from "./contract";
import { centre } from "./geometry";
import { drawMarks } from "./marks";

export const VIEWS = ["All planes", "Axial", "Coronal", "Sagittal"] as const;
export type View = (typeof VIEWS)[number];
export const WINDOWS = { Lung: [-600, 1500], "Soft tissue": [40, 400], Bone: [400, 1800] } as const; // HU: level, width
export type WindowName = keyof typeof WINDOWS;

/** What lies under the crosshair: world LPS mm, HU, and the heatmap's value where there is one. */
export interface Place {
  lps: number[];
  hu: number | null;
  heat: number | null;
}

const SINGLE = { Axial: SLICE_TYPE.AXIAL, Coronal: SLICE_TYPE.CORONAL, Sagittal: SLICE_TYPE.SAGITTAL };
const VISIBLE_FROM = 0.1; // of the heatmap
const BACKGROUND = [0, 0, 0, 1];
const LETTERS = [1, 0.7, 0.25, 1]; // is seen on black and on white

export class Viewer {
  onPlace: (place: Place) => void = () => undefined;
  onWindow: (level: number, width: number) => void = () => undefined;
  private nodules: Detection[] = [];
  private selected: number | null = null;
  private marked = true;
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
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarPadPixels: 4,
      dragAndDropEnabled: false,
      loadingText: "",
      logLevel: "error",
      isColorbar: false,
    });
    nv.setMouseEventConfig({
      leftButton: { primary: DRAG_MODE.crosshair, withShift: DRAG_MODE.measurement },
      rightButton: DRAG_MODE.windowing,
      centerButton: DRAG_MODE.pan,
    });
    await nv.attachToCanvas(canvas);
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
    this.nv.onIntensityChange = (volume) => {
      const [low, high] = [volume.cal_min ?? 0, volume.cal_max ?? 0];
      this.onWindow((low + high) / 2, high - low);
    };
    new ResizeObserver(() => this.arrange()).observe(this.canvas);
  }

  /** Show the scan, with the heatmap over it where there is one; both are NIfTI. */
  async load(scan: ArrayBuffer, heatmap: ArrayBuffer | null): Promise<void> {
    const [level, width] = WINDOWS.Lung;
    const range = { cal_min: level - width / 2, cal_max: level + width / 2 };
    this.nv.addVolume(await NVImage.loadFromUrl({ url: scan, name: named("scan", scan), colormap: "gray", ...range }));
    if (heatmap) {
      const look = { colormap: "warm", opacity: 0.5, cal_min: VISIBLE_FROM, cal_max: 1 };
      this.nv.addVolume(await NVImage.loadFromUrl({ url: heatmap, name: named("heatmap", heatmap), ...look }));
    }
    this.onWindow(level, width);
    this.arrange();
    this.tellPlace();
  }

  /** The nodules to draw rings around, and which of them is the selected one. */
  show(nodules: Detection[], selected: number | null): void {
    this.nodules = nodules;
    this.selected = selected;
    this.mark();
  }

  showMarks(on: boolean): void {
    this.marked = on;
    this.mark();
  }

  /** Move the crosshair to a mark's centre. */
  goTo(nodule: Mark): void {
    if (this.nv.volumes.length === 0) return;
    this.nv.scene.crosshairPos = this.nv.mm2frac(centre(nodule, this.affine));
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }

  /** Move the crosshair by voxels to the patient's right-to-left, back-to-front and feet-to-head. */
  step(x: number, y: number, z: number): void {
    if (this.nv.volumes.length === 0) return;
    this.nv.moveCrosshairInVox(x, y, z);
    this.nv.drawScene();
  }

  setView(view: View): void {
    this.view = view;
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
    this.arrange();
  }

  setWindow(name: WindowName): void {
    const [volume] = this.nv.volumes;
    if (!volume) return;
    const [level, width] = WINDOWS[name];
    [volume.cal_min, volume.cal_max] = [level - width / 2, level + width / 2];
    this.nv.updateGLVolume();
    this.onWindow(level, width);
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

  private get affine(): number[][] {
    return this.nv.volumes[0]?.hdr?.affine ?? [];
  }

  private mark(): void {
    const nodules = this.marked ? this.nodules : [];
    const marks = nodules.map((nodule) => ({
      nodule,
      centre: centre(nodule, this.affine),
      selected: nodule.id === this.selected,
    }));
    drawMarks(this.overlay, this.nv, marks);
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
