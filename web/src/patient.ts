/** The patient data that the guidelines need. They are sent with one job and not stored in the browser. */

import { button, el } from "./dom";

const UNKNOWN = "not known";
const YES_NO = { yes: true, no: false };
type Value = string | number | boolean;

/** The fields other than age: the words of each choice and their values. */
const FIELDS: [key: string, name: string, values: Record<string, Value>][] = [
  ["sex", "Sex", { female: "female", male: "male" }],
  ["smoking", "Smoking", { never: "never", former: "former", current: "current" }],
  ["setting", "Examination", { "lung cancer screening": "screening", "for another reason": "incidental" }],
  ["prior_cancer", "Cancer before", YES_NO],
  ["immunosuppressed", "Immunosuppressed", YES_NO],
  ["family_history", "Lung cancer in the family", YES_NO],
  ["emphysema", "Emphysema", YES_NO],
  ["prior_ct", "Earlier chest CT", YES_NO],
];

export interface PatientForm {
  element: HTMLElement;
  /** The patient data as JSON, which is valid YAML; null if no field is filled in. */
  told: () => string | null;
  clear: () => void;
}

export function patientForm(): PatientForm {
  const age = el("input", { type: "number", min: 0, max: 120, step: 1, id: "patient-age" });
  const choices = FIELDS.map(([key, name, values]) => {
    const input = el("select", {}, el("option", { value: "" }, UNKNOWN), ...Object.keys(values).map((word) => el("option", { value: word }, word)));
    return { key, values, input, label: el("label", { class: "pick" }, name, input) };
  });
  const clear = (): void => {
    age.value = "";
    for (const { input } of choices) input.value = "";
  };
  const element = el(
    "details",
    { class: "options" },
    el("summary", {}, "Patient"),
    el("p", { class: "hint" }, "For Fleischner and Brock. Empty fields are not assumed. The data are sent with the next scan only, and deleted when its job ends."),
    el("div", { class: "patient" }, el("label", { class: "pick" }, "Age", age), ...choices.map(({ label }) => label)),
    button("Clear", clear, { class: "button small" }),
  );
  const told = (): string | null => {
    if (!age.validity.valid) throw new Error("The patient's age must be a whole number of 0 to 120 years.");
    const said = ({ key, values, input }: (typeof choices)[number]): [string, Value][] => {
      const value = values[input.value];
      return value === undefined ? [] : [[key, value]];
    };
    const known: Record<string, Value> = Object.fromEntries(choices.flatMap(said));
    if (age.value !== "") known.age = age.valueAsNumber;
    return Object.keys(known).length > 0 ? JSON.stringify(known) : null;
  };
  return { element, told, clear };
}
