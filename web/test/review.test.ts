import { expect, test } from "vitest";
import type { Verdict } from "../src/contract";
import { withChange } from "../src/review";

const said = (finding: string, more: Partial<Verdict> = {}): Verdict => ({ finding, verdict: "accepted", reason: null, nodule_type: null, comment: "", ...more });

test("a change applies to one finding and is sent without its signature", () => {
  const before = [said("1", { by: "anna", at: "now" }), said("2")];
  expect(withChange(before, "2", { comment: "round" })).toEqual([said("1"), said("2", { comment: "round" })]);
});

test("only a rejected finding has a reason", () => {
  expect(withChange([], "1", { verdict: "rejected" })).toEqual([said("1", { verdict: "rejected", reason: "other" })]);
  const rejected = [said("1", { verdict: "rejected", reason: "scar" })];
  expect(withChange(rejected, "1", { comment: "old" })).toEqual([said("1", { verdict: "rejected", reason: "scar", comment: "old" })]);
  expect(withChange(rejected, "1", { verdict: "accepted" })).toEqual([said("1")]);
});

test("a finding with an empty verdict is unread", () => {
  expect(withChange([said("1")], "1", { verdict: null })).toEqual([]);
  expect(withChange([said("1", { nodule_type: "solid" })], "1", { verdict: null })).toEqual([said("1", { verdict: null, nodule_type: "solid" })]);
});
