/** The upload panel: a zone for dropped or selected files. */

import * as api from "./api";
import type { Job } from "./contract";
import { button, el, icon } from "./dom";
import { bytes } from "./format";
import { options } from "./options";
import { problemBox } from "./problem";
import { dropped, scansOf } from "./scans";

/** The upload panel; `accepted` is called with the jobs of the files that were dropped together. */
export function uploadPanel(accepted: (jobs: Job[]) => void, signal: AbortSignal): HTMLElement {
  const wishes = options();
  const below = el("div", { class: "uploads" });
  const take = async (scans: File[]): Promise<void> => {
    const config = await wishes.config();
    const patient = wishes.patient.told();
    if (patient !== null && scans.length > 1) throw new Error("Patient data apply to one scan. Drop a single scan, or clear the patient fields.");
    const jobs = await sendAll(scans, (name) => ({ config: config(name), patient }), below, signal);
    wishes.patient.clear(); // the next scan may be of another patient
    accepted(jobs);
  };
  const title = [
    icon("upload"),
    el("h1", { id: "upload-title" }, "Drop a chest CT here"),
    el("p", {}, "NIfTI, MetaImage, NRRD, a zip of DICOM, or a DICOM folder"),
  ];
  return el("section", { class: "card upload", "aria-labelledby": "upload-title" }, zone(title, taking(take, below, signal)), below, wishes.element);
}

type Take = (gathering: Promise<{ files: File[]; name: string }>) => Promise<void>;

/** Passes the scans among the files to `take`; `place` shows progress and errors. */
export function taking(take: (scans: File[]) => Promise<void>, place: HTMLElement, signal: AbortSignal): Take {
  return async (gathering) => {
    try {
      const { files, name } = await gathering;
      if (files.length === 0) return;
      place.replaceChildren(el("p", { role: "status" }, files.length > 1 ? `Reading ${files.length} files …` : ""));
      const scans = await scansOf(files, name);
      if (scans.length === 0) throw new Error("These files contain no scan.");
      await take(scans);
    } catch (error) {
      if (!signal.aborted) place.replaceChildren(problemBox(error));
    }
  };
}

/** A zone below its `title` to drop or select files. */
export function zone(title: Element[], take: Take): HTMLElement {
  const file = picker({ "aria-label": "Scan files", multiple: true }, take);
  const folder = picker({ "aria-label": "DICOM folder", webkitdirectory: true }, take);
  const over = (on: boolean) => (event: DragEvent) => {
    event.preventDefault();
    area.classList.toggle("over", on);
  };
  const area = el(
    "div",
    {
      class: "zone",
      dragover: over(true),
      dragleave: over(false),
      drop: (event: DragEvent) => {
        over(false)(event);
        if (event.dataTransfer) void take(dropped(event.dataTransfer));
      },
    },
    ...title,
    el(
      "div",
      { class: "actions" },
      button("Choose files", () => file.click(), { class: "button primary" }),
      button("Choose a DICOM folder", () => folder.click(), { class: "button" }),
    ),
    file,
    folder,
  );
  return area;
}

function picker(props: Record<string, string | boolean>, take: Take): HTMLInputElement {
  const input = el("input", { type: "file", hidden: true, ...props });
  input.addEventListener("change", () => {
    const files = [...(input.files ?? [])];
    const name = files[0]?.webkitRelativePath.split("/")[0];
    void take(Promise.resolve({ files, name: name === undefined || name === "" ? "series" : name }));
    input.value = ""; // so that selecting the same file again counts
  });
  return input;
}

/** Upload scans and return their jobs; `asked` gives the settings for a scan's name. */
export async function sendAll(scans: File[], asked: (name: string) => api.Asked, place: HTMLElement, signal: AbortSignal): Promise<Job[]> {
  const { upload_bytes: most } = await api.limits();
  const large = scans.find((scan) => scan.size > most);
  if (large) throw new Error(`${large.name} has ${bytes(large.size)}; this service accepts up to ${bytes(most)}.`);
  const jobs: Job[] = [];
  for (const scan of scans) jobs.push(await send(scan, asked(scan.name), place, signal));
  return jobs;
}

/** Upload one scan. Repeating a failed attempt gives the same job. */
function send(scan: File, asked: api.Asked, place: HTMLElement, leaving: AbortSignal): Promise<Job> {
  const idempotency = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16)).join("");
  const attempt = async (): Promise<Job> => {
    const stop = new AbortController();
    const bar = el("progress", { max: scan.size, value: 0, "aria-label": `Upload of ${scan.name}` });
    const words = el("span", { class: "hint" }, `0 of ${bytes(scan.size)}`);
    const sent = (count: number): void => {
      bar.value = count;
      words.textContent = count < scan.size ? `${bytes(count)} of ${bytes(scan.size)}` : "Uploaded; waiting for the service …";
    };
    place.replaceChildren(
      el("p", { role: "status" }, el("strong", {}, scan.name)),
      bar,
      el("div", { class: "spread" }, words, button("Stop", () => stop.abort(), { class: "button small" })),
    );
    return api.submit(scan, asked, idempotency, sent, AbortSignal.any([stop.signal, leaving]));
  };
  return new Promise((resolve, reject) => {
    const run = (): void => {
      attempt().then(resolve, (error: unknown) => {
        const again = error instanceof api.Refused && [0, 429, 502, 503, 504].includes(error.problem.status);
        if (!again) reject(error instanceof Error ? error : new Error(String(error)));
        else place.replaceChildren(problemBox(error, button("Try again", run, { class: "button small" })));
      });
    };
    run();
  });
}
