/** The table of nodules: filtered by confidence, sorted by any column, one of them selected. */

import type { Detection } from "./contract";
import { button, el } from "./dom";
import { fixed, percent } from "./format";

export type Column = "id" | "confidence" | "diameter" | "volume" | "type" | "risk" | "category";
const RISK = { low: 1, intermediate: 2, high: 3 };

const COLUMNS: { key: Column; name: string; unit?: string; title: string; number?: true }[] = [
  { key: "id", name: "No.", title: "Number, as in the files" },
  { key: "confidence", name: "Conf.", title: "Confidence that it is a nodule", number: true },
  { key: "diameter", name: "Diam.", unit: "mm", title: "Diameter in millimetres", number: true },
  { key: "volume", name: "Volume", unit: "mm³", title: "Volume in cubic millimetres", number: true },
  { key: "type", name: "Type", title: "Solid, part-solid or ground-glass" },
  { key: "risk", name: "Risk", title: "Triage category: how suspicious it looks" },
  { key: "category", name: "LR", title: "Lung-RADS category, by screening assumptions" },
];

/** What a column is sorted by; null sorts last. */
export function sortKey(nodule: Detection, column: Column): number | string | null {
  switch (column) {
    case "id":
      return nodule.id;
    case "confidence":
      return nodule.confidence;
    case "diameter":
      return nodule.diameter_mm;
    case "volume":
      return nodule.properties.volume_mm3;
    case "type":
      return nodule.properties.nodule_type ?? null;
    case "risk":
      return nodule.triage.risk_category && RISK[nodule.triage.risk_category] + (nodule.triage.malignancy_score ?? 0) / 2;
    case "category":
      return nodule.guidelines?.lung_rads.category ?? null;
  }
}

/** The nodules of at least this confidence, in the order of a column; `falling` from the largest. */
export function arranged(nodules: Detection[], least: number, column: Column, falling: boolean): Detection[] {
  const compare = (one: Detection, other: Detection): number => {
    const [a, b] = [sortKey(one, column), sortKey(other, column)];
    if (a === null || b === null) return Number(a === null) - Number(b === null) || one.id - other.id;
    const order = a < b ? -1 : a > b ? 1 : 0;
    return (falling ? -order : order) || one.id - other.id;
  };
  return nodules.filter((nodule) => nodule.confidence >= least).sort(compare);
}

export interface Nodules {
  element: HTMLElement;
  move: (by: number) => void;
}

/** The table and its filter; `tell` gets what is visible and what is selected, and whether the reader chose it now. */
export function noduleTable(
  all: Detection[],
  tell: (visible: Detection[], selected: Detection | null, chosen: boolean) => void,
): Nodules {
  let [column, falling, least]: [Column, boolean, number] = ["confidence", true, 0];
  let [visible, selected]: [Detection[], Detection | null] = [[], null];
  const rows = el("tbody", {});
  const head = el("tr", {});
  const count = el("output", { class: "hint" });

  const choose = (nodule: Detection | undefined): void => {
    if (!nodule) return;
    selected = nodule;
    render(true);
  };
  const sort = (by: Column): void => {
    falling = by === column ? !falling : by !== "id" && by !== "type";
    column = by;
    render(false);
    head.querySelector<HTMLElement>(`[data-column="${by}"]`)?.focus();
  };
  const render = (chosen: boolean): void => {
    const focused = rows.contains(document.activeElement);
    visible = arranged(all, least, column, falling);
    if (selected && !visible.includes(selected)) selected = null;
    head.replaceChildren(...COLUMNS.map((each) => header(each, each.key === column, falling, sort)));
    rows.replaceChildren(...visible.map((nodule) => row(nodule, nodule === selected, choose)));
    if (visible.length === 0) rows.append(el("tr", {}, el("td", { colspan: COLUMNS.length, class: "empty" }, "None of this confidence.")));
    const current = rows.querySelector<HTMLElement>("[aria-current] button");
    if (chosen) current?.closest("tr")?.scrollIntoView({ block: "nearest" });
    if (focused) (current ?? rows.querySelector("button"))?.focus();
    count.textContent = `${visible.length} of ${all.length}`;
    tell(visible, selected, chosen);
  };
  rows.addEventListener("keydown", rove);
  const element = el(
    "div",
    { class: "nodules" },
    filter(all, count, (value) => {
      least = value;
      render(false);
    }),
    el("div", { class: "scroll" }, el("table", { "aria-label": "Nodules" }, el("thead", {}, head), rows)),
  );
  render(false);
  const move = (by: number): void => {
    const at = selected ? visible.indexOf(selected) + by : by > 0 ? 0 : visible.length - 1;
    choose(visible[(at + visible.length) % visible.length]);
  };
  return { element, move };
}

function filter(all: Detection[], count: HTMLElement, change: (least: number) => void): HTMLElement {
  const lowest = Math.floor(100 * Math.min(1, ...all.map((nodule) => nodule.confidence)));
  const value = el("span", { class: "value" }, percent(lowest / 100));
  const slider = el("input", { type: "range", id: "least", min: lowest, max: 100, value: lowest });
  slider.addEventListener("input", () => {
    value.textContent = percent(slider.valueAsNumber / 100);
    change(slider.valueAsNumber / 100);
  });
  return el("div", { class: "filter" }, el("label", { for: "least" }, "Confidence at least"), slider, value, count);
}

function header(column: (typeof COLUMNS)[number], sorted: boolean, falling: boolean, sort: (by: Column) => void): HTMLElement {
  const order = sorted ? (falling ? "descending" : "ascending") : "none";
  const name = button(column.name, () => sort(column.key), { title: column.title, "data-column": column.key });
  if (column.unit) name.append(" ", el("small", {}, column.unit));
  return el("th", { scope: "col", "aria-sort": order, class: column.number ? "number" : "" }, name);
}

function row(nodule: Detection, current: boolean, choose: (nodule: Detection) => void): HTMLElement {
  const { properties, triage, guidelines } = nodule;
  const risk = triage.risk_category;
  return el(
    "tr",
    { click: () => choose(nodule), "aria-current": current ? "true" : null, "data-nodule": nodule.id },
    el("th", { scope: "row" }, el("button", { type: "button", "aria-label": `Show nodule ${nodule.id + 1}` }, `${nodule.id + 1}`)),
    el("td", { class: "number" }, percent(nodule.confidence)),
    el("td", { class: "number" }, fixed(nodule.diameter_mm, 1)),
    el("td", { class: "number" }, fixed(properties.volume_mm3)),
    el("td", {}, properties.nodule_type ?? "–"),
    el("td", {}, el("span", { class: `risk ${risk ?? "none"}`, title: triage.reason ?? "" }, risk ?? "no score")),
    el("td", {}, guidelines?.lung_rads.category ?? "–"),
  );
}

/** Up and down move between the rows; Enter, a click on the row's button, selects. */
function rove(event: KeyboardEvent): void {
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const rows = event.currentTarget as HTMLElement;
  const buttons = [...rows.querySelectorAll("button")];
  const at = buttons.findIndex((one) => one === document.activeElement);
  buttons[Math.max(0, Math.min(buttons.length - 1, at + by))]?.focus();
}
