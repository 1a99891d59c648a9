/** Cancelling and removing, each with a confirmation. */

import * as api from "./api";
import { ended, type Job } from "./contract";
import { button, el } from "./dom";
import { problemBox } from "./problem";

/** Whether a waiting or running job was cancelled, or an ended job removed. */
export function confirmRemoval(job: Job): Promise<boolean> {
  const verb = ended(job.status) ? "Remove" : "Cancel";
  const what = ended(job.status) ? "The scan and its results will be deleted for good." : "The analysis will stop.";
  let done = false;
  const trouble = el("div", {});
  const act = (): void => {
    api.cancelOrRemove(job).then(
      () => {
        done = true;
        dialog.close();
      },
      (error: unknown) => trouble.replaceChildren(problemBox(error)),
    );
  };
  const dialog = el(
    "dialog",
    { class: "dialog", "aria-labelledby": "removal-title" },
    el("h2", { id: "removal-title" }, `${verb} ${job.scan_id}?`),
    el("p", {}, what),
    trouble,
    el(
      "div",
      { class: "actions" },
      button("Keep it", () => dialog.close(), { class: "button", autofocus: true }),
      button(`${verb} it`, act, { class: "button danger" }),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(done);
    });
  });
}
