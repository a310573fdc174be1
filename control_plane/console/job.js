// A job, alive: what it is doing, why it waits, what it has made, and what went wrong.
import { api, jobPath, post } from "./api.js";
import { adviceFor } from "./advice.js";
import { exact, isAlive, plural } from "./format.js";
import { Graph } from "./graph.js";
import { Curves } from "./curves.js";
import { criticalPath, JobModel } from "./model.js";
import { go, Link, place, to, withQuery } from "./router.js";
import { Timeline } from "./timeline.js";
import { Action, Dialog, Duration, Failure, Icon, Loading, Progress, Rows, say, shortKey, Status, Time, Tree, useWidth } from "./ui.js";
import { html, useEffect, useEvery, useMemo, useSource, useState } from "./view.js";
import { kindOf, Preview } from "./viewers.js";

const LOOK_MS = 2500;
const NARROW = 1040; // below, one column: see style.css
const LARGE = 300;
const LOOK_LARGE_MS = 6000;

export function JobPage({ jobId }) {
  const model = useMemo(() => new JobModel(jobId), [jobId]);
  useSource(model);
  useEffect(() => {
    model.load();
    return () => model.close();
  }, [model]);
  const alive = Boolean(model.job) && isAlive(model.job);
  const pace = model.nodes.size > LARGE ? LOOK_LARGE_MS : LOOK_MS;
  useEvery(alive ? pace : 0, async () => alive && model.look(), [model, alive, pace]);
  if (model.error) return html`<div class="page"><h1 class="hidden">Job ${jobId}</h1><${Failure} error=${model.error} retry=${() => model.load()} />
    <p class="center"><${Link} href=${to.jobs}>All jobs<//></p></div>`;
  if (!model.job) return html`<div class="page"><h1 class="mono">${jobId}</h1><${Loading} rows=${8} /></div>`;
  return html`<${Whole} model=${model} />`;
}

function Whole({ model }) {
  const job = model.job;
  const selected = model.nodes.has(place.query.get("node")) ? place.query.get("node") : null;
  const select = (id) => go(withQuery({ node: id === selected ? null : id }), { replace: true });
  const critical = useMemo(() => criticalPath(model), [model.version]);
  const nodes = [...model.nodes.values()];
  const drawn = useMemo(() => nodes.map((node) => ({
    id: node.id, status: node.status, name: node.definition.name, task: node.definition.task, plane: node.definition.plane, attempt: node.attempt,
    progress: nodes.length === 1 && node.status === "running" ? job.progress : node.progress,
  })), [model.version]);
  const series = [...model.series.values()].filter((each) => each.points.length > 1 && (!selected || each.nodeId === selected));
  const handled = new Set(model.edges.filter((edge) => edge.kind === "on_failure").map((edge) => edge.from));
  const failed = nodes.filter((node) => node.error && node.status === "failed" && !handled.has(node.id));
  const narrow = useWidth() <= NARROW;
  const atWork = nodes.filter((node) => node.preview && (node.status === "running" || (node.status === "completed" && node.output === undefined)));
  const panel = selected && html`<${NodePanel} key=${selected} model=${model} node=${model.nodes.get(selected)} close=${() => select(selected)} />`;
  return html`<div class="page job">
    <${Head} model=${model} />
    ${(failed.length > 0 || job.error) && html`<${Errors} job=${job} failed=${failed} select=${select} />`}
    <div class="split">
      <div class="stack wide">
        <section class="panel" aria-labelledby="h-graph"><header><h2 id="h-graph">Graph</h2><${Counts} nodes=${nodes} /></header>
          <${Graph} nodes=${drawn} edges=${model.edges} critical=${critical} selected=${selected} select=${select} label="Graph of ${plural(nodes.length, "node")}" /></section>
        ${narrow && panel}
        ${narrow && html`<${Previews} nodes=${atWork} />`}
        ${narrow && !isAlive(job) && html`<${Results} job=${job} />`}
        <section class="panel" aria-labelledby="h-time"><header><h2 id="h-time">Timeline</h2></header><div class="body">
          ${model.events ? html`<${Timeline} model=${model} critical=${critical} selected=${selected} select=${select} />` : html`<${Loading} rows=${3} />`}</div></section>
        ${series.length > 0 && html`<section class="panel" aria-labelledby="h-curves"><header><h2 id="h-curves">Curves</h2></header><div class="body"><${Curves} series=${series.slice(0, 24)} /></div></section>`}
        ${model.events && html`<${Log} model=${model} selected=${selected} />`}
      </div>
      <div class="stack aside">
        ${!narrow && panel}
        ${!narrow && html`<${Previews} nodes=${atWork} />`}
        ${!(narrow && !isAlive(job)) && html`<${Results} job=${job} />`}
        <${About} model=${model} />
      </div>
    </div>
  </div>`;
}

// The head: status and what can be done ------------------------------------------------------------------------------------

function Head({ model }) {
  const job = model.job;
  const [dialog, setDialog] = useState(null);
  const alive = isAlive(job);
  const act = async (what, body) => {
    model.job = { ...model.job, ...(await post(`${jobPath(job.jobId)}/${what}`, body)) };
    await model.load();
  };
  const drop = async () => {
    await api(jobPath(job.jobId), { method: "DELETE" });
    say(`${job.jobId} is forgotten`);
    go(to.jobs);
  };
  return html`<div class="job-head">
    <div class="title"><h1 class="mono id">${job.jobId}</h1><${Link} class="tag" href=${job.pipeline ? `${to.jobs}?pipeline=${encodeURIComponent(job.pipeline)}` : to.jobs}>${job.pipeline ?? "graph"}<//>
      <div class="end">
        ${alive && html`<${Action} disabled=${job.status === "cancelling"} work=${() => act("cancel")}>Cancel<//>`}
        ${(job.status === "failed" || job.status === "cancelled") && html`<${Action} class="primary" work=${() => act("retry")}>Retry<//>
          <${Action} work=${() => act("retry", { from: "start" })}>Retry from the start<//>`}
        <${Link} class="button" href="${to.new}?from=${encodeURIComponent(job.jobId)}">Run again with changes<//>
        ${!alive && html`<button type="button" class="quiet" onClick=${() => setDialog("drop")}>Delete job</button>`}
      </div></div>
    <div class="job-state">
      <${Status} status=${job.status} />
      <${Progress} value=${job.progress} status=${job.status} label="Progress of the job" />
      <span class="muted">created <${Time} at=${job.created} /></span>
      <span class="muted">${job.started ? html`${job.finished ? "duration" : "runs for"} <${Duration} from=${job.started} to=${job.finished} />` : html`queued for <${Duration} from=${job.created} to=${job.finished} />`}</span>
      ${job.attempt > 1 && html`<span class="muted">attempt ${job.attempt}</span>`}
    </div>
    ${job.waitingFor && html`<p class="waiting"><strong>Waits for ${WAITS[job.waitingFor.type]}:</strong> ${job.waitingFor.message}${job.waitingFor.type === "worker" || job.waitingFor.type === "slot" ? html` · <${Link} href=${to.workers}>workers and queues<//>` : ""}</p>`}
    ${dialog === "drop" && html`<${Dialog} title="Delete this job?" close=${() => setDialog(null)}><p>Its record and log go; its files stay under Artifacts.</p>
      <div class="buttons"><button type="button" onClick=${() => setDialog(null)}>Keep it</button><${Action} class="danger" work=${drop}>Delete job<//></div><//>`}
  </div>`;
}

const WAITS = { worker: "a worker", slot: "a free slot", memory: "memory", start_time: "its time", retry: "its next try", service: "a server" };

function Counts({ nodes }) {
  const counts = new Map();
  for (const node of nodes) counts.set(node.status, (counts.get(node.status) ?? 0) + 1);
  return html`<span class="end counts">${[...counts].map(([status, count]) => html`<${Status} key=${status} status=${status}>${count.toLocaleString()} ${status}<//>`)}</span>`;
}

// What went wrong ----------------------------------------------------------------------------------------------------------

function Errors({ job, failed, select }) {
  const shown = failed.slice(0, 5);
  return html`<section class="errors" aria-label="What went wrong">
    ${shown.map((node) => html`<${Wrong} key=${node.id} error=${node.error} at=${html`<button type="button" class="quiet" onClick=${() => select(node.id)}>${node.definition.name || node.id}</button>`} />`)}
    ${failed.length > shown.length && html`<p>${plural(failed.length - shown.length, "more node")} failed.</p>`}
    ${!failed.length && job.error && html`<${Wrong} error=${job.error} at=${job.error.nodeId} />`}
  </section>`;
}

function Wrong({ error, at }) {
  const { traceback, stderr, ...details } = error.details ?? {};
  const long = Object.entries({ traceback, stderr }).filter(([, text]) => text);
  return html`<div class="wrong-one">
    <p><code class="code">${error.code}</code> ${at} <span class="wrong-text">${error.message}</span></p>
    <p class="advice">${adviceFor(error.code)}</p>
    ${long.map(([name, text]) => html`<details key=${name}><summary>${name === "stderr" ? "End of its stderr" : "Traceback"}</summary><pre>${typeof text === "string" ? text : JSON.stringify(text, null, 2)}</pre></details>`)}
    ${Object.keys(details).length > 0 && html`<${Tree} value=${details} />`}
  </div>`;
}

// The panels beside --------------------------------------------------------------------------------------------------------

function NodePanel({ model, node, close }) {
  const definition = node.definition;
  return html`<section class="panel" aria-label="Node ${node.id}">
    <header><h2>${definition.name || node.id}</h2><${Status} status=${node.status} />
      <span class="end"><button type="button" class="quiet icon-only" aria-label="Close" onClick=${close}><${Icon} of="close" /></button></span></header>
    <div class="body">
      <dl class="facts">
        <dt>Task</dt><dd>${definition.task} <span class="muted">on the ${definition.plane === "node" ? "control" : "data"} plane</span></dd>
        ${definition.name && html`<dt>Id</dt><dd class="mono">${node.id}</dd>`}
        <dt>Attempt</dt><dd>${node.attempt || "–"} of ${definition.retries.maxAttempts}</dd>
        ${node.worker && html`<dt>Worker</dt><dd class="mono">${node.worker}</dd>`}
        ${node.started && html`<dt>Started</dt><dd><${Time} at=${node.started} /></dd><dt>Ran</dt><dd><${Duration} from=${node.started} to=${node.finished} /></dd>`}
        ${node.reason && html`<dt>Reason</dt><dd>${REASONS[node.reason] ?? node.reason}</dd>`}
        ${definition.timeoutSeconds && html`<dt>Time-out</dt><dd>${definition.timeoutSeconds} s</dd>`}
      </dl>
      ${node.error && html`<${Wrong} error=${node.error} at="" />`}
      <h3>Input</h3><${Tree} value=${{ ...(definition.input ?? {}), ...definition.params }} />
      <h3>Output</h3>${node.output === undefined ? html`<p class="muted">${isAlive(model.job) ? "None yet." : "None."}</p>` : html`<${Tree} value=${node.output} />`}
    </div></section>`;
}

const REASONS = { broken: "a node before it failed", not_taken: "the path to it was not taken", retry: "it is tried again", worker: "no worker knows its task" };
const ORDER = ["video", "image", "audio", "tensors", "text", "other"];

function Results({ job }) {
  const sorted = [...job.artifacts].sort((a, b) => ORDER.indexOf(kindOf(a)) - ORDER.indexOf(kindOf(b)));
  const best = sorted.filter((each) => kindOf(each) === kindOf(sorted[0])).at(-1); // the last one made: a film, not what it was made from
  if (!best) return null;
  return html`<section class="panel" aria-labelledby="h-results"><header><h2 id="h-results">Results</h2><span class="muted">${plural(sorted.length, "file")}</span></header>
    <div class="body">
      ${["video", "image", "audio"].includes(kindOf(best)) && html`<${Preview} key=${best.key} meta=${best} />`}
      <ul class="files">${sorted.slice(0, 50).map((meta) => html`<li key=${meta.key}><${Icon} of="file" /><${Link} href=${to.artifact(meta)}>${shortKey(meta.key)}<//><span class="muted">${meta.node_id}</span></li>`)}</ul>
      ${sorted.length > 50 && html`<${Link} href="${to.artifacts}?jobId=${encodeURIComponent(job.jobId)}">All ${sorted.length} files<//>`}
    </div></section>`;
}

// What nodes at work look like; until a result can be read that takes its place.
function Previews({ nodes }) {
  if (!nodes.length) return null;
  return html`<section class="panel" aria-labelledby="h-previews"><header><h2 id="h-previews">So far</h2></header>
    <div class="body">${nodes.slice(0, 6).map((node) => html`<${LivePicture} key=${node.id} name=${node.definition.name || node.id} preview=${node.preview} />`)}</div></section>`;
}

// The picture before stays until the next one is there; what comes while one is on its way is left out, so that a slow line shows some.
function LivePicture({ name, preview }) {
  const [{ shown, coming }, set] = useState({ shown: null, coming: preview });
  useEffect(() => {
    if (!coming && preview.seq > shown.seq) set({ shown, coming: preview });
  }, [coming, preview]);
  const told = (loaded) => set({ shown: loaded ? coming : { ...shown, seq: coming.seq }, coming: null });
  const frame = Number.isInteger(shown?.frame) ? `, frame ${shown.frame}` : "";
  return html`<figure class="media live">
    ${shown?.url && html`<img key=${shown.url} src=${shown.url} alt="Preview of ${name}${frame}" />`}
    ${coming && html`<img key=${coming.url} src=${coming.url} class="coming" alt="" onLoad=${() => told(true)} onError=${() => told(false)} />`}
    ${shown?.url && html`<figcaption class="muted">${name}<span class="numbers">${frame}</span></figcaption>`}</figure>`;
}

function About({ model }) {
  const { job, graph } = model;
  return html`<section class="panel" aria-labelledby="h-about"><header><h2 id="h-about">About</h2></header><div class="body">
    <dl class="facts">
      <dt>Created</dt><dd>${exact(job.created)}</dd>
      ${job.startAt && html`<dt>Starts at</dt><dd>${exact(job.startAt)}</dd>`}
      ${job.started && html`<dt>Started</dt><dd>${exact(job.started)}</dd>`}
      ${job.finished && html`<dt>Ended</dt><dd>${exact(job.finished)}</dd>`}
      <dt>Attempt</dt><dd>${job.attempt}</dd>
      <dt>Nodes</dt><dd>${graph.nodes.length.toLocaleString()}, ${plural(graph.edges.length, "edge")}</dd>
    </dl>
    ${Object.keys(graph.metadata).length > 0 && html`<h3>Metadata</h3><${Tree} value=${graph.metadata} />`}
    ${Object.keys(graph.context).length > 0 && html`<h3>Context</h3><${Tree} value=${graph.context} />`}
  </div></section>`;
}

// The log ------------------------------------------------------------------------------------------------------------------

const KINDS = ["status", "node", "data", "log"];
const ROW = 26;

function Log({ model, selected }) {
  const [kinds, setKinds] = useState(new Set(KINDS));
  const [picked, setPicked] = useState(null);
  const events = model.events.filter((event) => kinds.has(event.type) && (!selected || !event.nodeId || event.nodeId === selected));
  const toggle = (kind) => {
    const next = new Set(kinds);
    if (!next.delete(kind)) next.add(kind);
    setKinds(next);
  };
  const first = model.events[0]?.seq ?? 1;
  return html`<section class="panel" aria-labelledby="h-log"><header><h2 id="h-log">Events</h2><span class="muted numbers">${events.length.toLocaleString()}</span>
      <span class="end chips" role="group" aria-label="Kinds">${KINDS.map((kind) => html`<button key=${kind} type="button" class="chip" aria-pressed=${kinds.has(kind)} onClick=${() => toggle(kind)}>${kind}</button>`)}</span></header>
    ${first > 1 && html`<p class="trimmed muted">The log keeps the newest events; ${plural(first - 1, "older one")} gone.</p>`}
    <div class="log" style=${{ height: `${Math.min(Math.max(events.length, 3), 14) * ROW + 8}px` }}>
      <${Rows} count=${events.length} height=${ROW} follow=${true} role="log" label="Events of the job" row=${(index) => html`<${LogRow} key=${events[index].seq} event=${events[index]} picked=${picked === events[index].seq} pick=${setPicked} />`} />
    </div>
    ${picked !== null && html`<${Picked} event=${model.events.find((event) => event.seq === picked)} close=${() => setPicked(null)} />`}
  </section>`;
}

function LogRow({ event, picked, pick }) {
  return html`<button type="button" class="log-row e-${event.type} ${event.level ? `l-${event.level}` : ""}" aria-pressed=${picked} title=${exact(event.created)} onClick=${() => pick(picked ? null : event.seq)}>
    <span class="log-time">${event.created.slice(11, 23)}</span><span class="log-node">${event.nodeId ?? "job"}</span><span class="log-text">${sentence(event)}</span></button>`;
}

function sentence(event) {
  if (event.type === "status") return event.error ? `${event.status}: ${event.error.message}` : event.status + (event.attempt > 1 ? ` (attempt ${event.attempt})` : "");
  if (event.type === "node") return event.error ? `${event.status}: ${event.error.code}: ${event.error.message}` : event.status + (event.worker ? ` on ${event.worker}` : "") + (event.reason ? ` (${event.reason})` : "");
  if (event.type === "data") return `${event.name} ${JSON.stringify(event.data)}`;
  return event.message;
}

function Picked({ event, close }) {
  if (!event) return null;
  return html`<div class="picked"><div><span class="muted">event ${event.seq}, ${exact(event.created)}</span>
      <button type="button" class="quiet icon-only" aria-label="Close" onClick=${close}><${Icon} of="close" /></button></div>
    <pre>${event.type === "log" ? event.message : JSON.stringify(event, null, 2)}</pre></div>`;
}
