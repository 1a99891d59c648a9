/** The page: a start view with upload and worklist, and a view of each job. The fragment of the address selects the view. */

import "./style.css";
import { byId, el, icon } from "./dom";
import { followupView } from "./followup";
import { jobView } from "./job";
import { jobsPanel } from "./jobs";
import { onKeys, showShortcuts } from "./shortcuts";
import { setUpTheme } from "./theme";
import { uploadPanel } from "./upload";

const view = byId("view");
let leaving = new AbortController();

function start(signal: AbortSignal): void {
  const jobs = jobsPanel(signal);
  const upload = uploadPanel((accepted) => {
    const [only] = accepted;
    if (only && accepted.length === 1) location.hash = `#/jobs/${only.job_id}`;
    else show();
  }, signal);
  document.title = "PIVOT";
  view.replaceChildren(el("div", { class: "start" }, upload, jobs.element));
}

function show(): void {
  leaving.abort();
  leaving = new AbortController();
  const [, id, prior, days] = /^#\/jobs\/([\w-]+)(?:\/prior\/([\w-]+)(?:\/days\/(\d+))?)?$/.exec(location.hash) ?? [];
  document.body.classList.toggle("reading", id !== undefined);
  if (id === undefined) start(leaving.signal);
  else if (prior === undefined) void jobView(id, view, leaving.signal);
  else void followupView(id, prior, days === undefined ? null : Number(days), view, leaving.signal);
}

function moved(): void {
  show();
  view.focus(); // screen readers start a new view at its top
}

byId("theme").append(icon("theme"));
byId("shortcuts").prepend(icon("keyboard"));
byId("shortcuts").addEventListener("click", showShortcuts);
byId("notice").prepend(icon("warning"));
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment selects the view
  view.focus();
});
setUpTheme(byId("theme"));
// Otherwise a file dropped outside the zone would replace the page.
for (const event of ["dragover", "drop"]) document.addEventListener(event, (drag) => drag.preventDefault());
onKeys({ "?": showShortcuts }, new AbortController().signal);
window.addEventListener("hashchange", moved);
show();
