/** The options of a job: extra files, a threshold, or a configuration file. */

import { el } from "./dom";
import { type PatientForm, patientForm } from "./patient";

export interface Options {
  element: HTMLElement;
  config: () => Promise<Wishes>;
  patient: PatientForm;
}

export interface Boxes {
  table: boolean;
  report: boolean;
  page: boolean;
  dicom: boolean; // only for DICOM
  threshold: number;
}

/** The configuration in YAML for the scan with this file name. */
export type Wishes = (name: string) => string;

/** The settings of a job. A configuration file replaces the check boxes. */
export function options(): Options {
  const table = box("Tables (CSV)", true);
  const report = box("Report (PDF)", true);
  const page = box("3D view (HTML)", false);
  const dicom = box("DICOM SR and SEG (of DICOM scans)", false, "dicom");
  const threshold = el("input", { type: "number", id: "threshold", min: 0.1, max: 0.95, step: 0.05, value: 0.5, required: true });
  const file = el("input", { type: "file", accept: ".yaml,.yml", id: "config" });
  const boxes = el(
    "fieldset",
    {},
    el("legend", {}, "Also make"),
    ...[table, report, page, dicom].map(({ label }) => label),
    el("label", { class: "check", for: "threshold" }, "Report from a confidence of", threshold),
  );
  file.addEventListener("change", () => (boxes.disabled = file.files?.length === 1));
  const element = el(
    "details",
    { class: "options" },
    el("summary", {}, "Options"),
    boxes,
    el("label", { for: "config" }, "Or a configuration of your own (YAML)"),
    file,
  );
  const patient = patientForm();
  return {
    element: el("div", {}, patient.element, element),
    patient,
    config: async () => {
      const own = await file.files?.[0]?.text();
      const least = threshold.validity.valid ? threshold.valueAsNumber : Number(threshold.defaultValue);
      const checked = { table: table.input.checked, report: report.input.checked, page: page.input.checked, dicom: dicom.input.checked };
      return (name) => own ?? yaml({ ...checked, threshold: least }, name);
    },
  };
}

const VOLUME = /\.(nii|nii\.gz|mha|nrrd)$/i; // these files cannot give DICOM objects

/** The configuration in YAML that requests these files for the scan with this name. */
export function yaml({ table, report, page, dicom, threshold }: Boxes, name: string): string {
  return JSON.stringify({
    output: { save_report: report, save_dicom: dicom && !VOLUME.test(name), formats: { detections: table ? "both" : "json" } },
    visualization: { save_3d: page },
    post_processing: { peak_detection: { threshold }, confidence_filter: { min_confidence: threshold } },
  }); // JSON is valid YAML
}

function box(name: string, checked: boolean, id: string | null = null): { label: HTMLElement; input: HTMLInputElement } {
  const input = el("input", { type: "checkbox", checked, id });
  return { input, label: el("label", { class: "check" }, input, name) };
}
