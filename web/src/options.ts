/** What the reader wants of a job: extra files, or a configuration of their own. */

import { el } from "./dom";

export interface Options {
  element: HTMLElement;
  config: () => Promise<string | null>; // YAML
}

/** The settings that a job is submitted with; a chosen file takes the place of the boxes. */
export function options(): Options {
  const table = box("Table (CSV)", true);
  const report = box("Report (PDF)", true);
  const page = box("3D view (HTML)", false);
  const file = el("input", { type: "file", accept: ".yaml,.yml", id: "config" });
  const boxes = el("fieldset", {}, el("legend", {}, "Also make"), ...[table, report, page].map(({ label }) => label));
  file.addEventListener("change", () => (boxes.disabled = file.files?.length === 1));
  const element = el(
    "details",
    { class: "options" },
    el("summary", {}, "Options"),
    boxes,
    el("label", { for: "config" }, "Or a configuration of your own (YAML)"),
    file,
  );
  return {
    element,
    config: async () =>
      (await file.files?.[0]?.text()) ?? yaml(table.input.checked, report.input.checked, page.input.checked),
  };
}

/** The configuration, in YAML, that asks for these files. */
export function yaml(table: boolean, report: boolean, page: boolean): string {
  return JSON.stringify({
    output: { save_report: report, formats: { detections: table ? "both" : "json" } },
    visualization: { save_3d: page },
  }); // JSON is YAML
}

function box(name: string, checked: boolean): { label: HTMLElement; input: HTMLInputElement } {
  const input = el("input", { type: "checkbox", checked });
  return { input, label: el("label", { class: "check" }, input, name) };
}
