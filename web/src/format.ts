/** Formats numbers and times for display. */

const NONE = "–";

/** `value` with `digits` decimals, or a dash. */
export function fixed(value: number | null | undefined, digits = 0): string {
  return value == null ? NONE : value.toFixed(digits).replace(/^-(?=0(\.0*)?$)/, "").replace("-", "−");
}

/** A fraction of 0 to 1 as a percentage. */
export const percent = (value: number | null | undefined): string => (value == null ? NONE : `${fixed(100 * value)} %`);

/** Bytes in the unit that gives at most four digits. */
export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB"];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(value, 1)) / 3)));
  return `${(value / 1000 ** power).toFixed(power > 1 && value < 10 * 1000 ** power ? 1 : 0)} ${units[power] ?? ""}`;
}

/** Seconds as `48 s` or `3 min 5 s`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** A time in the reader's time zone and language. */
export const moment = (iso: string): string =>
  new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

/** A point (LPS mm) with the letters of its directions: `R 12.0  A 3.5  S 100.2`. */
export function place([x, y, z]: readonly number[], digits = 1): string {
  const part = (value = 0, plus = "", minus = ""): string => `${value < 0 ? minus : plus} ${Math.abs(value).toFixed(digits)}`;
  return [part(x, "L", "R"), part(y, "P", "A"), part(z, "S", "I")].join("  ");
}
