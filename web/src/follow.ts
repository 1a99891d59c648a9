/** The progress of a job: by WebSocket, and by asking where that does not work. */

import * as api from "./api";
import { ended, type Job, type Progress } from "./contract";

const PERIOD = 2000; // ms between questions
const PATIENCE = 5; // questions in a row that may fail

/** Tell every change of `job` until it ends; the promise is kept then, and broken by what the service refuses. */
export async function follow(job: Job, tell: (progress: Progress) => void, signal: AbortSignal): Promise<void> {
  if (!ended(job.status) && !(await bySocket(job, tell, signal))) await byAsking(job, tell, signal);
}

/** Whether the socket told the job's end. */
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

/** Wait `ms`, or until the signal. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
