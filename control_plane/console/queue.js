// The queue as a place: what waits in its order, what runs, what can be moved, paused or hurried.
import { api, get, jobPath, post } from "./api.js";
import { isAlive, local, nameOf, span } from "./format.js";
import { t } from "./messages.js";
import { Link, to } from "./router.js";
import { Action, Countdown, Empty, Failure, Icon, Loading, Progress, say, Status, Time } from "./ui.js";
import { html, useEvery, useState } from "./view.js";

const LOOK_MS = 2500;
const MOST = 200;

export function Queue() {
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  async function look() {
    try {
      const [queues, alive] = await Promise.all([get("/api/queues"), get(`/api/jobs?status=queued,running,scheduled,cancelling&limit=${MOST}`)]);
      setFound({ queues: queues.queues, jobs: alive.jobs, more: alive.next });
      setError(null);
    } catch (wrong) {
      setError(wrong);
      throw wrong;
    }
  }
  useEvery(LOOK_MS, look);
  if (error && !found) return html`<div class="page"><h1>${t("Queue")}</h1><${Failure} error=${error} retry=${() => look().catch(() => {})} /></div>`;
  if (!found) return html`<div class="page"><h1>${t("Queue")}</h1><${Loading} /></div>`;
  return html`<div class="page"><h1>${t("Queue")}</h1></div>`;
}
