/** Gestures on the image with wheel, fingers and pointer that NiiVue does not handle. */

export interface Gestures {
  zoom: (factor: number) => void;
  closeUp: () => void;
  nameAt: (event: MouseEvent) => string; // the name of what is under the pointer
  isHidden: (event: MouseEvent) => boolean; // whether something drawn over the planes covers the place
  choose: () => void; // selects what is drawn there
}

const STEP = 1.25; // zoom factor of one wheel step

/** Listen on the stage around the canvas, before NiiVue does. */
export function listenToGestures(canvas: HTMLCanvasElement, gestures: Gestures): void {
  const stage = canvas.parentElement ?? canvas;
  const early = { capture: true, passive: false };
  const take = (event: Event): void => {
    event.preventDefault();
    event.stopPropagation();
  };
  const turned = (event: WheelEvent): void => {
    if (!event.ctrlKey) return; // a pinch on a touch pad arrives as a wheel event with Ctrl
    take(event);
    gestures.zoom(event.deltaY < 0 ? STEP : 1 / STEP);
  };
  stage.addEventListener("wheel", turned, early);
  let apart = 0; // pixels between two fingers
  const pinched = (event: TouchEvent): void => {
    const [one, other] = event.touches;
    const now = one && other ? Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) : 0;
    if (now > 0) take(event); // NiiVue would change the slice
    if (now > 0 && apart > 0) gestures.zoom(now / apart);
    apart = now;
  };
  for (const name of ["touchstart", "touchmove", "touchend"] as const) stage.addEventListener(name, pinched, early);
  const pressed = (event: MouseEvent): void => {
    if (!gestures.isHidden(event)) return;
    event.stopPropagation(); // what lies below is covered
    if (event.button === 0 && event.type === "mousedown") gestures.choose();
  };
  for (const name of ["mousedown", "pointerdown"] as const) stage.addEventListener(name, pressed, early);
  stage.addEventListener("dblclick", () => gestures.closeUp());
  stage.addEventListener("pointermove", (event) => (stage.title = gestures.nameAt(event)));
}
