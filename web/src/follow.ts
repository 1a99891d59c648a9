/** The progress of a job: by WebSocket, or by polling if that fails. */

import * as api from "./api";
import { ended, type Job, type Progress } from "./contract";

const PERIOD = 2000; // ms between polls
const PATIENCE = 5; // polls in a row that may fail

/** Report every change of `job`. The promise resolves when the job ends and rejects if the service refuses. */
export async function follow(job: Job, tell: (progress: Progress) => void, signal: AbortSignal): Promise<void> {
  if (!ended(job.status) && !(await bySocket(job, tell, signal))) await byAsking(job, tell, signal);
}

/** Whether the socket reported the end of the job. */
function bySocket(job: Job, tell: (progress: Progress) => void, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    let done = false;
    const socket = api.socket(job);
    signal.addEventListener("abort", () => socket.close());
    socket.onmessage = (event: MessageEvent<string>) => {
      const progress = JSON.parse(event.data) as Progress;
      done = ended(progress.status);
      tell(progress);
    };
    socket.onclose = () => resolve(done);
  });
}

async function byAsking(job: Job, tell: (progress: Progress) => void, signal: AbortSignal): Promise<void> {
  for (let failures = 0; !signal.aborted; ) {
    try {
      const now = await api.job(job.job_id, signal);
      failures = 0;
      tell(now);
      if (ended(now.status)) return;
    } catch (error) {
      const refused = error instanceof api.Refused && error.problem.status > 0 && error.problem.status < 500;
      if (refused || ++failures >= PATIENCE) throw error;
    }
    await pause(PERIOD, signal);
  }
}

/** Wait for `ms` milliseconds or until the signal. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
