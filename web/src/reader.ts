/** The image with its controls. */

import * as api from "./api";
import type { Distance, Job, JobFile, Mark, Vec3 } from "./contract";
import { controls, type Heatmap, LUNG, windowFields } from "./controls";
import { el } from "./dom";
import type { Finding } from "./findings";
import { bytes, fixed, place } from "./format";
import type { Shape } from "./outlines";
import { rulers, toDistance, toMeasure } from "./rulers";
import type { Measure } from "./marks";
import { problemBox } from "./problem";
import type { Viewer } from "./viewer";

export interface Reader {
  element: HTMLElement;
  show: (findings: Finding[], selected: Finding | null) => void;
  goTo: (mark: Mark) => void;
  outline: (shapes: Map<string, Shape>) => void; // by the labels of the findings
  setDistances: (distances: Distance[]) => void;
  onMeasured: (listen: (distances: Distance[]) => void) => void; // drawn by the reader
  place: () => Vec3 | null; // of the crosshair, LPS mm
  moveTo: (place: Vec3) => void; // LPS mm
  onMove: (listen: (place: Vec3) => void) => void;
  whole: Promise<void>; // when the scan is shown
}

/** The panel of the image, closed by the signal. It loads scan and heatmap from `files`. `name` is its title. If it `follows` another image, the keys change slices there. */
export function reader(job: Job, files: JobFile[], signal: AbortSignal, name = "Image", follows = false): Reader {
  let viewer: Viewer | null = null;
  let here: Vec3 | null = null;
  let wanted: Mark | null = null; // selected before the image was loaded
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
  const windowing = windowFields((window) => viewer?.setWindow(window));
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
  const tools = controls(job.job_id, () => viewer, heatmap, signal, stage, follows);
  const element = el(
    "section",
    { class: "reader", "aria-label": name },
    tools.element,
    stage,
    el("div", { class: "under" }, readout, list.element, el("div", { class: "slices" }, slices), windowing.element),
  );
  // NiiVue has its own keys, which would conflict with those of the page.
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
      windowing.show(level, width);
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
    const scan = await loadingScan(files, (words) => (notice.textContent = words), signal); // after the preview, not at the same time
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
    stage.append(curtain); // also over the preview, which must not be mistaken for the scan
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

/** The slices that the service rendered, for a browser that cannot show the volume. */
function picture(files: JobFile[], place: HTMLElement): HTMLElement[] {
  const drawn = files.find((file) => file.kind === "visualization");
  if (!drawn) return [];
  const image = el("img", { class: "drawn", alt: "Slices through the strongest findings, rendered by the service" });
  image.addEventListener("load", () => (image.dataset.shown = "true"));
  api
    .download(drawn.url, () => undefined)
    .then((parts) => (image.src = URL.createObjectURL(new Blob(parts as BlobPart[], { type: "image/png" }))))
    .catch((error: unknown) => place.append(problemBox(error)));
  return [image];
}

/** Load the scan; `tell` is called with the progress in words. */
async function loadingScan(files: JobFile[], tell: (words: string) => void, signal: AbortSignal): Promise<ArrayBuffer> {
  const scan = files.find((file) => file.kind === "scan");
  if (!scan) throw new Error("The scan of this job was removed. Only its measurements can be read.");
  const say = (got: number): void => tell(`Loading the image: ${bytes(got)} of ${bytes(scan.size_bytes)}`);
  const parts = await api.download(scan.url, say, signal);
  tell("Drawing …");
  return new Blob(parts as BlobPart[]).arrayBuffer();
}

/** Loads the heatmap on first use, and shows it when the `whole` scan is loaded. */
function heatmapOf(files: JobFile[], whole: Promise<void>, viewer: () => Viewer | null, signal: AbortSignal): Heatmap {
  const file = files.find(({ kind, url }) => kind === "heatmap" && !url.endsWith(".npy"));
  let loading: Promise<void> | null = null;
  let now = 0;
  const load = async (): Promise<void> => {
    const parts = file ? await api.download(file.url, () => undefined, signal) : [];
    await whole; // it is drawn over the scan, not over the preview
    if (parts.length > 0) await viewer()?.loadHeatmap(await new Blob(parts as BlobPart[]).arrayBuffer(), now);
  };
  return (opacity) => {
    now = opacity;
    if (opacity > 0) loading ??= load().catch(() => void (loading = null));
    viewer()?.setOpacity(opacity);
  };
}
