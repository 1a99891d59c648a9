/** Keyboard shortcuts, the dialog that lists them, and the switch that turns them off. */

import { button, el } from "./dom";

const OFF = "pivot-keys-off";

const KEYS: [string[], string][] = [
  [["J", "K"], "next, previous finding"],
  [["Y"], "accept the finding; again: take it back"],
  [["N"], "reject it; again: the next reason"],
  [["U"], "next unread finding"],
  [["A"], "add a nodule at the crosshair"],
  [["E"], "save the reviewed report: DICOM SR, or JSON where there is none"],
  [["Enter"], "show the finding of the table's row; ↑ ↓ move between rows"],
  [["1", "2", "3", "4"], "all planes, axial, coronal, sagittal"],
  [["W"], "next window: lung, mediastinum, bone, soft tissue"],
  [["S"], "slab: brightest voxels (MIP) of 5, 8, 10 mm; then off"],
  [["H"], "heatmap on and off"],
  [["−", "+"], "heatmap weaker, stronger"],
  [["R"], "rings on and off"],
  [["O"], "outlines on and off"],
  [["I"], "inset on and off: the chosen finding, magnified"],
  [["M"], "measure: drag a line; again: off"],
  [["Z"], "magnify the finding; again: whole planes"],
  [["F"], "whole planes"],
  [["[", "]"], "one slice towards the feet, the head"],
  [["← → ↑ ↓"], "move the crosshair, with the image in focus"],
  [["P"], "compare with a prior"],
  [["?"], "this list"],
  [["Esc"], "close a dialog"],
];
const POINTER: [string, string][] = [
  ["Click, drag", "move the crosshair"],
  ["Wheel", "slices of the plane under the pointer"],
  ["Right drag", "window: level and width"],
  ["Ctrl + wheel, pinch", "magnify"],
  ["Double click", "magnify the finding; again: whole planes"],
  ["Middle drag", "pan"],
  ["Shift drag", "measure a distance"],
];

/** Whether the element uses keys itself: an input, a selection, or anything in a dialog. */
export const isTyping = (where: EventTarget | null): boolean =>
  where instanceof HTMLElement && where.closest("input:not([type=range]), select, textarea, dialog") !== null;

/** Run `actions` by `event.key` (in lower case) until the signal, but not while the reader types or a dialog is open. */
export function onKeys(actions: Record<string, () => void>, signal: AbortSignal): void {
  const listen = (event: KeyboardEvent): void => {
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey || localStorage.getItem(OFF)) return;
    const action = actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  };
  document.addEventListener("keydown", listen, { capture: true, signal });
}

/** The dialog with all keys. */
export function showShortcuts(): void {
  const on = el("input", { type: "checkbox", checked: !localStorage.getItem(OFF) });
  on.addEventListener("change", () => (on.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1")));
  const keys = KEYS.map(([names, what]) => line(names.map((name) => el("kbd", {}, name)), what));
  const pointer = POINTER.map(([name, what]) => line([el("span", {}, name)], what));
  const dialog = el(
    "dialog",
    { class: "dialog wide", "aria-labelledby": "keys-title", close: () => dialog.remove() },
    el("h2", { id: "keys-title" }, "Shortcuts"),
    el("div", { class: "columns" }, part("Keys", keys), part("Mouse", pointer)),
    el("label", { class: "check" }, on, "Single keys are on"),
    el("div", { class: "actions" }, button("Close", () => dialog.close(), { class: "button primary", autofocus: true })),
  );
  document.body.append(dialog);
  dialog.showModal();
  dialog.scrollTop = 0; // because the focus is on the button below
}

const part = (name: string, lines: HTMLElement[]): HTMLElement => el("section", {}, el("h3", {}, name), el("dl", { class: "keys" }, ...lines));
const line = (names: HTMLElement[], what: string): HTMLElement => el("div", {}, el("dt", {}, ...names), el("dd", {}, what));
