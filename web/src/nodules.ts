/** The table of findings: filtered by confidence, sorted by any column, one of them selected. */

import { button, el } from "./dom";
import { described, type Finding, whereOf } from "./findings";
import { fixed, percent } from "./format";

export type Column = "number" | "confidence" | "diameter" | "volume" | "type" | "risk" | "category";
const RISK = { low: 1, intermediate: 2, high: 3 };

const COLUMNS: { key: Column; name: string; unit?: string; title: string; number?: true }[] = [
  { key: "number", name: "No.", title: "Number, from 1; the files count from 0" },
  { key: "confidence", name: "Conf.", title: "Confidence that it is a nodule", number: true },
  { key: "diameter", name: "Diam.", unit: "mm", title: "Diameter in millimetres", number: true },
  { key: "volume", name: "Volume", unit: "mm³", title: "Volume in cubic millimetres", number: true },
  { key: "type", name: "Type", unit: "position", title: "Solid, part-solid or ground-glass; below it the lung, and its third from top to bottom" },
  { key: "risk", name: "Risk", title: "Triage category: how suspicious it looks" },
  { key: "category", name: "LR", title: "Lung-RADS category; its assumptions are in the details of the finding" },
];

/** The sort value of a column; null sorts last. */
function sortKey(finding: Finding, place: number, column: Column): number | string | null {
  const { detection } = finding;
  switch (column) {
    case "number":
      return place;
    case "confidence":
      return finding.confidence;
    case "diameter":
      return finding.diameter_mm;
    case "volume":
      return detection?.properties.volume_mm3 ?? null;
    case "type":
      return detection?.properties.nodule_type ?? null;
    case "risk": {
      const risk = detection?.triage.risk_category;
      return risk ? RISK[risk] + (detection.triage.malignancy_score ?? 0) / 2 : null;
    }
    case "category":
      return detection?.guidelines?.lung_rads.category ?? null;
  }
}

/** The findings of at least this confidence, sorted by a column; `falling`: the largest first. */
export function arranged(findings: Finding[], least: number, column: Column, falling: boolean): Finding[] {
  const keys = new Map(findings.map((finding, place) => [finding, sortKey(finding, place, column)]));
  const compare = (one: Finding, other: Finding): number => {
    const [a = null, b = null] = [keys.get(one), keys.get(other)];
    if (a === null || b === null) return Number(a === null) - Number(b === null);
    const order = a < b ? -1 : a > b ? 1 : 0;
    return falling ? -order : order;
  };
  return findings.filter(({ confidence }) => confidence === null || confidence >= least).sort(compare); // a stable sort: equal findings stay in order of number
}

export interface Nodules {
  element: HTMLElement;
  move: (by: number) => void;
  /** Select the next shown finding for which `wanted` is true. */
  next: (wanted: (finding: Finding) => boolean) => void;
  /** Show these findings, with their verdicts. */
  update: (all: Finding[], verdicts: Verdicts) => void;
}

/** The verdicts by the labels of the findings. */
export type Verdicts = ReadonlyMap<string, "accepted" | "rejected" | null>;

/**
 * The table and its filter, which hides the candidates below the threshold at first.
 *
 * `tell` is called with the visible findings, the selected one, and whether the reader has just selected it.
 */
export function noduleTable(
  first: Finding[],
  threshold: number,
  tell: (visible: Finding[], selected: Finding | null, chosen: boolean) => void,
): Nodules {
  let [column, falling, least]: [Column, boolean, number] = ["confidence", true, threshold];
  let [all, verdicts]: [Finding[], Verdicts] = [first, new Map()];
  let [visible, selected]: [Finding[], Finding | null] = [[], null];
  const rows = el("tbody", {});
  const head = el("tr", {});
  const count = el("output", { class: "hint" });

  const choose = (finding: Finding | undefined): void => {
    if (!finding) return;
    selected = finding;
    render(true);
  };
  const sort = (by: Column): void => {
    falling = by === column ? !falling : by !== "number" && by !== "type";
    column = by;
    render(false);
    head.querySelector<HTMLElement>(`[data-column="${by}"]`)?.focus();
  };
  const render = (chosen: boolean): void => {
    const focused = rows.contains(document.activeElement);
    visible = arranged(all, least, column, falling);
    if (selected && !visible.includes(selected)) selected = null;
    head.replaceChildren(...COLUMNS.map((each) => header(each, each.key === column, falling, sort)));
    rows.replaceChildren(...visible.map((finding) => row(finding, verdicts.get(finding.label) ?? null, finding === selected, choose)));
    if (visible.length === 0) rows.append(el("tr", {}, el("td", { colspan: COLUMNS.length, class: "empty" }, "No findings with this confidence.")));
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
    filter(all, least, count, (value) => {
      least = value;
      render(false);
    }),
    el("div", { class: "scroll" }, el("table", { "aria-label": "Findings" }, el("thead", {}, head), rows)),
  );
  render(false);
  const move = (by: number): void => {
    const at = selected ? visible.indexOf(selected) + by : by > 0 ? 0 : visible.length - 1;
    choose(visible[(at + visible.length) % visible.length]);
  };
  const next = (wanted: (finding: Finding) => boolean): void => {
    const at = selected ? visible.indexOf(selected) + 1 : 0;
    choose([...visible.slice(at), ...visible.slice(0, at)].find(wanted));
  };
  const update = (now: Finding[], said: Verdicts): void => {
    const label = selected?.label;
    [all, verdicts] = [now, said];
    selected = all.find((finding) => finding.label === label) ?? null;
    render(false);
  };
  return { element, move, next, update };
}

function filter(all: Finding[], least: number, count: HTMLElement, change: (least: number) => void): HTMLElement {
  const lowest = Math.floor(100 * Math.min(1, ...all.flatMap(({ confidence }) => confidence ?? [])));
  const start = Math.floor(100 * least);
  const value = el("span", { class: "value" }, percent(start / 100));
  const slider = el("input", { type: "range", id: "least", min: lowest, max: 100, value: start });
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

function row(finding: Finding, verdict: "accepted" | "rejected" | null, current: boolean, choose: (finding: Finding) => void): HTMLElement {
  const { detection, label, sort } = finding;
  const risk = detection?.triage.risk_category;
  const triage = detection && el("span", { class: `risk ${risk ?? "none"}`, title: detection.triage.reason ?? "" }, risk ?? "no score");
  const type = sort === "candidate" ? "candidate" : (detection?.properties.nodule_type ?? "–");
  const where = whereOf(detection?.location);
  return el(
    "tr",
    { click: () => choose(finding), title: described(finding), "aria-current": current ? "true" : null, "data-nodule": label, class: `${sort} ${verdict ?? ""}` },
    el("th", { scope: "row" }, el("button", { type: "button", "aria-label": `Show ${sort === "added" ? "added nodule" : sort} ${label}${verdict ? `, ${verdict}` : ""}` }, label, verdict && { accepted: " ✓", rejected: " ✗" }[verdict])),
    el("td", { class: "number" }, percent(finding.confidence)),
    el("td", { class: "number" }, fixed(finding.diameter_mm, 1)),
    el("td", { class: "number" }, fixed(detection?.properties.volume_mm3)),
    el("td", {}, type, sort === "mass" && el("small", {}, " mass"), where && el("small", { class: "where" }, where)),
    el("td", {}, triage ?? "–"),
    el("td", {}, detection?.guidelines?.lung_rads.category ?? "–"),
  );
}

/** The up and down keys move between rows. Enter clicks the row's button, which selects the finding. */
function rove(event: KeyboardEvent): void {
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const rows = event.currentTarget as HTMLElement;
  const buttons = [...rows.querySelectorAll("button")];
  const at = buttons.findIndex((one) => one === document.activeElement);
  buttons[Math.max(0, Math.min(buttons.length - 1, at + by))]?.focus();
}
