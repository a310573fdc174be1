// Who works on what, with which memory, and what could not be delivered.
import { api, get, post } from "./api.js";
import { exact, memory, span } from "./format.js";
import { t, tn } from "./messages.js";
import { Link, to } from "./router.js";
import { Action, Copyable, Empty, Failure, Icon, Loading, say, Time, useMay } from "./ui.js";
import { UsageCurves, useUsage } from "./usage.js";
import { html, useEvery, useState } from "./view.js";

const LOOK_MS = 2000;
const PLANES = { node: t("Control plane"), python: t("Data plane") };
const LATE_MS = 15_000;

export function Workers() {
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  async function look() {
    try {
      const [workers, queues, letters, tasks] = await Promise.all(["workers", "queues", "dead-letters", "capabilities"].map((what) => get(`/api/${what}`)));
      const light = new Set(tasks.capabilities.filter((task) => task.runtime.light).map((task) => task.id));
      setFound({ workers: workers.workers, queues: queues.queues, letters: letters.deadLetters, light });
      setError(null);
    } catch (wrong) {
      setError(wrong);
      throw wrong;
    }
  }
  useEvery(LOOK_MS, look);
  return html`<div class="page">
    <div class="title"><h1>${t("Workers and queues")}</h1></div>
    ${error && !found ? html`<${Failure} error=${error} retry=${() => look().catch(() => {})} />` : !found ? html`<${Loading} />` : html`
      <${Queues} queues=${found.queues} workers=${found.workers} />
      <section class="stack" aria-labelledby="h-workers"><h2 id="h-workers">${tn(found.workers.length, "{n} worker", "{n} workers")}</h2>
        ${found.workers.length ? html`<div class="cards">${found.workers.map((worker) => html`<${Worker} key=${worker.workerId} worker=${worker} light=${found.light} look=${look} />`)}</div>`
          : html`<${Empty} title=${t("No worker is running")}><p>${t("Jobs wait until one starts:")} <code>dihedral worker</code></p><//>`}</section>
      <${DeadLetters} letters=${found.letters} look=${look} />`}
  </div>`;
}

function Queues({ queues, workers }) {
  const running = (queue) => workers.filter((worker) => worker.plane === queue.plane && worker.pool === queue.pool).reduce((sum, worker) => sum + worker.running.length, 0);
  const slots = (queue) => workers.filter((worker) => worker.plane === queue.plane && worker.pool === queue.pool).reduce((sum, worker) => sum + worker.slots, 0);
  return html`<section class="panel" aria-labelledby="h-queues"><header><h2 id="h-queues">${t("Queues")}</h2></header>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="h-queues"><table><thead><tr><th>${t("Plane")}</th><th>${t("Pool")}</th><th class="n">${t("Queued")}</th><th class="n">${t("Oldest")}</th><th class="n">${t("In flight")}</th><th class="n">${t("Running")}</th><th class="n">${t("Slots")}</th></tr></thead>
    <tbody>${queues.map((queue) => html`<tr key=${queue.plane + queue.pool}><td>${PLANES[queue.plane]}</td><td class="mono">${queue.pool}${queue.paused ? html` <span class="tag waits">${t("paused")}</span>` : ""}</td>
      <td class="n ${queue.depth ? "waits" : ""}">${queue.depth.toLocaleString()}</td><td class="n">${queue.oldestSeconds === null ? html`<span class="muted">–</span>` : span(queue.oldestSeconds * 1000)}</td>
      <td class="n">${queue.pending.toLocaleString()}</td><td class="n">${running(queue).toLocaleString()}</td><td class="n">${slots(queue) || html`<span class="wrong">${t("no worker")}</span>`}</td></tr>`)}</tbody></table></div></section>`;
}

// Light nodes run in the worker itself; only the others take a slot.
function Worker({ worker, light, look }) {
  const may = useMay();
  const turn = async () => {
    await post(`/api/workers/${encodeURIComponent(worker.workerId)}/${worker.draining ? "resume" : "drain"}`);
    say(worker.draining ? t("{worker} takes nodes again", { worker: worker.workerId }) : t("{worker} ends what it runs and takes no more", { worker: worker.workerId }));
    await look();
  };
  const late = Date.now() - Date.parse(worker.lastSeen) > LATE_MS;
  const busy = worker.running.filter((run) => !light.has(run.task)).length;
  const beside = worker.running.length - busy;
  return html`<article class="panel worker" aria-label=${t("Worker {id}", { id: worker.workerId })}>
    <header><h3><${Copyable} text=${worker.workerId} label=${t("Copy the id")} /></h3><span class="tag">${PLANES[worker.plane]} · ${worker.pool}</span>${worker.draining && html`<span class="tag waits">${t("drains")}</span>`}
      ${may("operate") && html`<span class="end"><${Action} class="quiet" aria-label=${worker.draining ? t("Resume {worker}", { worker: worker.workerId }) : t("Drain {worker}", { worker: worker.workerId })} work=${turn}><${Icon} of=${worker.draining ? "play" : "drain"} />${worker.draining ? t("Resume") : t("Drain")}<//></span>`}</header>
    <div class="body">
      <div class="slots" role="img" aria-label=${t("{busy} of {slots} slots run a node", { busy, slots: worker.slots })}>
        ${Array.from({ length: Math.min(worker.slots, 32) }, (_, index) => html`<i key=${index} class=${index < busy ? "busy" : ""}></i>`)}<span class="numbers muted">${t("{busy} of {slots} slots", { busy, slots: worker.slots })}${beside > 0 ? `, ${tn(beside, "{n} light node beside them", "{n} light nodes beside them")}` : ""}</span></div>
      ${worker.running.length > 0 && html`<ul class="running">${worker.running.slice(0, 20).map((run) => html`<li key=${run.jobId + run.nodeId}><${Link} href=${to.job(run.jobId, run.nodeId)}>${run.nodeId}<//>
        <span class="muted">${run.task}</span>${run.waitingFor ? html`<span class="waits">${t("waits: {reason}", { reason: run.waitingFor })}</span>` : html`<span class="muted since"><${Time} at=${run.startedAt} /></span>`}</li>`)}${worker.running.length > 20 && html`<li class="muted">${t("and {n} more", { n: worker.running.length - 20 })}</li>`}</ul>`}
      <dl class="facts">
        ${worker.device && html`<dt>${t("Device")}</dt><dd>${worker.device}</dd>`}
        ${worker.memory.length > 0 && html`<dt>${t("Memory")}</dt><dd>${worker.memory.map((each) => html`<${Memory} key=${each.device} ...${each} />`)}</dd>`}
        <dt>${t("Host")}</dt><dd>${worker.host} <span class="muted">${t("process {pid}", { pid: worker.pid })}</span></dd>
        <dt>${t("Started")}</dt><dd><${Time} at=${worker.startedAt} /></dd>
        <dt>${t("Last seen")}</dt><dd class=${late ? "wrong" : ""}><${Time} at=${worker.lastSeen} /></dd>
        <dt>${t("Version")}</dt><dd>${worker.version}</dd>
      </dl>
      <details class="more"><summary>${tn(worker.tasks.length, "{n} task", "{n} tasks")}</summary><p class="tasks">${worker.tasks.map((task) => html`<span key=${task} class="tag">${task}</span>`)}</p></details>
      <${LastHour} worker=${worker} />
    </div></article>`;
}

// Its slots, memory and utilisation over the last hour, read while they are looked at.
function LastHour({ worker }) {
  const [open, setOpen] = useState(false);
  const samples = useUsage(worker.workerId, open ? undefined : null);
  const minutes = (sample) => Math.round((Date.parse(sample.at) - Date.now()) / 6000) / 10;
  return html`<details class="more" onToggle=${(event) => setOpen(event.target.open)}><summary>${t("The last hour")}</summary>
    ${samples && samples.length < 2 && html`<p class="muted">${t("Nothing was recorded yet.")}</p>`}
    ${samples?.length > 1 && html`<${UsageCurves} samples=${samples} at=${minutes} along=${t("minute")} />`}</details>`;
}

// Without a GPU it is what the slots and their tools hold of the machine's.
function Memory({ device, usedBytes, totalBytes, utilisation }) {
  return html`<div class="memory"><span class="track" aria-hidden="true"><span class="bar" style=${{ transform: `scaleX(${totalBytes ? Math.min(1, usedBytes / totalBytes) : 0})` }}></span></span>
    <span class="numbers">${t("{used} of {total}", { used: memory(usedBytes), total: memory(totalBytes) })}</span> <span class="muted">${device === "cpu" ? t("slots") : device}${utilisation !== undefined ? html`, <span class="numbers">${t("{part} busy", { part: `${Math.round(utilisation * 100)} %` })}</span>` : ""}</span></div>`;
}

const REASONS = { worker_lost: t("its workers died again and again"), undecodable: t("it could not be read") };

function DeadLetters({ letters, look }) {
  const path = (letter) => `/api/dead-letters/${encodeURIComponent(letter.id)}`;
  async function requeue(letter) {
    await post(`${path(letter)}/requeue`);
    say(t("{name} runs again", { name: letter.jobId }));
    await look();
  }
  async function drop(letter) {
    await api(path(letter), { method: "DELETE" });
    await look();
  }
  return html`<section class="panel" aria-labelledby="h-dead"><header><h2 id="h-dead">${t("Failed deliveries")}</h2><span class="muted">${letters.length ? tn(letters.length, "{n} delivery", "{n} deliveries") : ""}</span></header>
    ${!letters.length ? html`<p class="nothing muted">${t("None. A node with which several workers have died would stand here.")}</p>`
      : html`<div class="scroll" tabindex="0" role="region" aria-labelledby="h-dead"><table><thead><tr><th>${t("Job")}</th><th>${t("Node")}</th><th>${t("Why")}</th><th>${t("When")}</th><th><span class="hidden">${t("What to do")}</span></th></tr></thead>
      <tbody>${letters.map((letter) => html`<tr key=${letter.id}><td>${letter.jobId ? html`<${Link} class="mono" href=${to.job(letter.jobId, letter.nodeId)}>${letter.jobId}<//>` : html`<span class="muted">${t("unknown")}</span>`}</td>
        <td class="mono">${letter.nodeId}</td><td>${REASONS[letter.reason] ?? letter.reason}</td><td title=${exact(letter.created)}><${Time} at=${letter.created} /></td>
        <td class="letter-buttons">${letter.jobId && html`<${Action} work=${() => requeue(letter)}>${t("Requeue")}<//>`}<${Action} class="quiet" work=${() => drop(letter)}>${t("Drop")}<//></td></tr>`)}</tbody></table></div>`}</section>`;
}
