/** Shows errors to the reader. */

import { Refused } from "./api";
import { type Child, el, icon } from "./dom";

/** An alert with the message of the service. */
export function problemBox(error: unknown, ...actions: Child[]): HTMLElement {
  const refused = error instanceof Refused ? error : null;
  const detail = error instanceof Error ? error.message : String(error);
  const wait = refused?.retryAfter;
  return el(
    "div",
    { class: "problem", role: "alert" },
    icon("warning"),
    el(
      "div",
      {},
      el("strong", {}, refused?.problem.title ?? "Something went wrong"),
      el("p", { class: "detail" }, detail, wait ? ` Try again in ${wait} seconds.` : ""),
      actions.length > 0 && el("div", { class: "actions" }, ...actions),
    ),
  );
}
