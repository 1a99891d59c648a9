/** The list of measured distances; this browser keeps them, job by job. */

import { button, el, icon } from "./dom";
import { fixed } from "./format";
import { distance } from "./geometry";
import type { Measure } from "./marks";

const KEY = (job: string): string => `pivot-measures-${job}`;

export interface Rulers {
  element: HTMLElement;
  kept: Measure[];
  show: (measures: Measure[]) => void;
}

/** The distances of a job; `change` draws those that are left, `goTo` shows the slice of one. */
export function rulers(job: string, change: (measures: Measure[]) => void, goTo: (measure: Measure) => void): Rulers {
  const kept = JSON.parse(localStorage.getItem(KEY(job)) ?? "[]") as Measure[];
  const element = el("ul", { class: "measures", "aria-label": "Measured distances" });
  const show = (measures: Measure[]): void => {
    if (measures.length > 0) localStorage.setItem(KEY(job), JSON.stringify(measures));
    else localStorage.removeItem(KEY(job));
    element.hidden = measures.length === 0;
    element.replaceChildren(
      ...measures.map((measure) => {
        const length = `${fixed(distance(measure.from, measure.to), 1)} mm`;
        const remove = button("", () => change(measures.filter((one) => one !== measure)), { class: "button bare", "aria-label": `Remove ${length}` }, icon("close"));
        return el("li", {}, button(length, () => goTo(measure), { class: "button bare", title: "Show its slice" }), remove);
      }),
    );
  };
  element.hidden = kept.length === 0;
  return { element, kept, show };
}
