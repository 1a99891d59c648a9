import { expect, test } from "vitest";
import { bytes, duration, fixed, percent, place } from "../src/format";

test.each([
  [12.345, 1, "12.3"],
  [-600, 0, "−600"],
  [-0.04, 1, "0.0"],
  [null, 1, "–"],
  [undefined, 0, "–"],
])("fixed(%s, %s)", (value, digits, text) => expect(fixed(value, digits)).toBe(text));

test.each([
  [0, "0 B"],
  [999, "999 B"],
  [18_701, "19 kB"],
  [2_384_245, "2.4 MB"],
  [61_234_567, "61 MB"],
  [1_073_741_824, "1.1 GB"],
])("bytes(%s)", (value, text) => expect(bytes(value)).toBe(text));

test.each([
  [0.2, "0 s"],
  [59.4, "59 s"],
  [59.6, "1 min 0 s"],
  [185, "3 min 5 s"],
])("duration(%s)", (value, text) => expect(duration(value)).toBe(text));

test("percent and place", () => {
  expect(percent(0.856)).toBe("86 %");
  expect(percent(null)).toBe("–");
  expect(place([-12, -3.46, 100])).toBe("R 12.0  A 3.5  S 100.0");
  expect(place([12, 3.46, -100])).toBe("L 12.0  P 3.5  I 100.0");
});
