/** The list of measured distances, and their conversion to and from the service's format. */

import type { Distance, Vec3 } from "./contract";
import { button, el, icon } from "./dom";
import { fixed } from "./format";
import { distance } from "./geometry";
import type { Measure } from "./marks";

const PLANES = ["axial", "coronal", "sagittal"] as const; // in NiiVue's order

const turned = ([x, y, z]: Vec3): Vec3 => [-x, -y, z]; // between RAS+ and LPS

/** A line on the image in the service's format. */
export const toDistance = ({ from, to, plane }: Measure): Distance => ({ from_lps: turned(from), to_lps: turned(to), plane: PLANES[plane] });

/** A distance of the service as a line on the image. */
// eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment -- importing the enumeration would load NiiVue
export const toMeasure = ({ from_lps, to_lps, plane }: Distance): Measure => ({ from: turned(from_lps), to: turned(to_lps), plane: PLANES.indexOf(plane) });

export interface Rulers {
  element: HTMLElement;
  show: (measures: Measure[]) => void;
}

/** The distances of a job. `change` is called with the remaining ones, `goTo` shows the slice of one. */
export function rulers(change: (measures: Measure[]) => void, goTo: (measure: Measure) => void): Rulers {
  const element = el("ul", { class: "measures", "aria-label": "Measured distances", hidden: true });
  const show = (measures: Measure[]): void => {
    element.hidden = measures.length === 0;
    element.replaceChildren(
      ...measures.map((measure) => {
        const length = `${fixed(distance(measure.from, measure.to), 1)} mm`;
        const remove = button("", () => change(measures.filter((one) => one !== measure)), { class: "button bare", "aria-label": `Remove ${length}` }, icon("close"));
        return el("li", {}, button(length, () => goTo(measure), { class: "button bare", title: "Show its slice" }), remove);
      }),
    );
  };
  return { element, show };
}
