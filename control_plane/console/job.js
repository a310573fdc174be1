// A job: what it has made first, then what it was given, then how it ran; while it runs, what it is doing and what it waits for.
import { api, jobPath, patch, post } from "./api.js";
import { Curves } from "./curves.js";
import { Errors, Wrong } from "./errors.js";
import { between, exact, isAlive, local, nameOf, nodes as countNodes, STATUS } from "./format.js";
import { Graph } from "./graph.js";
import { Log } from "./job_log.js";
import { t, tn } from "./messages.js";
import { criticalPath, JobModel } from "./model.js";
import { canNotify, showInTab, toggleNotifications, wish } from "./notify.js";
import { Output } from "./outputs.js";
import { Parameters } from "./parameters.js";
import { tagsOf } from "./run.js";
import { Results } from "./results.js";
import { go, Link, place, to, withQuery } from "./router.js";
import { Timeline } from "./timeline.js";
import { Action, attempt, Copy, Copyable, Countdown, Dialog, Duration, Failure, Icon, Loading, Progress, said, say, Status, Time, Tree, useMay, useWidth } from "./ui.js";
import { Machines } from "./usage.js";
import { html, useEffect, useEvery, useMemo, useSource, useState } from "./view.js";

const LOOK_MS = 2500;
const NARROW = 1040; // below, one column: see style.css
const LARGE = 300;
const LOOK_LARGE_MS = 6000;
const CAN_FINISH = new Set(["train_lora", "train_diffusion_lora", "run_tool", "simulate", "simulate_gpu"]); // shipped tasks that end early with what they have

export function JobPage({ jobId }) {
  const model = useMemo(() => new JobModel(jobId), [jobId]);
  useSource(model);
  useEffect(() => {
    model.load();
    return () => (model.close(), showInTab(null));
  }, [model]);
  const alive = Boolean(model.job) && isAlive(model.job);
  const pace = model.nodes.size > LARGE ? LOOK_LARGE_MS : LOOK_MS;
  useEvery(alive ? pace : 0, async () => alive && model.look(), [model, alive, pace]);
  useEffect(() => model.job && showInTab(model.job));
  if (model.error) return html`<div class="page"><h1 class="hidden">${t("Job {id}", { id: jobId })}</h1><${Failure} error=${model.error} retry=${() => model.load()} />
    <p class="center"><${Link} href=${to.jobs}>${t("All jobs")}<//></p></div>`;
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
  const atWork = nodes.filter((node) => node.preview && (node.status === "running" || (node.status === "completed" && node.output === undefined)));
  const remedies = remediesOf(model);
  const ended = !isAlive(job);
  const alone = nodes.length === 1;
  const retried = alone && nodes[0].runs.length > 1;
  const narrow = useWidth() <= NARROW;
  const parents = new Set(model.edges.map((edge) => edge.from));
  const outputs = useMemo(() => nodes.filter((node) => node.output !== undefined && !parents.has(node.id)).map((node) => ({ node, value: node.output })), [model.version]);
  const results = (ended || job.artifacts.length > 0) && html`<${Results} job=${job} outputs=${ended ? outputs : []} />`;
  const panel = (selected || (alone && nodes[0])) && html`<${NodePanel} key=${selected ?? "alone"} model=${model} node=${selected ? model.nodes.get(selected) : nodes[0]} close=${selected && !alone ? () => select(selected) : null} />`;
  const how = html`
    ${!alone && html`<section class="panel" aria-labelledby="h-graph"><header><h2 id="h-graph">${t("Graph")}</h2><${Counts} nodes=${nodes} /></header>
      <${Graph} nodes=${drawn} edges=${model.edges} critical=${critical} selected=${selected} select=${select} label=${t("Graph of {nodes}", { nodes: countNodes(nodes.length) })} /></section>`}
    ${narrow && panel}
    ${(!alone || retried) && html`<section class="panel" aria-labelledby="h-time"><header><h2 id="h-time">${t("Timeline")}</h2></header><div class="body">
      ${model.events ? html`<${Timeline} model=${model} critical=${critical} selected=${selected} select=${select} />` : html`<${Loading} rows=${3} />`}</div></section>`}`;
  return html`<div class="page job">
    <${Head} model=${model} remedies=${remedies} />
    ${(failed.length > 0 || job.error) && html`<${Errors} job=${job} failed=${failed} select=${select} remedies=${remedies} />`}
    ${ended && results}
    ${atWork.length > 0 && html`<${Previews} nodes=${atWork} />`}
    <div class="split">
      <div class="stack wide">
        ${narrow && ended && html`<${Parameters} job=${job} />`}
        ${how}
        ${!ended && results}
        ${series.length > 0 && html`<section class="panel" aria-labelledby="h-curves"><header><h2 id="h-curves">${t("Curves")}</h2></header><div class="body"><${Curves} series=${series.slice(0, 24)} /></div></section>`}
        <${Machines} model=${model} />
        ${model.events && html`<${Log} model=${model} selected=${selected} />`}
      </div>
      <div class="stack aside">
        ${!(narrow && ended) && html`<${Parameters} job=${job} />`}
        ${!narrow && panel}
        <${About} model=${model} />
      </div>
    </div>
  </div>`;
}

const again = (job) => `${to.new}?from=${encodeURIComponent(job.jobId)}`;

function remediesOf(model) {
  const retry = async (body) => {
    model.job = { ...model.job, ...(await post(`${jobPath(model.jobId)}/retry`, body)) };
    await model.load();
  };
  return { change: again(model.job), retry: () => retry(), restart: () => retry({ from: "start" }) };
}

// The head: what it is called, how far it is, and what can be done -----------------------------------------------------------

function Head({ model, remedies }) {
  const job = model.job;
  const [dialog, setDialog] = useState(null);
  const may = useMay();
  const alive = isAlive(job);
  const cancel = async () => {
    model.job = { ...model.job, ...(await post(`${jobPath(job.jobId)}/cancel`)) };
    await model.load();
  };
  const drop = async () => {
    await api(jobPath(job.jobId), { method: "DELETE" });
    say(t("{name} is deleted", { name: nameOf(job) }));
    go(to.jobs);
  };
  const what = job.pipeline ?? job.task;
  const failed = job.status === "failed";
  const hasErrors = failed && (job.error || [...model.nodes.values()].some((node) => node.status === "failed"));
  return html`<div class="job-head">
    <div class="title"><h1 class=${job.name ? "" : "mono id"}>${nameOf(job)}</h1>${!job.name && html`<${Copy} text=${job.jobId} label=${t("Copy the id")} />`}
      ${may("submit") && html`<button type="button" class="quiet icon-only" aria-label=${t("Edit name, tags and priority")} title=${t("Edit name, tags and priority")} onClick=${() => setDialog("edit")}><${Icon} of="tag" /></button>`}
      <div class="end">
        ${alive && may("cancel") && [...model.nodes.values()].filter((node) => node.status === "running" && CAN_FINISH.has(node.definition.task)).slice(0, 1).map((node) => html`<${FinishNow} key=${node.id} model=${model} node=${node} />`)}
        ${alive && may("cancel") && html`<${Action} disabled=${job.status === "cancelling"} work=${cancel}>${t("Cancel")}<//>`}
        ${job.status === "cancelled" && may("cancel") && html`<${Action} class="primary" work=${remedies.retry}><${Icon} of="again" />${t("Retry")}<//>`}
        ${failed && !hasErrors && may("cancel") && html`<${Action} work=${remedies.retry}>${t("Retry")}<//>`}
        ${may("submit") && html`<${Link} class="button ${job.status === "completed" ? "primary" : ""}" href=${again(job)}><${Icon} of="edit" />${t("Run again")}<//>`}
        ${alive && html`<${Notify} />`}
        ${!alive && may("cancel") && html`<button type="button" class="quiet" onClick=${() => setDialog("drop")}>${t("Delete job")}</button>`}
      </div></div>
    <p class="job-line">${job.name && html`<${Copyable} text=${job.jobId} shown=${job.jobId.slice(0, 12)} label=${t("Copy the id")} />`}
      <${Link} class="tag" href=${what ? `${to.jobs}?pipeline=${encodeURIComponent(what)}` : to.jobs}>${what ?? t("graph")}<//>
      ${(job.tags ?? []).map((tag) => html`<${Link} key=${tag} class="tag plain" href="${to.jobs}?tag=${encodeURIComponent(tag)}"><${Icon} of="tag" />${tag}<//>`)}
      ${job.rerunOf && html`<span class="muted">${t("rerun of")} <${Link} href=${to.job(job.rerunOf)}>${job.rerunOf.slice(0, 12)}<//></span>`}</p>
    <div class="job-state">
      <${Status} status=${job.status} />
      ${alive && html`<${Progress} value=${job.progress} status=${job.status} label=${t("Progress of the job")} />`}
      <span class="muted">${t("created")} <${Time} at=${job.created} /></span>
      <span class="muted">${job.started ? html`${job.finished ? t("duration") : t("runs for")} <${Duration} from=${job.started} to=${job.finished} />` : html`${t("queued for")} <${Duration} from=${job.created} to=${job.finished} />`}</span>
      ${alive && job.startsIn && html`<span class="muted">${t("starts in about {range}", { range: between(job.startsIn) })}</span>`}
      ${alive && job.estimate && html`<span class="muted">${job.started ? t("about {range} left", { range: between(job.estimate) }) : t("takes about {range}", { range: between(job.estimate) })}</span>`}
      ${job.attempt > 1 && html`<span class="muted">${t("attempt {n}", { n: job.attempt })}</span>`}
    </div>
    ${job.waitingFor && html`<${Waits} job=${job} />`}
    ${dialog === "edit" && html`<${Edit} job=${job} close=${() => setDialog(null)} done=${(changed) => ((model.job = { ...model.job, ...changed }), model.tell(), setDialog(null))} />`}
    ${dialog === "drop" && html`<${Dialog} title=${t("Delete this job?")} close=${() => setDialog(null)}><p>${t("Its record and log go; its files stay under Artifacts.")}</p>
      <div class="buttons"><button type="button" onClick=${() => setDialog(null)}>${t("Keep it")}</button><${Action} class="danger" work=${drop}>${t("Delete job")}<//></div><//>`}
  </div>`;
}

const PRIORITIES = [["high", t("high")], ["normal", t("normal")], ["low", t("low")]];

// What may be changed afterwards: how it is called and, while it lives, how urgent it is.
function Edit({ job, close, done }) {
  const [wrong, setWrong] = useState("");
  const save = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const name = form.get("name").trim();
    const changed = { ...(name === (job.name ?? "") ? {} : { name: name || null }), tags: tagsOf(form.get("tags")), ...(isAlive(job) && form.get("priority") !== job.priority ? { priority: form.get("priority") } : {}) };
    try {
      done(await patch(jobPath(job.jobId), changed));
    } catch (error) {
      setWrong(error.errors?.map((each) => each.detail).join(" ") || said(error));
    }
  };
  return html`<${Dialog} title=${t("Edit name, tags and priority")} close=${close}><form class="stack" onSubmit=${save}>
    <label class="field"><span>${t("Name")}</span><input name="name" type="text" maxlength="200" autofocus value=${job.name ?? ""} placeholder=${t("From the prompt or the file")} autocomplete="off" /></label>
    <label class="field"><span>${t("Tags")}</span><input name="tags" type="text" value=${(job.tags ?? []).join(", ")} placeholder=${t("Separated by commas")} autocomplete="off" /></label>
    ${isAlive(job) && html`<label class="field"><span>${t("Priority")}</span><select name="priority">${PRIORITIES.map(([each, label]) => html`<option key=${each} value=${each} selected=${each === job.priority}>${label}</option>`)}</select></label>`}
    <p class="wrong" role="alert">${wrong}</p>
    <div class="buttons"><button type="button" onClick=${close}>${t("Leave it")}</button><button class="primary">${t("Save")}</button></div></form><//>`;
}

const WAITS = { worker: t("a worker"), slot: t("a free slot"), memory: t("memory"), start_time: t("its start time"), paused: t("its pool to be resumed"), retry: t("its next attempt"), service: t("a server") };

function Waits({ job }) {
  const kind = job.waitingFor.type;
  const start = kind === "start_time" && job.startAt;
  return html`<p class="waiting"><${Icon} of="clock" /><span><strong>${t("Waits for {what}:", { what: WAITS[kind] ?? kind })}</strong> ${start ? html`${t("starts {time}, in", { time: local(job.startAt) })} <${Countdown} to=${job.startAt} />` : html`${job.waitingFor.position ? html`${t("place {n} in the queue", { n: job.waitingFor.position })} · ` : ""}${job.waitingFor.message}`}${["worker", "slot", "paused"].includes(kind) ? html` · <${Link} href=${to.queue}>${t("the queue")}<//>` : ""}</span></p>`;
}

function FinishNow({ model, node, label = t("Finish now") }) {
  const finish = async () => {
    await post(`${jobPath(model.jobId)}/nodes/${encodeURIComponent(node.id)}/finish`);
    say(t("{node} ends with the best it has", { node: node.definition.name || node.id }));
  };
  return html`<${Action} class="finish" title=${t("Ends now with the best result so far; a cancel would throw it away")} work=${finish}><${Icon} of="flag" />${label}<//>`;
}

function Notify() {
  useSource(wish);
  if (!canNotify()) return null;
  const press = () => attempt(async () => (await toggleNotifications()) || say(t("This browser does not allow notifications from this page."), "wrong"));
  return html`<button type="button" class="quiet icon-only" aria-pressed=${wish.on} aria-label=${t("Notify me when jobs end")} title=${t("Notify me when jobs end")} onClick=${press}><${Icon} of=${wish.on ? "bell" : "bell-off"} /></button>`;
}

function Counts({ nodes }) {
  const counts = new Map();
  for (const node of nodes) counts.set(node.status, (counts.get(node.status) ?? 0) + 1);
  return html`<span class="end counts">${[...counts].map(([status, count]) => html`<${Status} key=${status} status=${status}>${count.toLocaleString()} ${STATUS[status] ?? status}<//>`)}</span>`;
}

// The panels beside --------------------------------------------------------------------------------------------------------

function NodePanel({ model, node, close }) {
  const definition = node.definition;
  const retried = node.runs.length > 1;
  return html`<section class="panel" aria-label=${t("Node {id}", { id: node.id })}>
    <header><h2>${definition.name || node.id}</h2><${Status} status=${node.status} />
      ${close && html`<span class="end"><button type="button" class="quiet icon-only" aria-label=${t("Close")} onClick=${close}><${Icon} of="close" /></button></span>`}</header>
    <div class="body">
      <dl class="facts">
        <dt>${t("Task")}</dt><dd>${definition.task} <span class="muted">${definition.plane === "node" ? t("on the control plane") : t("on the data plane")}</span></dd>
        ${definition.name && html`<dt>${t("Id")}</dt><dd class="mono">${node.id}</dd>`}
        ${(retried || node.attempt > 1) && html`<dt>${t("Attempt")}</dt><dd>${t("{n} of {most}", { n: node.attempt, most: definition.retries.maxAttempts })}${retried ? `, ${tn(node.runs.length, "{n} run", "{n} runs")}` : ""}</dd>`}
        ${node.worker && html`<dt>${t("Worker")}</dt><dd><${Copyable} text=${node.worker} /></dd>`}
        ${node.started && html`<dt>${t("Started")}</dt><dd><${Time} at=${node.started} /></dd><dt>${t("Duration")}</dt><dd><${Duration} from=${node.started} to=${node.finished} /></dd>`}
        ${node.status === "running" && node.definition.telemetry?.estimate && html`<dt>${t("Left")}</dt><dd>${t("about {range}", { range: between(node.definition.telemetry.estimate) })}</dd>`}
        ${node.reason && html`<dt>${t("Reason")}</dt><dd>${REASONS[node.reason] ?? node.reason}</dd>`}
        ${definition.timeoutSeconds && html`<dt>${t("Time-out")}</dt><dd>${t("{n} s", { n: definition.timeoutSeconds })}</dd>`}
      </dl>
      ${node.status === "running" && !CAN_FINISH.has(definition.task) && html`<p><${FinishNow} model=${model} node=${node} /></p>`}
      ${node.error && html`<${Wrong} error=${node.error} at="" />`}
      <h3>${t("Input")}</h3><${Tree} value=${{ ...(definition.input ?? {}), ...definition.params }} />
      <h3>${t("Output")}</h3>${node.output === undefined ? html`<p class="muted">${isAlive(model.job) ? t("None yet.") : t("None.")}</p>` : html`<${Output} value=${node.output} />`}
    </div></section>`;
}

const REASONS = { broken: t("a node before it failed"), not_taken: t("the path to it was not taken"), retry: t("it is tried again"), worker: t("no worker knows its task") };

// What nodes at work look like; until a result can be read that takes its place.
function Previews({ nodes }) {
  return html`<section class="panel" aria-labelledby="h-previews"><header><h2 id="h-previews">${t("So far")}</h2></header>
    <div class="body previews">${nodes.slice(0, 6).map((node) => html`<${LivePicture} key=${node.id} name=${node.definition.name || node.id} preview=${node.preview} />`)}</div></section>`;
}

// The picture before stays until the next one is there; what comes while one is on its way is left out, so that a slow line shows some.
function LivePicture({ name, preview }) {
  const [{ shown, coming }, set] = useState({ shown: null, coming: preview });
  useEffect(() => {
    if (!coming && preview.seq > shown.seq) set({ shown, coming: preview });
  }, [coming, preview]);
  const told = (loaded) => set({ shown: loaded ? coming : { ...shown, seq: coming.seq }, coming: null });
  const frame = Number.isInteger(shown?.frame) ? `, ${t("frame {n}", { n: shown.frame })}` : "";
  return html`<figure class="media live">
    ${shown?.url && html`<img key=${shown.url} src=${shown.url} alt=${t("Preview of {name}", { name: name + frame })} />`}
    ${coming && html`<img key=${coming.url} src=${coming.url} class="coming" alt="" onLoad=${() => told(true)} onError=${() => told(false)} />`}
    ${shown?.url && html`<figcaption class="muted">${name}<span class="numbers">${frame}</span></figcaption>`}</figure>`;
}

function About({ model }) {
  const { job, graph } = model;
  return html`<section class="panel" aria-labelledby="h-about"><header><h2 id="h-about">${t("About")}</h2></header><div class="body">
    <dl class="facts">
      <dt>${t("Id")}</dt><dd class="mono">${job.jobId}</dd>
      <dt>${t("Created")}</dt><dd>${exact(job.created)}</dd>
      ${job.startAt && html`<dt>${t("Starts at")}</dt><dd>${exact(job.startAt)}</dd>`}
      ${job.started && html`<dt>${t("Started")}</dt><dd>${exact(job.started)}</dd>`}
      ${job.finished && html`<dt>${t("Ended")}</dt><dd>${exact(job.finished)}</dd>`}
      <dt>${t("Attempt")}</dt><dd>${job.attempt}</dd>
      <dt>${t("Nodes")}</dt><dd>${graph.nodes.length.toLocaleString()}, ${tn(graph.edges.length, "{n} edge", "{n} edges")}</dd>
    </dl>
    ${Object.keys(graph.metadata).length > 0 && html`<h3>${t("Metadata")}</h3><${Tree} value=${graph.metadata} />`}
    ${Object.keys(graph.context).length > 0 && html`<h3>${t("Context")}</h3><${Tree} value=${graph.context} />`}
  </div></section>`;
}
