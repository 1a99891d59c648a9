/** Requests to the service, with the API key if one is needed. Errors of the service are passed on. */

import type { Distance, FindingMasks, Followup, Job, JobFile, JobPage, Limits, Problem, Report, Review, Vec3, Verdict } from "./contract";
import { askForKey } from "./key";

const KEY = "pivot-key";
export const INFERENCE = "/api/v1/inference";

/** An error that the service, a proxy or the connection reports. */
export class Refused extends Error {
  constructor(
    readonly problem: Problem,
    readonly retryAfter: number | null = null,
  ) {
    super(problem.detail);
  }
}

/** The API key of this tab, or null. */
export const key = (): string | null => sessionStorage.getItem(KEY);

const headers = (): Record<string, string> => {
  const value = key();
  return value ? { Authorization: `Bearer ${value}` } : {};
};

/** An error of the connection to the service. */
export const unreachable = (): Refused =>
  new Refused({
    type: "about:blank",
    title: "No connection",
    status: 0,
    detail: "The service does not answer. Check that it runs and that this machine can reach it, then try again.",
  });

/** The problem in a response with an error status. */
export function problemOf(status: number, body: string, retryAfter: string | null): Refused {
  const seconds = Number(retryAfter);
  const wait = retryAfter && Number.isFinite(seconds) ? seconds : null;
  try {
    const problem = JSON.parse(body) as Partial<Problem>;
    if (typeof problem.detail === "string")
      return new Refused({ type: "about:blank", title: "Refused", ...problem, detail: problem.detail, status }, wait);
  } catch {
    // A proxy answers in its own format.
  }
  const detail = `The service, or a proxy before it, answered with status ${status}.`;
  return new Refused({ type: "about:blank", title: "Refused", status, detail }, wait);
}

/** A successful response. Asks for the key if it is missing or wrong. */
export async function request(url: string, init: Omit<RequestInit, "headers"> & { headers?: Record<string, string> } = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, { ...init, headers: { ...init.headers, ...headers() } });
  } catch (error) {
    throw init.signal?.aborted ? error : unreachable();
  }
  if (response.ok) return response;
  const refused = problemOf(response.status, await response.text(), response.headers.get("Retry-After"));
  if (response.status !== 401) throw refused;
  const entered = await askForKey(refused.problem.detail);
  if (entered === null) throw refused;
  sessionStorage.setItem(KEY, entered);
  return request(url, init);
}

async function json<T>(url: string, signal?: AbortSignal): Promise<T> {
  const response = await request(url, signal ? { signal } : {});
  return (await response.json()) as T;
}

export const limits = (): Promise<Limits> => json("/api/v1/limits");
export const jobPage = (url: string, signal?: AbortSignal): Promise<JobPage> => json(url, signal);
export const job = (id: string, signal?: AbortSignal): Promise<Job> => json(`${INFERENCE}/${encodeURIComponent(id)}`, signal);
export const report = (of: Job, signal?: AbortSignal): Promise<Report> => json(of.links.results, signal);
export const files = async (of: Job, signal?: AbortSignal): Promise<JobFile[]> =>
  (await json<{ files: JobFile[] }>(of.links.files, signal)).files;

/** The masks of a job. A job of an earlier release has none. */
export const outlines = (of: Job, signal?: AbortSignal): Promise<FindingMasks> =>
  json<FindingMasks>(`${of.links.self}/outlines`, signal).catch((error: unknown) => {
    if (error instanceof Refused && error.problem.status === 404) return { affine: [], masks: [] };
    throw error;
  });

/** A preview of the scan (NIfTI); null if the scan is small or an earlier release made the job. */
export const preview = async (of: Job, signal?: AbortSignal): Promise<ArrayBuffer | null> => {
  const response = await request(`${of.links.self}/preview`, signal ? { signal } : {});
  return response.status === 204 ? null : response.arrayBuffer();
};

export const review = (of: Job, signal?: AbortSignal): Promise<Review> => json(`${of.links.self}/review`, signal);

const send = async <T = Review>(method: string, url: string, body: object, more: Record<string, string> = {}): Promise<T> => {
  const response = await request(url, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...more } });
  return (await response.json()) as T;
};

/** The comparison of a job with an earlier one of the same patient, `days` before. */
export const followup = (of: Job, prior: string, days: number | null): Promise<Followup> =>
  send("POST", `${of.links.self}/followup`, { prior, days });

/** Write the verdicts and, if given, the distances. Fails if the review was changed in the meantime. */
export const writeReview = (of: Job, { version, comment }: Review, findings: Verdict[], distances: Distance[] | null = null): Promise<Review> =>
  send("PUT", `${of.links.self}/review`, { findings, comment, distances }, { "If-Match": `"${version}"` });

/** Add a nodule at a point (LPS mm). The service measures it. */
export const addNodule = (of: Job, coordinates_lps: Vec3): Promise<Review> => send("POST", `${of.links.self}/review/nodules`, { coordinates_lps });

/** Cancel a waiting or running job, or remove one that has ended. */
export const cancelOrRemove = (of: Job): Promise<Response> => request(of.links.self, { method: "DELETE" });

/** The bytes at `url`; `progress` is called with the number of bytes received. */
export async function download(url: string, progress: (got: number) => void, signal?: AbortSignal): Promise<Uint8Array[]> {
  const response = await request(url, signal ? { signal } : {});
  const reader = response.body?.getReader();
  const parts: Uint8Array[] = [];
  for (let got = 0; reader; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    progress((got += value.length));
  }
  return parts;
}

/** Save a file under its name. A plain link would not send the API key. */
export async function save(file: Pick<JobFile, "url" | "name">): Promise<void> {
  const response = await request(file.url);
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** The socket that follows a job. Browsers can send the key only as a subprotocol. */
export function socket(of: Job): WebSocket {
  const url = new URL(of.links.stream, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const value = key();
  return new WebSocket(url, value ? ["pivot", value] : []);
}

/** What is sent with a scan: the configuration and the patient data, both YAML. */
export interface Asked {
  config: string;
  patient: string | null;
}

/** Upload a scan; `progress` is called with the number of bytes sent. The same `idempotency` key returns the same job. */
export function submit(
  scan: File,
  { config, patient }: Asked,
  idempotency: string,
  progress: (sent: number) => void,
  signal: AbortSignal,
): Promise<Job> {
  const form = new FormData();
  form.append("config", config);
  if (patient !== null) form.append("patient", patient);
  form.append("file", scan);
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest(); // fetch does not report the progress of an upload
    sending.open("POST", INFERENCE);
    for (const [name, value] of Object.entries(headers())) sending.setRequestHeader(name, value);
    sending.setRequestHeader("Idempotency-Key", idempotency);
    sending.upload.onprogress = (event) => progress(event.loaded);
    sending.onload = () => {
      if (sending.status === 202 || sending.status === 200) resolve(JSON.parse(sending.responseText) as Job);
      else reject(problemOf(sending.status, sending.responseText, sending.getResponseHeader("Retry-After")));
    };
    sending.onerror = () => reject(unreachable());
    sending.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    signal.addEventListener("abort", () => sending.abort());
    sending.send(form);
  });
}
