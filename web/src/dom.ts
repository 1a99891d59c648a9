/** Creates elements. Text is inserted as text, never as markup. */

export type Child = Node | string | null | undefined | false;
type Listener = (event: never) => void;
type Props = Record<string, string | number | boolean | null | undefined | Listener>;

/** An element. A property that is a function is a listener of the event of its name; `true` is an empty attribute. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") node.addEventListener(name, value as unknown as EventListener);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child): child is Node | string => child != null && child !== false && child !== ""));
  return node;
}

/** The element of index.html with this id. */
export function byId(id: string): HTMLElement {
  const node = document.getElementById(id);
  if (!node) throw new Error(`index.html has no #${id}`);
  return node;
}

const ICONS = {
  back: "M15 5l-7 7 7 7",
  download: "M12 4v11m-5-5 5 5 5-5M5 20h14",
  upload: "M12 16V5m-5 5 5-5 5 5M5 20h14",
  close: "M6 6l12 12M18 6 6 18",
  trash: "M4 7h16M9 7V4h6v3m-8 0 1 13h8l1-13",
  warning: "M12 4 2.5 20h19L12 4zm0 6v5m0 2.5v.5",
  keyboard: "M3 7h18v11H3zM7 11h.01M11 11h.01M15 11h.01M8 14.5h8",
  theme: "M12 3a9 9 0 1 0 0 18zm0 0a9 9 0 0 1 0 18",
};

/** A decorative line drawing. */
export function icon(name: keyof typeof ICONS): SVGElement {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }))
    svg.setAttribute(key, value);
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button; `label` is its text. */
export function button(label: string, click: () => void, props: Props = {}, ...before: Child[]): HTMLButtonElement {
  return el("button", { type: "button", click, ...props }, ...before, label);
}
