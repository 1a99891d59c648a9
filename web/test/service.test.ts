import { unzipSync } from "fflate";
import { afterEach, expect, test, vi } from "vitest";
import type { Job, Progress } from "../src/contract";
import { follow } from "../src/follow";
import { problemOf, type Refused } from "../src/api";
import { labelOf } from "../src/job";
import { yaml } from "../src/options";
import { secondsLeft } from "../src/progress";
import { scansOf } from "../src/scans";

const file = (name: string, content = "x"): File => new File([content], name);
const names = async (...files: string[]): Promise<string[]> => (await scansOf(files.map((name) => file(name)), "chest")).map(({ name }) => name);

test("scan files are scans, and loose files are one series", async () => {
  expect(await names("a.nii.gz", "b.mha", "c.NRRD", "d.zip")).toEqual(["a.nii.gz", "b.mha", "c.NRRD", "d.zip"]);
  expect(await names("enhanced.dcm")).toEqual(["enhanced.dcm"]);
  expect(await names("a.nii", "1.dcm", "IM0002", ".DS_Store")).toEqual(["a.nii", "chest.zip"]);
  expect(await names(".DS_Store")).toEqual([]);
});

test("the zip has the bytes of the slices but not their names", async () => {
  const [zip] = await scansOf([file("DOE^JOHN_1", "one"), file("DOE^JOHN_2", "two")], "chest");
  const members = unzipSync(new Uint8Array((await zip?.arrayBuffer()) ?? []));
  expect(Object.keys(members)).toEqual(["000001.dcm", "000002.dcm"]);
  expect(new TextDecoder().decode(members["000002.dcm"])).toBe("two");
});

test.each([
  ["of the service", 422, '{"title": "Bad scan", "detail": "not a CT"}', null, "Bad scan", "not a CT", null],
  ["with a time to wait", 429, '{"title": "Busy", "detail": "later"}', "7", "Busy", "later", 7],
  ["of a proxy", 502, "<html>", null, "Refused", "The service, or a proxy before it, answered with status 502.", null],
  ["with other JSON", 500, "null", null, "Refused", "The service, or a proxy before it, answered with status 500.", null],
])("a problem %s", (_, status, body, after, title, detail, wait) => {
  const refused: Refused = problemOf(status, body, after);
  expect(refused.problem).toMatchObject({ status, title, detail });
  expect(refused.retryAfter).toBe(wait);
});

test("the time left follows from the mean rate", () => {
  expect(secondsLeft({ at: 100, progress: 20 }, 110, 60)).toBe(10);
  expect(secondsLeft({ at: 100, progress: 20 }, 100, 20)).toBeNull();
});

test.each([["a.zip", true], ["a.dcm", true], ["a.nii.gz", false], ["a.NRRD", false]])("the options become the guide's keys; %s gives DICOM objects: %s", (name, dicom) =>
  expect(JSON.parse(yaml({ table: true, report: false, page: true, dicom: true, threshold: 0.3 }, name))).toEqual({
    output: { save_report: false, save_dicom: dicom, formats: { detections: "both" } },
    visualization: { save_3d: true },
    post_processing: { peak_detection: { threshold: 0.3 }, confidence_filter: { min_confidence: 0.3 } },
  }));

test.each([
  ["detections", "a_detections.json", "Findings (JSON)"],
  ["dicom", "a_nodules_sr.dcm", "Report (DICOM SR)"],
  ["dicom", "key_image_002.dcm", "Key image 2 (DICOM)"],
  ["dicom", "other.dcm", "other.dcm"],
  ["new", "a.new", "a.new"],
])("a file of kind %s called %s is labelled %s", (kind, name, label) => expect(labelOf({ kind, name })).toBe(label));

const JOB = { job_id: "1", status: "running", progress: 0, links: { stream: "/s" } } as Job;
afterEach(() => vi.unstubAllGlobals());

/** A socket that sends `messages` and closes, and a service that then returns `answers`. */
function world(messages: Partial<Progress>[], answers: Partial<Job>[]): ReturnType<typeof vi.fn> {
  class Socket {
    onmessage: (event: { data: string }) => void = () => undefined;
    onclose: () => void = () => undefined;
    constructor() {
      setTimeout(() => {
        for (const message of messages) this.onmessage({ data: JSON.stringify(message) });
        this.onclose();
      });
    }
    close(): void {
      this.onclose();
    }
  }
  const fetch = vi.fn(() => Promise.resolve(new Response(JSON.stringify(answers.shift()))));
  vi.stubGlobal("WebSocket", Socket);
  vi.stubGlobal("fetch", fetch);
  vi.stubGlobal("location", new URL("http://localhost/"));
  vi.stubGlobal("sessionStorage", { getItem: () => null });
  return fetch;
}

test("a socket that reports the end is sufficient", async () => {
  const fetch = world([{ status: "running", progress: 50 }, { status: "completed", progress: 100 }], []);
  const seen: number[] = [];
  await follow(JOB, ({ progress }) => seen.push(progress), new AbortController().signal);
  expect(seen).toEqual([50, 100]);
  expect(fetch).not.toHaveBeenCalled();
});

test("polling follows a lost socket", async () => {
  vi.useFakeTimers();
  const fetch = world([{ status: "running", progress: 50 }], [{ status: "running", progress: 60 }, { status: "failed", progress: 60 }]);
  const seen: string[] = [];
  const done = follow(JOB, ({ status, progress }) => seen.push(`${status} ${progress}`), new AbortController().signal);
  await vi.advanceTimersByTimeAsync(5000);
  await done;
  vi.useRealTimers();
  expect(seen).toEqual(["running 50", "running 60", "failed 60"]);
  expect(fetch).toHaveBeenCalledTimes(2);
});
