// A new job: what can be run, as cards; then its form, or a graph as JSON.
import { get, jobPath } from "./api.js";
import { Card, outputOf, picturesOf } from "./cards.js";
import { workflowForm } from "./comfyui.js";
import { dropped } from "./drop.js";
import { nameOf, took } from "./format.js";
import { Goal } from "./goal.js";
import { GraphJob } from "./graph_form.js";
import { t } from "./messages.js";
import { Link, place, to } from "./router.js";
import { Back, FormJob, pipelineForm, taskForm } from "./run.js";
import { Failure, Icon, Loading } from "./ui.js";
import { html, useEffect, useState } from "./view.js";

const RECENT = 200;
const FIRST = ["talking_picture", "narrated_pictures", "speak", "my_voice", "look", "render_video"]; // for who has run nothing yet
const PLUMBING = ["get_capabilities", "merge_capabilities", "prepare_assets", "upload_artifact", "simulate", "simulate_gpu"];

export function NewJob() {
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  const load = async () => {
    try {
      const [pipelines, capabilities, recent] = await Promise.all([get("/api/pipelines"), get("/api/capabilities"), get(`/api/jobs?limit=${RECENT}`)]);
      setFound({ pipelines: pipelines.pipelines, tasks: capabilities.capabilities, recent: recent.jobs });
      setError(null);
    } catch (wrong) {
      setError(wrong);
    }
  };
  useEffect(() => void load(), []);
  if (error) return html`<div class="page"><h1>${t("New job")}</h1><${Failure} error=${error} retry=${load} /></div>`;
  if (!found) return html`<div class="page"><h1>${t("New job")}</h1><${Loading} /></div>`;
  const query = place.query;
  const from = query.get("from");
  if (from) return html`<${Again} key=${from} from=${from} found=${found} />`;
  const pipeline = found.pipelines.find((each) => each.id === query.get("pipeline"));
  if (pipeline) return html`<${Page} key=${pipeline.id} what=${pipelineForm(pipeline)} pipeline=${pipeline.id} picture=${html`<${Card} picture=${picturesOf(found.recent).get(pipeline.id)} id=${pipeline.id} kind=${outputOf(pipeline, found.tasks)} bare />`} />`;
  const task = found.tasks.find((each) => each.id === query.get("task"));
  if (task) return html`<${Page} key=${`task ${task.id}`} what=${taskForm(task)} />`;
  if (query.has("comfyui")) return html`<${Workflow} key=${query.get("comfyui")} />`;
  if (query.has("dropped") && dropped.request) return html`<${FromFile} key=${query.get("dropped")} request=${dropped.request} found=${found} />`;
  if (query.has("graph")) return html`<div class="page"><${Back} /><h1>${t("A graph as JSON")}</h1><${GraphJob} key=${query.get("graph")} /></div>`;
  return html`<${Choose} found=${found} />`;
}

function Page({ what, picture, params, options, note, pipeline }) {
  return html`<div class="page">
    <${Back} />
    <div class="run-head">${picture}<div><h1>${what.label}</h1><p class="muted">${note ?? what.description}</p>${pipeline && html`<${Statistics} pipeline=${pipeline} />`}</div></div>
    <${FormJob} what=${what} params=${params} options=${options} /></div>`;
}

// What its latest jobs took; nothing where none has ended.
function Statistics({ pipeline }) {
  const [found, setFound] = useState(null);
  useEffect(() => void get("/api/statistics").then((all) => setFound(all.pipelines.find((each) => each.pipeline === pipeline) ?? null), () => {}), []);
  if (!found?.ended) return null;
  const said = [found.medianSeconds !== null && t("median {time}", { time: took(found.medianSeconds * 1000) }), t("{n} of {all} succeeded", { n: found.completed.toLocaleString(), all: (found.completed + found.failed).toLocaleString() }),
    found.gpuSeconds > 0 && t("GPU time {time}", { time: took(found.gpuSeconds * 1000) })];
  return html`<p class="muted statistics"><${Icon} of="clock" /> ${said.filter(Boolean).join(" · ")}</p>`;
}

// A job again: its form with what it was given, or where it had none its graph.
function Again({ from, found }) {
  const [job, setJob] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => void get(jobPath(from)).then(setJob, setError), []);
  if (!job) return html`<div class="page"><h1>${t("Run again")}</h1>${error ? html`<${Failure} error=${error} />` : html`<${Loading} />`}</div>`;
  const note = html`${t("Run again")}: <${Link} href=${to.job(from)}>${nameOf(job)}<//>`;
  const pipeline = found.pipelines.find((each) => each.id === job.pipeline);
  const task = found.tasks.find((each) => each.id === job.task);
  const given = Object.fromEntries((job.given ?? []).filter((name) => Object.hasOwn(job.params ?? {}, name)).map((name) => [name, job.params[name]]));
  const options = { name: job.name ?? "", tags: (job.tags ?? []).join(", "), rerunOf: job.jobId };
  if (pipeline || task) return html`<${Page} what=${pipeline ? pipelineForm(pipeline) : taskForm(task)} params=${given} options=${options} note=${note} />`;
  return html`<div class="page"><${Back} /><h1>${t("A graph as JSON")}</h1><p class="muted">${note}</p><${GraphJob} from=${from} name=${job.name ?? ""} tags=${options.tags} /></div>`;
}

function Workflow() {
  if (dropped.workflow) return html`<${Page} what=${workflowForm(dropped.workflow)} options=${{ name: dropped.workflow.name.replace(/\.json$/i, "") }} />`;
  return html`<div class="page"><${Back} /><h1>${t("A ComfyUI workflow")}</h1><p>${t("Drop the workflow here again: in ComfyUI choose Workflow → Export (API).")}</p></div>`;
}

// The form that a dropped file came from.
function FromFile({ request, found }) {
  const pipeline = found.pipelines.find((each) => each.id === request.pipeline);
  const task = found.tasks.find((each) => each.id === request.task);
  if (!pipeline && !task) return html`<div class="page"><${Back} /><h1>${t("New job")}</h1><p>${t("The file came from {what}, which this server does not have.", { what: request.pipeline ?? request.task })}</p></div>`;
  const hidden = (Array.isArray(request.leftOut) ? request.leftOut : []).filter((each) => /^\/params\/[^/]+$/.test(each)).map((each) => each.slice(8));
  const note = [t("As {name} was made", { name: request.name ?? "" }), ...(hidden.length ? [t("not in the file, since it may be a secret: {fields}", { fields: hidden.join(", ") })] : [])].join(" · ");
  return html`<${Page} what=${pipeline ? pipelineForm(pipeline) : taskForm(task)} params=${request.params ?? {}} note=${note} />`;
}

// The cards -------------------------------------------------------------------------------------------------------------------

// A stored file that is used as input, or a goal, of the address.
function firstOf(query) {
  const [bucket, ...key] = (query.get("use") ?? "").split("/");
  return { goal: query.get("goal") ?? "", files: key.length ? [{ bucket, key: key.join("/") }] : [] };
}

function Choose({ found }) {
  const query = place.query;
  const [search, setSearch] = useState("");
  const uses = new Map();
  for (const job of found.recent) uses.set(job.pipeline, (uses.get(job.pipeline) ?? 0) + 1);
  const rank = (id) => (FIRST.includes(id) ? FIRST.indexOf(id) : FIRST.length);
  const isRehearsal = (each) => each.graph.nodes.every((node) => /^simulate/.test(node.task));
  const pipelines = [...found.pipelines].sort((a, b) => isRehearsal(a) - isRehearsal(b) || (uses.get(b.id) ?? 0) - (uses.get(a.id) ?? 0) || rank(a.id) - rank(b.id));
  const used = new Set(found.pipelines.flatMap((each) => each.graph.nodes.map((node) => node.task)));
  const group = (task) => (PLUMBING.includes(task.id) ? 2 : used.has(task.id) ? 1 : 0);
  const tasks = [...found.tasks].sort((a, b) => group(a) - group(b) || a.label.localeCompare(b.label));
  const pictures = picturesOf(found.recent);
  const fits = (each) => `${each.id} ${each.label} ${each.description}`.toLowerCase().includes(search.toLowerCase());
  return html`<div class="page new">
    <h1>${t("New job")}</h1>
    <${Goal} key=${query.get("use") ?? ""} tasks=${found.tasks} first=${firstOf(query)} open=${query.has("goal")} />
    <section class="stack" aria-labelledby="h-pipelines"><div class="title"><h2 id="h-pipelines">${t("Pipelines")}</h2><div class="search end"><${Icon} of="search" /><input type="search" aria-label=${t("Search pipelines and tasks")} placeholder=${t("Search pipelines and tasks")} value=${search} onInput=${(event) => setSearch(event.target.value)} /></div></div>
      <div class="kinds">
        ${pipelines.filter(fits).map((each) => html`<${Card} key=${each.id} href="${to.new}?pipeline=${encodeURIComponent(each.id)}" id=${each.id} label=${each.label} text=${each.description} picture=${pictures.get(each.id)} kind=${outputOf(each, found.tasks)} />`)}
        ${!search && html`<${Card} href="${to.new}?graph" label=${t("A graph as JSON")} text=${t("Nodes and edges of your own, pasted or typed.")} kind="graph" />`}
      </div></section>
    <section class="stack" aria-labelledby="h-tasks"><h2 id="h-tasks">${t("Tasks")} <span class="muted">${t("one node each, your own first")}</span></h2>
      <div class="kinds small">${tasks.filter(fits).map((each) => html`<${Card} key=${each.id} href="${to.new}?task=${encodeURIComponent(each.id)}" label=${each.label} text=${each.description} kind=${outputOf(each, found.tasks)} small />`)}</div></section>
    ${search && !pipelines.some(fits) && !tasks.some(fits) && html`<p class="muted">${t("No matches")}</p>`}
  </div>`;
}
