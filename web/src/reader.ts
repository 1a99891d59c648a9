/** The image with its controls. */

import * as api from "./api";
import type { JobFile, Mark, Outlines, Vec3 } from "./contract";
import { button, el } from "./dom";
import type { Finding } from "./findings";
import { bytes, fixed, percent, place } from "./format";
import { shapesOf } from "./outlines";
import { rulers } from "./rulers";
import { problemBox } from "./problem";
import { onKeys } from "./shortcuts";
import type { Viewer, View, Window } from "./viewer";

const STEP = 0.1; // of the opacity, by key
const ZOOM = 1.25; // times, by button
const VIEW_NAMES: View[] = ["All planes", "Axial", "Coronal", "Sagittal"];
const LUNG: Window = [-600, 1500]; // HU: level, width
const WINDOWS: Record<string, Window> = { Lung: LUNG, Mediastinum: [40, 400], Bone: [400, 1800] };

export interface Reader {
  element: HTMLElement;
  show: (findings: Finding[], selected: Finding | null) => void;
  goTo: (mark: Mark) => void;
  place: () => Vec3 | null; // of the crosshair, LPS mm
}

/** The panel of the image; it loads scan and heatmap from `files`, and is closed by the signal. `name` is the job's. */
export function reader(name: string, files: JobFile[], outlines: Outlines, signal: AbortSignal): Reader {
  let viewer: Viewer | null = null;
  let here: Vec3 | null = null;
  let wanted: Mark | null = null; // before the image is there
  let shown: [Finding[], Finding | null] = [[], null];
  const canvas = el("canvas", {
    tabindex: 0,
    role: "application",
    "aria-roledescription": "image",
    "aria-label": "CT: arrow keys move the crosshair, [ and ] change the slice",
  });
  const overlay = el("canvas", { class: "overlay", "aria-hidden": "true" });
  const curtain = el("div", { class: "curtain" });
  const readout = el("div", { class: "readout", role: "group", "aria-label": "At the crosshair" });
  const windowing = el("span", { class: "readout" });
  const lines = rulers(name, (measures) => viewer?.setMeasures(measures), (measure) => viewer?.goToMeasure(measure));
  const stage = el("div", { class: "stage" }, canvas, overlay, curtain);
  const tools = controls(() => viewer, signal, stage);
  const element = el(
    "section",
    { class: "reader", "aria-label": "Image" },
    tools.element,
    stage,
    el("div", { class: "under" }, readout, lines.element, windowing),
  );
  // NiiVue has keys of its own, which would do other things than the page says.
  for (const event of ["keydown", "keyup"]) stage.addEventListener(event, (key) => key.stopPropagation(), { capture: true });

  const open = async (): Promise<void> => {
    const { Viewer } = await import("./viewer");
    const [scan, heatmap] = await volumes(files, curtain, signal);
    viewer = await Viewer.open(canvas, overlay);
    signal.addEventListener("abort", () => viewer?.close());
    if (signal.aborted) {
      viewer.close();
      return;
    }
    viewer.onPlace = ({ lps, hu, heat }) => {
      here = lps;
      readout.textContent = `${place(lps)} mm · ${fixed(hu)} HU${heat === null ? "" : ` · heatmap ${fixed(heat, 2)}`}`;
    };
    viewer.onWindow = (level, width) => {
      windowing.textContent = `Level ${fixed(level)} · width ${fixed(width)} HU`;
      tools.windowed(level, width);
    };
    viewer.onMeasures = lines.show;
    await viewer.load(scan, heatmap, LUNG);
    viewer.setShapes(shapesOf(outlines));
    viewer.show(...shown);
    viewer.setMeasures(lines.kept);
    if (wanted) viewer.goTo(wanted);
    curtain.remove();
    stage.dataset.ready = "true";
  };
  open().catch((error: unknown) => {
    if (!signal.aborted) curtain.replaceChildren(problemBox(error), ...picture(files, curtain));
  });
  return {
    element,
    show: (findings, selected) => {
      shown = [findings, selected];
      viewer?.show(...shown);
    },
    goTo: (mark) => (viewer ? viewer.goTo(mark) : (wanted = mark)),
    place: () => here,
  };
}

/** The slices that the service drew, for a browser that cannot show the volume. */
function picture(files: JobFile[], place: HTMLElement): HTMLElement[] {
  const drawn = files.find((file) => file.kind === "visualization");
  if (!drawn) return [];
  const image = el("img", { class: "drawn", alt: "Slices through the strongest findings, drawn by the service" });
  api
    .download(drawn.url, () => undefined)
    .then((parts) => (image.src = URL.createObjectURL(new Blob(parts as BlobPart[], { type: "image/png" }))))
    .catch((error: unknown) => place.append(problemBox(error)));
  return [image];
}

/** The scan and, where the job has one as NIfTI, the heatmap. */
async function volumes(files: JobFile[], place: HTMLElement, signal: AbortSignal): Promise<[ArrayBuffer, ArrayBuffer | null]> {
  const scan = files.find((file) => file.kind === "scan");
  if (!scan) throw new Error("The scan of this job is not there any more, so that only its numbers can be read.");
  const heatmap = files.find((file) => file.kind === "heatmap" && !file.url.endsWith(".npy"));
  const all = heatmap ? [scan, heatmap] : [scan];
  const total = all.reduce((sum, file) => sum + file.size_bytes, 0);
  const bar = el("progress", { max: total, value: 0, "aria-label": "Loading the image" });
  const words = el("p", {}, "Loading the image …");
  place.replaceChildren(words, bar, ...picture(files, place));
  const got = all.map(() => 0);
  const load = async (file: JobFile, index: number): Promise<ArrayBuffer> => {
    const parts = await api.download(
      file.url,
      (count) => {
        got[index] = count;
        bar.value = got.reduce((sum, one) => sum + one, 0);
        words.textContent = `Loading the image: ${bytes(bar.value)} of ${bytes(total)}`;
      },
      signal,
    );
    return new Blob(parts as BlobPart[]).arrayBuffer();
  };
  const [first, second] = await Promise.all(all.map(load));
  if (!first) throw new Error("The scan is empty.");
  words.textContent = "Drawing …";
  return [first, second ?? null];
}

interface Controls {
  element: HTMLElement;
  windowed: (level: number, width: number) => void;
}

function controls(viewer: () => Viewer | null, signal: AbortSignal, stage: HTMLElement): Controls {
  const views = choice("Planes", VIEW_NAMES, (view) => viewer()?.setView(view));
  const windows = choice("Window", Object.keys(WINDOWS), (name) => viewer()?.setWindow(WINDOWS[name] ?? LUNG));
  const heat = slider((opacity) => viewer()?.setOpacity(opacity));
  const rings = toggle("Rings", true, (on) => viewer()?.showRings(on));
  const outlines = toggle("Outlines", true, (on) => viewer()?.showOutlines(on));
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
      h: heat.toggle,
      m: ruler.toggle,
      r: rings.toggle,
      o: outlines.toggle,
      z: () => viewer()?.closeUp(),
      f: () => viewer()?.zoom(null),
      "+": () => heat.change(STEP),
      "=": () => heat.change(STEP),
      "-": () => heat.change(-STEP),
      "[": () => viewer()?.step(0, 0, -1),
      "]": () => viewer()?.step(0, 0, 1),
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
        inImage(() => viewer()?.step(-x, y, z))(); // the patient's right is on the left
      },
      { capture: true },
    );
  const magnify = el("div", { class: "choice", role: "group", "aria-label": "Magnification" }, ...zooms);
  const element = el("div", { class: "controls" }, views.element, windows.element, magnify, ruler.element, rings.element, outlines.element, heat.element);
  const windowed = (level: number, width: number): void =>
    windows.mark(Object.keys(WINDOWS).find((name) => String(WINDOWS[name]) === String([level, width])) ?? null);
  return { element, windowed };
}

interface Choice<T> {
  element: HTMLElement;
  pick: (value: T) => void;
  next: () => void;
  mark: (value: T | null) => void; // pressed, without a change; null where none fits
}

/** One of several, as a row of buttons. */
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

/** The heatmap's opacity; it hides what lies below, and is off at first. Hiding it keeps the value. */
function slider(change: (opacity: number) => void): {
  element: HTMLElement;
  toggle: () => void;
  change: (by: number) => void;
} {
  let before = 0.5;
  const value = el("span", { class: "value" }, percent(0));
  const input = el("input", { type: "range", id: "opacity", min: 0, max: 1, step: 0.05, value: 0 });
  const set = (opacity: number): void => {
    input.valueAsNumber = opacity;
    value.textContent = percent(input.valueAsNumber);
    change(input.valueAsNumber);
  };
  input.addEventListener("input", () => set(input.valueAsNumber));
  return {
    element: el("div", { class: "opacity" }, el("label", { for: "opacity" }, "Heatmap"), input, value),
    toggle: () => {
      const now = input.valueAsNumber;
      if (now > 0) before = now;
      set(now > 0 ? 0 : before);
    },
    change: (by) => set(input.valueAsNumber + by),
  };
}
