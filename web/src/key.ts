/** The dialog that asks for the API key. */

import { button, el } from "./dom";

let asking: Promise<string | null> | null = null;

/** The key that was entered, or null. Simultaneous requests share one dialog. */
export function askForKey(why: string): Promise<string | null> {
  asking ??= ask(why).finally(() => (asking = null));
  return asking;
}

function ask(why: string): Promise<string | null> {
  const field = el("input", { type: "password", id: "key", required: true, autocomplete: "off" });
  const dialog = el(
    "dialog",
    { class: "dialog", "aria-labelledby": "key-title" },
    el(
      "form",
      { method: "dialog" },
      el("h2", { id: "key-title" }, "API key"),
      el("p", {}, why),
      el("label", { for: "key" }, "Key"),
      field,
      el("p", { class: "hint" }, "Kept until this tab is closed."),
      el(
        "div",
        { class: "actions" },
        button("Cancel", () => dialog.close(), { class: "button" }),
        el("button", { class: "button primary", value: "ok" }, "Continue"),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "ok" ? field.value.trim() : null);
    });
  });
}
