/** The image with its controls. */

import * as api from "./api";
import type { Distance, Job, JobFile, Mark, Vec3 } from "./contract";
import { button, el } from "./dom";
import type { Finding } from "./findings";
import { bytes, fixed, percent, place } from "./format";
import type { Shape } from "./outlines";
import { rulers, toDistance, toMeasure } from "./rulers";
import type { Measure } from "./marks";
import { problemBox } from "./problem";
import { onKeys } from "./shortcuts";
import { SLABS } from "./slab";
import type { Viewer, View, Window } from "./viewer";

const STEP = 0.1; // of the opacity, by key
const ZOOM = 1.25; // times, by button
const VIEW_NAMES: View[] = ["All planes", "Axial", "Coronal", "Sagittal"];
const LUNG: Window = [-600, 1500]; // HU: level, width
const WINDOWS: Record<string, Window> = { Lung: LUNG, Mediastinum: [40, 400], Bone: [400, 1800], Soft: [50, 350] };

export interface Reader {
  element: HTMLElement;
  show: (findings: Finding[], selected: Finding | null) => void;
  goTo: (mark: Mark) => void;
  outline: (shapes: Map<string, Shape>) => void; // by the findings' labels
  setDistances: (distances: Distance[]) => void;
  onMeasured: (listen: (distances: Distance[]) => void) => void; // by the reader
  place: () => Vec3 | null; // of the crosshair, LPS mm
  moveTo: (place: Vec3) => void; // LPS mm
  onMove: (listen: (place: Vec3) => void) => void;
  whole: Promise<void>; // when the scan is shown
}

/** The panel of the image; it loads scan and heatmap from `files`, and is closed by the signal. `name` is what it shows. */
export function reader(job: Job, files: JobFile[], signal: AbortSignal, name = "Image"): Reader {
  let viewer: Viewer | null = null;
  let here: Vec3 | null = null;
  let wanted: Mark | null = null; // before the image is there
  let shown: [Finding[], Finding | null] = [[], null];
  let shapes = new Map<string, Shape>();
  let coarse = false;
  let moved: (place: Vec3) => void = () => undefined;
  const canvas = el("canvas", {
    tabindex: 0,
    role: "application",
    "aria-roledescription": "image",
    "aria-label": "CT: arrow keys move the crosshair, [ and ] change the slice",
  });
  const overlay = el("canvas", { class: "overlay", "aria-hidden": "true" });
  const notice = el("p", { class: "notice-bar", role: "status" }, "Loading the image …");
  const curtain = el("div", { class: "curtain" });
  const readout = el("div", { class: "readout", role: "group", "aria-label": "At the crosshair" });
  const windowing = el("span", { class: "readout" });
  const slices = el("input", { type: "range", min: 1, max: 1, value: 1, "aria-label": "Axial slice" });
  slices.addEventListener("input", () => viewer && (viewer.slice = { at: slices.valueAsNumber, of: Number(slices.max) }));
  let lines: Measure[] = [];
  let measured: (distances: Distance[]) => void = () => undefined;
  const keep = (measures: Measure[], isNew: boolean): void => {
    lines = measures;
    list.show(lines);
    viewer?.setMeasures(lines);
    if (isNew) measured(lines.map(toDistance));
  };
  const list = rulers((measures) => keep(measures, true), (measure) => viewer?.goToMeasure(measure));
  const stage = el("div", { class: "stage" }, canvas, overlay, curtain, notice);
  let isWhole = (): void => undefined;
  const whole = new Promise<void>((resolve) => (isWhole = resolve));
  const heatmap = heatmapOf(files, whole, () => viewer, signal);
  const tools = controls(job.job_id, () => viewer, heatmap, signal, stage);
  const element = el(
    "section",
    { class: "reader", "aria-label": name },
    tools.element,
    stage,
    el("div", { class: "under" }, readout, list.element, el("div", { class: "slices" }, slices), windowing),
  );
  // NiiVue has keys of its own, which would do other things than the page says.
  for (const event of ["keydown", "keyup"]) stage.addEventListener(event, (key) => key.stopPropagation(), { capture: true });

  const open = async (): Promise<void> => {
    curtain.replaceChildren(...picture(files, curtain));
    const [{ Viewer }, first] = await Promise.all([import("./viewer"), api.preview(job, signal)]);
    viewer = await Viewer.open(canvas, overlay);
    signal.addEventListener("abort", () => viewer?.close());
    if (signal.aborted) {
      viewer.close();
      return;
    }
    viewer.onPlace = ({ lps, hu, heat }) => {
      here = lps;
      moved(lps);
      const { at, of } = viewer?.slice ?? { at: 1, of: 1 };
      slices.max = String(of);
      slices.value = String(at);
      slices.setAttribute("aria-valuetext", `${at} of ${of}`);
      const value = coarse ? "coarse image" : `${fixed(hu)} HU`;
      readout.textContent = `${place(lps)} mm · ${value}${heat === null ? "" : ` · heatmap ${fixed(heat, 2)}`}`;
    };
    viewer.onWindow = (level, width) => {
      windowing.textContent = `Level ${fixed(level)} · width ${fixed(width)} HU`;
      tools.windowed(level, width);
    };
    viewer.onMeasures = (measures) => keep(measures, true);
    coarse = first !== null;
    const show = async (scan: ArrayBuffer): Promise<void> => {
      await viewer?.load(scan, LUNG);
      viewer?.setShapes(shapes);
      viewer?.show(...shown);
      viewer?.setMeasures(lines);
      if (wanted) viewer?.goTo(wanted);
      wanted = null;
      curtain.remove();
    };
    if (first) {
      await show(first);
      stage.dataset.coarse = "true";
    }
    const scan = await loadingScan(files, (words) => (notice.textContent = words), signal); // after the coarse image, not beside it
    coarse = false;
    await show(scan);
    notice.remove();
    delete stage.dataset.coarse;
    stage.dataset.ready = "true";
    isWhole();
  };
  open().catch((error: unknown) => {
    if (signal.aborted) return;
    notice.remove();
    curtain.replaceChildren(problemBox(error), ...picture(files, curtain));
    stage.append(curtain); // over the coarse image, too, which must not be taken for the scan
  });
  return {
    element,
    show: (findings, selected) => {
      shown = [findings, selected];
      viewer?.show(...shown);
    },
    goTo: (mark) => (viewer ? viewer.goTo(mark) : (wanted = mark)),
    outline: (now) => {
      shapes = now;
      viewer?.setShapes(shapes);
    },
    setDistances: (distances) => keep(distances.map(toMeasure), false),
    onMeasured: (listen) => (measured = listen),
    place: () => here,
    moveTo: ([x, y, z]) => {
      const mark: Mark = { coordinates: [0, 0, 0], coordinates_lps: [x, y, z], diameter_mm: null, confidence: null };
      if (viewer) viewer.goTo(mark);
      else wanted = mark;
    },
    onMove: (listen) => (moved = listen),
    whole,
  };
}

/** The slices that the service drew, for a browser that cannot show the volume. */
function picture(files: JobFile[], place: HTMLElement): HTMLElement[] {
  const drawn = files.find((file) => file.kind === "visualization");
  if (!drawn) return [];
  const image = el("img", { class: "drawn", alt: "Slices through the strongest findings, drawn by the service" });
  image.addEventListener("load", () => (image.dataset.shown = "true"));
  api
    .download(drawn.url, () => undefined)
    .then((parts) => (image.src = URL.createObjectURL(new Blob(parts as BlobPart[], { type: "image/png" }))))
    .catch((error: unknown) => place.append(problemBox(error)));
  return [image];
}

/** The scan, loaded; `tell` gets how far it is. */
async function loadingScan(files: JobFile[], tell: (words: string) => void, signal: AbortSignal): Promise<ArrayBuffer> {
  const scan = files.find((file) => file.kind === "scan");
  if (!scan) throw new Error("The scan of this job is not there any more, so that only its numbers can be read.");
  const say = (got: number): void => tell(`Loading the image: ${bytes(got)} of ${bytes(scan.size_bytes)}`);
  const parts = await api.download(scan.url, say, signal);
  tell("Drawing …");
  return new Blob(parts as BlobPart[]).arrayBuffer();
}

/** Shows the heatmap with an opacity; it is loaded when it is wanted first, and shown when the `whole` scan is there. */
type Heatmap = (opacity: number) => void;

function heatmapOf(files: JobFile[], whole: Promise<void>, viewer: () => Viewer | null, signal: AbortSignal): Heatmap {
  const file = files.find(({ kind, url }) => kind === "heatmap" && !url.endsWith(".npy"));
  let loading: Promise<void> | null = null;
  let now = 0;
  const load = async (): Promise<void> => {
    const parts = file ? await api.download(file.url, () => undefined, signal) : [];
    await whole; // it lies over the scan, not over the coarse image
    if (parts.length > 0) await viewer()?.loadHeatmap(await new Blob(parts as BlobPart[]).arrayBuffer(), now);
  };
  return (opacity) => {
    now = opacity;
    if (opacity > 0) loading ??= load().catch(() => void (loading = null));
    viewer()?.setOpacity(opacity);
  };
}

interface Controls {
  element: HTMLElement;
  windowed: (level: number, width: number) => void;
}

function controls(name: string, viewer: () => Viewer | null, heatmap: Heatmap, signal: AbortSignal, stage: HTMLElement): Controls {
  const views = choice("Planes", VIEW_NAMES, (view) => viewer()?.setView(view));
  const windows = choice("Window", Object.keys(WINDOWS), (name) => viewer()?.setWindow(WINDOWS[name] ?? LUNG));
  const slabs = choice("Slab", SLABS.map((mm) => (mm > 0 ? `${mm} mm` : "Slices")), (name) => viewer()?.setSlab(parseInt(name, 10) || 0));
  const heat = slider(name, heatmap);
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
      s: slabs.next,
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
  const element = el("div", { class: "controls" }, views.element, windows.element, slabs.element, magnify, ruler.element, rings.element, outlines.element, heat.element);
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
