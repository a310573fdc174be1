// Who works, what waits, and what was given up.
import { api, get, post } from "./api.js";
import { exact, plural, size, span } from "./format.js";
import { Link, to } from "./router.js";
import { Action, Empty, Failure, Loading, say, Time } from "./ui.js";
import { html, useEvery, useState } from "./view.js";

const LOOK_MS = 2000;
const PLANES = { node: "Control plane", python: "Data plane" };
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
    <div class="title"><h1>Workers and queues</h1></div>
    ${error && !found ? html`<${Failure} error=${error} retry=${() => look().catch(() => {})} />` : !found ? html`<${Loading} />` : html`
      <${Queues} queues=${found.queues} workers=${found.workers} />
      <section class="stack" aria-labelledby="h-workers"><h2 id="h-workers">${plural(found.workers.length, "worker")}</h2>
        ${found.workers.length ? html`<div class="cards">${found.workers.map((worker) => html`<${Worker} key=${worker.workerId} worker=${worker} light=${found.light} />`)}</div>`
          : html`<${Empty} title="No worker lives"><p>Jobs wait until one starts: <code>dihedral worker</code></p><//>`}</section>
      <${DeadLetters} letters=${found.letters} look=${look} />`}
  </div>`;
}

function Queues({ queues, workers }) {
  const running = (queue) => workers.filter((worker) => worker.plane === queue.plane && worker.pool === queue.pool).reduce((sum, worker) => sum + worker.running.length, 0);
  const slots = (queue) => workers.filter((worker) => worker.plane === queue.plane && worker.pool === queue.pool).reduce((sum, worker) => sum + worker.slots, 0);
  return html`<section class="panel" aria-labelledby="h-queues"><header><h2 id="h-queues">Queues</h2></header>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="h-queues"><table><thead><tr><th>Plane</th><th>Pool</th><th class="n">Queued</th><th class="n">Oldest</th><th class="n">In flight</th><th class="n">Running</th><th class="n">Slots</th></tr></thead>
    <tbody>${queues.map((queue) => html`<tr key=${queue.plane + queue.pool}><td>${PLANES[queue.plane]}</td><td class="mono">${queue.pool}</td>
      <td class="n ${queue.depth ? "waits" : ""}">${queue.depth.toLocaleString()}</td><td class="n">${queue.oldestSeconds === null ? html`<span class="muted">–</span>` : span(queue.oldestSeconds * 1000)}</td>
      <td class="n">${queue.pending.toLocaleString()}</td><td class="n">${running(queue).toLocaleString()}</td><td class="n">${slots(queue) || html`<span class="wrong">no worker</span>`}</td></tr>`)}</tbody></table></div></section>`;
}

// Light nodes run in the worker itself; only the others take a slot.
function Worker({ worker, light }) {
  const late = Date.now() - Date.parse(worker.lastSeen) > LATE_MS;
  const busy = worker.running.filter((run) => !light.has(run.task)).length;
  const beside = worker.running.length - busy;
  return html`<article class="panel worker" aria-label="Worker ${worker.workerId}">
    <header><h3 class="mono">${worker.workerId}</h3><span class="tag">${PLANES[worker.plane]} · ${worker.pool}</span></header>
    <div class="body">
      <div class="slots" role="img" aria-label="${plural(busy, "node")} running, ${plural(worker.slots, "slot")}">
        ${Array.from({ length: Math.min(worker.slots, 32) }, (_, index) => html`<i key=${index} class=${index < busy ? "busy" : ""}></i>`)}<span class="numbers muted">${busy} of ${plural(worker.slots, "slot")}${beside > 0 ? `, ${plural(beside, "light node")} beside them` : ""}</span></div>
      ${worker.running.length > 0 && html`<ul class="running">${worker.running.slice(0, 20).map((run) => html`<li key=${run.jobId + run.nodeId}><${Link} href=${to.job(run.jobId, run.nodeId)}>${run.nodeId}<//>
        <span class="muted">${run.task}</span>${run.waitingFor ? html`<span class="waits">waits: ${run.waitingFor}</span>` : html`<span class="muted since"><${Time} at=${run.startedAt} /></span>`}</li>`)}${worker.running.length > 20 && html`<li class="muted">and ${worker.running.length - 20} more</li>`}</ul>`}
      <dl class="facts">
        ${worker.device && html`<dt>Device</dt><dd>${worker.device}</dd>`}
        ${worker.memory.length > 0 && html`<dt>Memory</dt><dd>${worker.memory.map((each) => html`<${Memory} key=${each.device} ...${each} />`)}</dd>`}
        <dt>Host</dt><dd>${worker.host} <span class="muted">process ${worker.pid}</span></dd>
        <dt>Started</dt><dd><${Time} at=${worker.startedAt} /></dd>
        <dt>Last seen</dt><dd class=${late ? "wrong" : ""}><${Time} at=${worker.lastSeen} /></dd>
        <dt>Version</dt><dd>${worker.version}</dd>
      </dl>
      <details class="more"><summary>${plural(worker.tasks.length, "task")}</summary><p class="tasks">${worker.tasks.map((task) => html`<span key=${task} class="tag">${task}</span>`)}</p></details>
    </div></article>`;
}

// Without a GPU it is what the slots hold of the machine's.
function Memory({ device, usedBytes, totalBytes }) {
  return html`<div class="memory"><span class="track" aria-hidden="true"><span class="bar" style=${{ transform: `scaleX(${totalBytes ? Math.min(1, usedBytes / totalBytes) : 0})` }}></span></span>
    <span class="numbers">${size(usedBytes)} of ${size(totalBytes)}</span> <span class="muted">${device === "cpu" ? "slots" : device}</span></div>`;
}

const REASONS = { worker_lost: "its workers died again and again", undecodable: "it could not be read" };

function DeadLetters({ letters, look }) {
  const path = (letter) => `/api/dead-letters/${encodeURIComponent(letter.id)}`;
  async function requeue(letter) {
    await post(`${path(letter)}/requeue`);
    say(`${letter.jobId} runs again`);
    await look();
  }
  async function drop(letter) {
    await api(path(letter), { method: "DELETE" });
    await look();
  }
  return html`<section class="panel" aria-labelledby="h-dead"><header><h2 id="h-dead">Dead letters</h2><span class="muted">${letters.length ? plural(letters.length, "letter") : ""}</span></header>
    ${!letters.length ? html`<p class="nothing muted">None. What is given up after several workers died with it would stand here.</p>`
      : html`<div class="scroll" tabindex="0" role="region" aria-labelledby="h-dead"><table><thead><tr><th>Job</th><th>Node</th><th>Why</th><th>When</th><th><span class="hidden">What to do</span></th></tr></thead>
      <tbody>${letters.map((letter) => html`<tr key=${letter.id}><td>${letter.jobId ? html`<${Link} class="mono" href=${to.job(letter.jobId, letter.nodeId)}>${letter.jobId}<//>` : html`<span class="muted">unknown</span>`}</td>
        <td class="mono">${letter.nodeId}</td><td>${REASONS[letter.reason] ?? letter.reason}</td><td title=${exact(letter.created)}><${Time} at=${letter.created} /></td>
        <td class="letter-buttons">${letter.jobId && html`<${Action} work=${() => requeue(letter)}>Requeue<//>`}<${Action} class="quiet" work=${() => drop(letter)}>Drop<//></td></tr>`)}</tbody></table></div>`}</section>`;
}
