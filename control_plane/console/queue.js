// The queue as a place: what runs, what waits in its order, and why it waits.
import { get, jobPath, patch, post } from "./api.js";
import { between, jobs as countJobs, local, nameOf } from "./format.js";
import { t } from "./messages.js";
import { Link, to } from "./router.js";
import { Action, attempt, Countdown, Empty, Failure, Icon, Loading, Progress, say, Status, Time, useMay } from "./ui.js";
import { html, useEvery, useState } from "./view.js";

const LOOK_MS = 2500;
const MOST = 200;
const PLANES = { node: t("Control plane"), python: t("Data plane") };
const PRIORITIES = [["high", t("high")], ["normal", t("normal")], ["low", t("low")]];

export function Queue() {
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  async function look() {
    try {
      const [page, { queues }] = await Promise.all([get(`/api/jobs?status=queued,running,scheduled,cancelling&limit=${MOST}`), get("/api/queues")]);
      const lines = await Promise.all(queues.filter((queue) => queue.depth).map((queue) => get(`/api/queues/${queue.plane}/${encodeURIComponent(queue.pool)}`).catch(() => ({ waiting: [] }))));
      const places = new Map(lines.flatMap((line) => line.waiting.map((each) => [each.jobId, each.position])).reverse()); // of a job with several nodes the first
      setFound({ ...page, queues, places });
      setError(null);
    } catch (wrong) {
      setError(wrong);
      throw wrong;
    }
  }
  useEvery(LOOK_MS, look);
  const head = html`<div class="title"><h1>${t("Queue")}</h1>${found && html`<span class="muted numbers">${countJobs(found.jobs.length)}${found.next ? "+" : ""}</span>`}</div>`;
  if (error && !found) return html`<div class="page">${head}<${Failure} error=${error} retry=${() => look().catch(() => {})} /></div>`;
  if (!found) return html`<div class="page">${head}<${Loading} /></div>`;
  const of = (...statuses) => found.jobs.filter((job) => statuses.includes(job.status));
  const running = of("running", "cancelling").reverse();
  const waiting = inOrder(of("queued"), found.places);
  const later = of("scheduled").sort((a, b) => (a.startAt < b.startAt ? -1 : 1));
  return html`<div class="page">${head}
    <${Pools} queues=${found.queues} look=${look} />
    ${!found.jobs.length && html`<${Empty} title=${t("Nothing waits")}><p>${t("Whatever is submitted now starts at once, where a worker is free.")}</p><p><${Link} href=${to.new} class="button primary">${t("New job")}<//></p><//>`}
    <${Part} title=${t("Running")} jobs=${running} look=${look} />
    <${Part} title=${t("Waiting, next first")} jobs=${waiting} look=${look} numbered />
    <${Part} title=${t("Scheduled")} jobs=${later} look=${look} />
  </div>`;
}

// A pool that is paused hands out no node until it is resumed; what runs goes on.
function Pools({ queues, look }) {
  const may = useMay();
  const turn = async (queue) => {
    await post(`/api/queues/${queue.plane}/${encodeURIComponent(queue.pool)}/${queue.paused ? "resume" : "pause"}`);
    say(queue.paused ? t("{pool} is resumed", { pool: queue.pool }) : t("{pool} is paused: what runs goes on, nothing else starts", { pool: queue.pool }));
    await look();
  };
  return html`<ul class="pools" aria-label=${t("Pools")}>${queues.map((queue) => html`<li key=${queue.plane + queue.pool} class="pool ${queue.paused ? "paused" : ""}"><span><strong>${PLANES[queue.plane]}</strong> <span class="mono muted">${queue.pool}</span></span>
    <span class="muted numbers">${queue.paused ? html`<strong class="waits">${t("paused")}</strong> · ` : ""}${t("{n} queued", { n: queue.depth.toLocaleString() })}</span>
    ${may("operate") && html`<${Action} class="quiet" aria-label=${queue.paused ? t("Resume {pool} of {plane}", { pool: queue.pool, plane: PLANES[queue.plane] }) : t("Pause {pool} of {plane}", { pool: queue.pool, plane: PLANES[queue.plane] })} work=${() => turn(queue)}><${Icon} of=${queue.paused ? "play" : "pause"} />${queue.paused ? t("Resume") : t("Pause")}<//>`}</li>`)}</ul>`;
}

const LAST = 1e9;
const RANK = { high: 0, normal: 1, low: 2 };

// By their place in their pool's queue, else by urgency and age.
const inOrder = (jobs, places) => [...jobs].sort((a, b) => (places.get(a.jobId) ?? LAST) - (places.get(b.jobId) ?? LAST) || (RANK[a.priority] ?? 1) - (RANK[b.priority] ?? 1) || (a.created < b.created ? -1 : 1));

function Part({ title, jobs, look, numbered }) {
  if (!jobs.length) return null;
  return html`<section class="panel" aria-label=${title}><header><h2>${title}</h2><span class="muted numbers">${jobs.length.toLocaleString()}</span></header>
    <ol class="queue">${jobs.map((job, index) => html`<${Row} key=${job.jobId} job=${job} place=${numbered ? index + 1 : null} look=${look} />`)}</ol></section>`;
}

function Row({ job, place, look }) {
  const may = useMay();
  const cancel = async () => {
    await post(`${jobPath(job.jobId)}/cancel`);
    await look();
  };
  const front = async () => {
    await post(`${jobPath(job.jobId)}/front`);
    say(t("{name} is next", { name: nameOf(job) }));
    await look();
  };
  const urge = (priority) => attempt(() => patch(jobPath(job.jobId), { priority }).then(look));
  const waits = job.status === "queued" || job.status === "scheduled";
  return html`<li class="queue-row"><span class="queue-place numbers muted">${place ?? html`<${Status} status=${job.status}>${" "}<//>`}</span>
    <span class="queue-name"><${Link} href=${to.job(job.jobId)} class=${job.name ? "" : "mono"}>${nameOf(job)}<//><span class="muted">${job.pipeline ?? job.task ?? t("graph")}</span></span>
    <span class="queue-note muted">${job.status === "running" || job.status === "cancelling" ? html`<${Progress} value=${job.progress} status=${job.status} label=${t("Progress of {name}", { name: nameOf(job) })} />${job.estimate ? t("about {range} left", { range: between(job.estimate) }) : ""}`
      : job.status === "scheduled" && job.startAt ? html`${t("starts {time}, in", { time: local(job.startAt) })} <${Countdown} to=${job.startAt} />` : html`${job.startsIn ? html`<strong>${t("starts in about {range}", { range: between(job.startsIn) })}</strong> · ` : ""}${job.waitingFor?.message ?? ""}`}${waits && job.estimate ? ` · ${t("takes about {range}", { range: between(job.estimate) })}` : ""}</span>
    <span class="queue-age muted"><${Time} at=${job.created} /></span>
    <span class="queue-tools">${waits && may("submit") && html`<select aria-label=${t("Priority of {name}", { name: nameOf(job) })} value=${job.priority} onChange=${(event) => urge(event.target.value)}>${PRIORITIES.map(([each, label]) => html`<option key=${each} value=${each} selected=${each === job.priority}>${label}</option>`)}</select>`}
      ${job.status === "queued" && place !== 1 && may("operate") && html`<${Action} class="quiet" aria-label=${t("Move {name} to the front", { name: nameOf(job) })} title=${t("Move to the front")} work=${front}><${Icon} of="top" />${t("To the front")}<//>`}
      ${may("cancel") && html`<${Action} class="quiet" disabled=${job.status === "cancelling"} work=${cancel}><${Icon} of="close" />${t("Cancel")}<//>`}</span></li>`;
}
