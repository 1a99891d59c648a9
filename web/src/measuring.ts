/** Measuring: the reader draws a line by dragging with Shift, or while the ruler is on. */

import type { Niivue } from "@niivue/niivue";
import { pixelAt } from "./camera";
import type { Vec3 } from "./contract";
import type { Measure } from "./marks";
import { isPlane, type Plane } from "./pen";

interface Pointed {
  mm: Vec3; // RAS+
  plane: Plane;
  tile: number;
}

export class Measuring {
  on = false; // whether every drag measures
  measures: Measure[] = [];

  /** Listens on the stage around `canvas`. `draw` is called while a line is drawn, `done` with all lines when it is finished. */
  constructor(
    private readonly nv: Niivue,
    private readonly canvas: HTMLCanvasElement,
    private readonly draw: () => void,
    private readonly done: (measures: Measure[]) => void,
  ) {
    const stage = canvas.parentElement ?? canvas;
    const hide = (event: Event): void => {
      if (this.on || (event instanceof MouseEvent && this.held(event))) event.stopPropagation(); // hides the event from NiiVue
    };
    for (const name of ["mousedown", "touchstart"]) stage.addEventListener(name, hide, { capture: true });
    stage.addEventListener("pointerdown", (event) => this.start(stage, event));
  }

  private held(event: MouseEvent): boolean {
    return event.button === 0 && (this.on || event.shiftKey);
  }

  private start(stage: HTMLElement, event: PointerEvent): void {
    const start = this.held(event) ? this.pointed(event) : null;
    if (!start) return;
    stage.setPointerCapture(event.pointerId);
    const line: Measure = { from: start.mm, to: start.mm, plane: start.plane };
    this.measures = [...this.measures, line];
    const draw = (move: PointerEvent): void => {
      const point = this.pointed(move, start.tile);
      if (point) line.to = point.mm;
      this.draw();
    };
    const end = (): void => {
      stage.removeEventListener("pointermove", draw);
      if (line.to === line.from) this.measures = this.measures.filter((one) => one !== line);
      this.done(this.measures);
    };
    stage.addEventListener("pointermove", draw);
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, end, { once: true });
  }

  /** The position under the pointer, on the plane of the tile `on` or else on the plane under the pointer. */
  private pointed(event: MouseEvent, on?: number): Pointed | null {
    const [x, y] = pixelAt(this.nv, this.canvas, event);
    const tile = on ?? this.nv.tileIndex(x, y);
    const plane = this.nv.screenSlices[tile]?.axCorSag;
    if (plane === undefined || !isPlane(plane)) return null;
    const [a = -1, b = -1, c = -1] = this.nv.screenXY2TextureFrac(x, y, tile, false);
    if (a < 0) return null;
    const [r = 0, f = 0, s = 0] = this.nv.frac2mm([a, b, c]);
    return { mm: [r, f, s], plane, tile };
  }
}
