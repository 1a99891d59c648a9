/** The controls above the image. */

import type { View } from "./camera";
import { button, el } from "./dom";
import { percent } from "./format";
import { onKeys } from "./shortcuts";
import { SLABS } from "./slab";
import type { Viewer, Window } from "./viewer";

const STEP = 0.1; // change of the opacity by each key press
const ZOOM = 1.25; // factor of each button press
const VIEW_NAMES: View[] = ["All planes", "Axial", "Coronal", "Sagittal"];
export const LUNG: Window = [-600, 1500]; // HU: level, width
const WINDOWS: Record<string, Window> = { Lung: LUNG, Mediastinum: [40, 400], Bone: [400, 1800], Soft: [50, 350] };

/** Shows the heatmap with this opacity. */
export type Heatmap = (opacity: number) => void;

export interface Controls {
  element: HTMLElement;
  windowed: (level: number, width: number) => void;
}

/** The controls of a viewer and their keys; `name` distinguishes them from those of another image. If it `follows` another image, the keys change slices there. */
export function controls(name: string, viewer: () => Viewer | null, heatmap: Heatmap, signal: AbortSignal, stage: HTMLElement, follows: boolean): Controls {
  const views = choice("Planes", VIEW_NAMES, (view) => viewer()?.setView(view));
  const windows = choice("Window", Object.keys(WINDOWS), (name) => viewer()?.setWindow(WINDOWS[name] ?? LUNG));
  const slabs = choice("Slab", SLABS.map((mm) => (mm > 0 ? `${mm} mm` : "Slices")), (name) => viewer()?.setSlab(parseInt(name, 10) || 0));
  const heat = slider(name, heatmap);
  const rings = toggle("Rings", true, (on) => viewer()?.showRings(on));
  const outlines = toggle("Outlines", true, (on) => viewer()?.showOutlines(on));
  const inset = toggle("Inset", true, (on) => viewer()?.showInset(on));
  const ruler = toggle("Measure", false, (on) => viewer()?.measure(on));
  const zooms = [
    button("−", () => viewer()?.zoom(1 / ZOOM), { "aria-label": "Smaller", title: "Smaller" }),
    button("+", () => viewer()?.zoom(ZOOM), { "aria-label": "Larger", title: "Larger" }),
    button("Fit", () => viewer()?.zoom(null), { title: "The whole planes" }),
  ];
  const inImage = (act: () => void) => () => {
    if (stage.contains(document.activeElement)) act();
  };
  onKeys(
    {
      ...Object.fromEntries(VIEW_NAMES.map((view, index) => [String(index + 1), () => views.pick(view)])),
      w: windows.next,
      s: slabs.next,
      h: heat.toggle,
      m: ruler.toggle,
      r: rings.toggle,
      o: outlines.toggle,
      i: inset.toggle,
      z: () => viewer()?.closeUp(),
      f: () => viewer()?.zoom(null),
      "+": () => heat.change(STEP),
      "=": () => heat.change(STEP),
      "-": () => heat.change(-STEP),
      ...(follows ? {} : { "[": () => viewer()?.step(0, 0, -1), "]": () => viewer()?.step(0, 0, 1) }),
    },
    signal,
  );
  const arrows = { arrowleft: [-1, 0, 0], arrowright: [1, 0, 0], arrowup: [0, 1, 0], arrowdown: [0, -1, 0] } as const;
  for (const [key, [x, y, z]] of Object.entries(arrows))
    stage.addEventListener(
      "keydown",
      (event) => {
        if (event.key.toLowerCase() !== key) return;
        event.preventDefault();
        inImage(() => viewer()?.step(-x, y, z))(); // the patient's right is on the left of the screen
      },
      { capture: true },
    );
  const magnify = el("div", { class: "choice", role: "group", "aria-label": "Magnification" }, ...zooms);
  const element = el("div", { class: "controls" }, views.element, windows.element, magnify, slabs.element, ruler.element, rings.element, outlines.element, inset.element, heat.element);
  const windowed = (level: number, width: number): void =>
    windows.mark(Object.keys(WINDOWS).find((name) => String(WINDOWS[name]) === String([level, width])) ?? null);
  return { element, windowed };
}

/** The present window in HU, which the reader can edit. */
export function windowFields(change: (window: Window) => void): { element: HTMLElement; show: (level: number, width: number) => void } {
  const level = el("input", { type: "number", min: -1024, max: 3071, step: 10 });
  const width = el("input", { type: "number", min: 1, max: 4096, step: 50 });
  const fields = [level, width];
  for (const field of fields) {
    field.addEventListener("change", () => {
      if (!fields.some((one) => one.validity.rangeUnderflow || one.validity.rangeOverflow || one.value === "")) change([level.valueAsNumber, width.valueAsNumber]);
    });
    field.addEventListener("keydown", ({ key }) => key === "Enter" && field.blur()); // then keys control the image again
  }
  const show = (...values: [number, number]): void => fields.forEach((field, index) => (field.value = String(Math.round(values[index] ?? 0))));
  return { element: el("div", { class: "window" }, el("label", {}, "Level", level), el("label", {}, "Width", width), "HU"), show };
}

interface Choice<T> {
  element: HTMLElement;
  pick: (value: T) => void;
  next: () => void;
  mark: (value: T | null) => void; // shows the button of this value as pressed; null: no button fits
}

/** A choice as a row of buttons. */
function choice<T extends string>(name: string, values: T[], change: (value: T) => void): Choice<T> {
  let now: T | null = values[0] ?? null;
  const buttons = values.map((value) => button(value, () => pick(value), { "aria-pressed": String(value === now) }));
  const mark = (value: T | null): void => {
    now = value;
    buttons.forEach((one, index) => one.setAttribute("aria-pressed", String(values[index] === value)));
  };
  const pick = (value: T): void => {
    mark(value);
    change(value);
  };
  const next = (): void => {
    const following = values[(values.findIndex((value) => value === now) + 1) % values.length];
    if (following) pick(following);
  };
  return { element: el("div", { class: "choice", role: "group", "aria-label": name }, ...buttons), pick, next, mark };
}

function toggle(name: string, on: boolean, change: (on: boolean) => void): { element: HTMLElement; toggle: () => void } {
  const flip = (): void => {
    on = !on;
    element.setAttribute("aria-pressed", String(on));
    change(on);
  };
  const element = button(name, flip, { class: "button toggle", "aria-pressed": String(on) });
  return { element, toggle: flip };
}

/** The opacity of the heatmap, which is hidden at first because it covers the CT. Hiding it keeps the value. */
function slider(name: string, change: (opacity: number) => void): {
  element: HTMLElement;
  toggle: () => void;
  change: (by: number) => void;
} {
  let before = 0.5;
  const value = el("span", { class: "value" }, percent(0));
  const input = el("input", { type: "range", id: `opacity-${name}`, min: 0, max: 1, step: 0.05, value: 0 });
  const set = (opacity: number): void => {
    input.valueAsNumber = opacity;
    value.textContent = percent(input.valueAsNumber);
    change(input.valueAsNumber);
  };
  input.addEventListener("input", () => set(input.valueAsNumber));
  return {
    element: el("div", { class: "opacity" }, el("label", { for: `opacity-${name}` }, "Heatmap"), input, value),
    toggle: () => {
      const now = input.valueAsNumber;
      if (now > 0) before = now;
      set(now > 0 ? 0 : before);
    },
    change: (by) => set(input.valueAsNumber + by),
  };
}
