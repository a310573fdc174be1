// A new job: a pipeline's form, or a graph as JSON; what would run is drawn before it runs, and every problem stands where it is.
import { get, jobPath, post } from "./api.js";
import { plural } from "./format.js";
import { defaultsOf, Form, valuesOf } from "./form.js";
import { Graph } from "./graph.js";
import { parse } from "./numbers.js";
import { lineOf, linesOf, NotJson } from "./pointers.js";
import { go, Link, place, to } from "./router.js";
import { Failure, Loading } from "./ui.js";
import { html, useEffect, useMemo, useRef, useState } from "./view.js";

const WAIT_MS = 350; // after the last change, before the plan is asked for
const EXAMPLE = {
  schema: "langgraph.v1",
  nodes: [
    { id: "prepare", task: "simulate", plane: "python", params: { steps: 10, stepSeconds: 0.1 } },
    { id: "left", task: "simulate", plane: "python", params: { steps: 20, stepSeconds: 0.1 } },
    { id: "right", task: "simulate", plane: "python", params: { steps: 15, stepSeconds: 0.1 } },
    { id: "join", task: "simulate", plane: "python", params: { output: { $from: "left", path: "/steps" } } },
  ],
  edges: [
    { from: "prepare", to: "left" },
    { from: "prepare", to: "right" },
    { from: "left", to: "join" },
    { from: "right", to: "join" },
  ],
};
const drafts = new Map(); // what was typed, for who comes back

export function NewJob() {
  const [pipelines, setPipelines] = useState(null);
  const [error, setError] = useState(null);
  const load = () => get("/api/pipelines").then((found) => (setPipelines(found.pipelines), setError(null)), setError);
  useEffect(() => void load(), []);
  const from = place.query.get("from");
  const wanted = place.query.get("pipeline");
  const asGraph = place.query.has("graph") || from;
  if (error) return html`<div class="page"><h1>New job</h1><${Failure} error=${error} retry=${load} /></div>`;
  if (!pipelines) return html`<div class="page"><h1>New job</h1><${Loading} /></div>`;
  const pipeline = pipelines.find((each) => each.id === wanted) ?? pipelines.find((each) => each.id === "talking_picture") ?? pipelines[0];
  return html`<div class="page">
    <div class="title"><h1>${from ? "Run again with changes" : "New job"}</h1>${from && html`<span class="muted">from <${Link} class="mono" href=${to.job(from)}>${from}<//></span>`}</div>
    <div class="kinds" role="group" aria-label="What to run">
      ${pipelines.map((each) => html`<${Link} key=${each.id} class="kind" href="${to.new}?pipeline=${encodeURIComponent(each.id)}" aria-current=${!asGraph && each === pipeline ? "true" : undefined}>
        <strong>${each.label}</strong><span class="muted">${each.description}</span><//>`)}
      <${Link} class="kind" href="${to.new}?graph" aria-current=${asGraph ? "true" : undefined}><strong>A graph as JSON</strong><span class="muted">Nodes and edges of your own, pasted or typed.</span><//>
    </div>
    ${asGraph ? html`<${GraphJob} key=${from ?? ""} from=${from} />` : pipeline ? html`<${PipelineJob} key=${pipeline.id} pipeline=${pipeline} />` : html`<p>This server has no pipelines.</p>`}
  </div>`;
}

// What both ways share: when and how urgently, the plan, and the button -----------------------------------------------------

// Asks for the plan of what would be submitted, a moment after the last change. `document` null: there is nothing to ask.
function usePlan(document) {
  const text = document === null ? null : typeof document === "string" ? document : JSON.stringify(document);
  const [plan, setPlan] = useState({ graph: null, errors: [], asked: null });
  useEffect(() => {
    if (text === null) {
      setPlan({ graph: null, errors: [], asked: null });
      return undefined;
    }
    let ended = false;
    const timer = setTimeout(() => {
      post("/api/plans", text).then(
        (graph) => ended || setPlan({ graph, errors: [], asked: text }),
        (error) => ended || setPlan({ graph: null, errors: error.errors?.length ? error.errors : [{ pointer: "", detail: error.message, code: error.code ?? "" }], asked: text }),
      );
    }, WAIT_MS);
    return () => ((ended = true), clearTimeout(timer));
  }, [text]);
  return { ...plan, fresh: plan.asked === text };
}

function Options({ value, change }) {
  return html`<details class="more"><summary>Schedule and priority <span class="muted">${value.startAt ? `at ${value.startAt.replace("T", " ")}` : "now"}, ${value.priority}</span></summary>
    <div class="settings">
      <div class="field"><label for="o-priority">Priority</label><select id="o-priority" value=${value.priority} onChange=${(event) => change({ ...value, priority: event.target.value })}>
        ${["high", "normal", "low"].map((each) => html`<option key=${each} selected=${each === value.priority}>${each}</option>`)}</select></div>
      <div class="field"><label for="o-start">Start at</label><input id="o-start" type="datetime-local" value=${value.startAt} onInput=${(event) => change({ ...value, startAt: event.target.value })} />
        <p class="hint muted">Your time; empty: at once</p></div>
    </div></details>`;
}

const withOptions = (body, options) => ({
  ...body,
  ...(options.priority === "normal" ? {} : { priority: options.priority }),
  ...(options.startAt ? { startAt: new Date(options.startAt).toISOString() } : {}),
});

// One press is one job, however often the request has to be sent.
function useSubmit() {
  const [state, setState] = useState({ busy: false, error: null });
  const key = useRef(null);
  async function submit(body) {
    key.current ||= [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    setState({ busy: true, error: null });
    try {
      const job = await post("/api/jobs", body, { "Idempotency-Key": key.current });
      go(to.job(job.jobId));
    } catch (error) {
      if (error.status) key.current = null; // it was answered: the next press is another one
      setState({ busy: false, error });
    }
  }
  return { ...state, submit };
}

function Planned({ graph, template, note }) {
  const shown = graph ?? template;
  const nodes = useMemo(() => (shown?.nodes ?? []).map((node) => ({ ...node, status: "pending", progress: 0, attempt: 0 })), [shown]);
  const edges = useMemo(() => (shown?.edges ?? []).map((edge) => ({ kind: "normal", ...edge })), [shown]);
  const sound = nodes.length > 0 && edges.every((edge) => [edge.from, edge.to].every((id) => nodes.some((node) => node.id === id)));
  return html`<section class="panel" aria-labelledby="h-plan"><header><h2 id="h-plan">What will run</h2><span class="muted">${note}</span></header>
    <div>${sound ? html`<${Graph} nodes=${nodes} edges=${edges} label="Planned graph of ${plural(nodes.length, "node")}" />` : html`<p class="nothing muted">The graph is drawn here once it can be planned.</p>`}</div></section>`;
}

// A pipeline ---------------------------------------------------------------------------------------------------------------

function PipelineJob({ pipeline }) {
  const [typed, setTyped] = useState(() => drafts.get(pipeline.id) ?? defaultsOf(pipeline.params));
  const [options, setOptions] = useState({ priority: "normal", startAt: "" });
  const [touched, setTouched] = useState(new Set());
  const [pressed, setPressed] = useState(false);
  const [uploads, setUploads] = useState(0);
  const form = useRef(null);
  const { params, wrong } = valuesOf(pipeline.params, typed);
  const body = withOptions({ pipeline: pipeline.id, params }, options);
  const plan = usePlan(Object.keys(wrong).length ? null : body);
  const { busy, error, submit } = useSubmit();
  const change = (name, value) => {
    setTyped((before) => {
      const next = { ...before, [name]: value };
      drafts.set(pipeline.id, next);
      return next;
    });
    setTouched(new Set(touched).add(name));
  };
  const found = [...plan.errors, ...(error?.errors ?? [])];
  const problems = {};
  for (const [name, text] of Object.entries(wrong)) if (pressed || (touched.has(name) && text !== "Required.")) problems[name] = text;
  const others = [];
  for (const each of found) {
    const name = /^\/params\/([^/]+)/.exec(each.pointer)?.[1];
    if (name && name in pipeline.params.properties) problems[name] ||= each.detail;
    else others.push(each.detail);
  }
  if (error && !error.errors?.length) others.push(error.message);
  function press(event) {
    event.preventDefault();
    setPressed(true);
    if (Object.keys(wrong).length) {
      requestAnimationFrame(() => form.current.querySelector("[aria-invalid=true]")?.focus());
      return;
    }
    drafts.delete(pipeline.id);
    submit(body);
  }
  return html`<div class="split">
    <form class="panel" ref=${form} onSubmit=${press} novalidate aria-label=${pipeline.label}><div class="body">
      <${Form} schema=${pipeline.params} typed=${typed} problems=${problems} change=${change} busy=${(step) => setUploads((count) => count + step)} />
      <${Options} value=${options} change=${setOptions} />
      ${[...new Set(others)].map((text) => html`<p key=${text} class="wrong" role="alert">${text}</p>`)}
      <div class="buttons"><button class="primary big" disabled=${busy || uploads > 0} aria-busy=${busy}>${uploads ? "Uploading…" : "Run"}</button></div>
    </div></form>
    <div class="stack aside"><${Planned} graph=${plan.graph} template=${pipeline.graph} /></div>
  </div>`;
}

// A graph ------------------------------------------------------------------------------------------------------------------

function GraphJob({ from }) {
  const name = `graph ${from ?? ""}`;
  const [text, setText] = useState(drafts.get(name) ?? "");
  const [error, setError] = useState(null);
  const [options, setOptions] = useState({ priority: "normal", startAt: "" });
  const { busy, error: refused, submit } = useSubmit();
  const change = (next) => {
    drafts.set(name, next);
    setText(next);
  };
  useEffect(() => {
    if (from && !drafts.has(name)) get(`${jobPath(from)}/graph`).then((graph) => change(JSON.stringify(submission(graph), null, 2)), setError);
  }, []);
  const read = useMemo(() => parsed(text), [text]);
  const body = read.document && withOptions(read.bare ? { graph: read.document } : read.document, options);
  const plan = usePlan(body ?? null);
  const found = read.problem ? [read.problem] : [...(plan.fresh ? plan.errors : []), ...(refused?.errors ?? [])].map((each) => {
    const pointer = read.bare ? each.pointer.replace(/^\/graph/, "") : each.pointer;
    return { line: lineOf(read.lines, pointer), detail: each.detail, pointer };
  });
  const problems = [...new Map(found.map((each) => [`${each.line} ${each.detail}`, each])).values()].sort((a, b) => a.line - b.line);
  const failure = refused && !refused.errors?.length ? refused.message : "";
  return html`<div class="split even">
    <section class="panel" aria-labelledby="h-json"><header><h2 id="h-json">Graph</h2><span class="muted">${problems.length ? "" : plan.graph && plan.fresh ? "Valid." : ""}</span>
        <span class="end"><button type="button" class="quiet" onClick=${() => change(JSON.stringify(EXAMPLE, null, 2))}>Insert example</button></span></header>
      ${error && html`<${Failure} error=${error} />`}
      <${Editor} text=${text} change=${change} problems=${problems} />
      <div class="body"><${Options} value=${options} change=${setOptions} />
        ${failure && html`<p class="wrong" role="alert">${failure}</p>`}
        <div class="buttons"><button type="button" class="primary big" disabled=${busy || !body || problems.length > 0} onClick=${() => submit(body)}>Run</button></div></div>
    </section>
    <div class="stack"><${Planned} graph=${plan.graph} template=${null} note=${plan.graph ? plural(plan.graph.nodes.length, "node") : ""} /></div>
  </div>`;
}

// What was read of a graph belongs to its job; what can be submitted again is the rest.
function submission({ nodes, edges, context, metadata }) {
  const again = ({ status, output, error, telemetry, retries, ...node }) => ({ ...node, retries: { maxAttempts: retries.maxAttempts } });
  return { schema: "langgraph.v1", nodes: nodes.map(again), edges, ...(Object.keys(context).length ? { context } : {}), ...(Object.keys(metadata).length ? { metadata } : {}) };
}

// A graph by itself, or a whole submission with a graph or a pipeline in it.
function parsed(text) {
  if (!text.trim()) return { document: null, lines: new Map() };
  try {
    const lines = linesOf(text);
    const document = parse(text);
    if (document === null || typeof document !== "object" || Array.isArray(document)) return { document: null, lines, problem: { line: 1, detail: "This is no graph: an object is wanted." } };
    return { document, lines, bare: !("graph" in document) && !("pipeline" in document) };
  } catch (error) {
    return { document: null, lines: new Map(), problem: { line: error instanceof NotJson ? error.line : 1, detail: error.message } };
  }
}

const LINE = 20;

function Editor({ text, change, problems }) {
  const area = useRef(null);
  const gutter = useRef(null);
  const count = text.split("\n").length;
  const amiss = new Set(problems.map((each) => each.line));
  const goto = (line) => {
    const start = text.split("\n").slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
    area.current.focus();
    area.current.setSelectionRange(start, start + (text.split("\n")[line - 1]?.length ?? 0));
    area.current.scrollTop = Math.max(0, (line - 4) * LINE);
  };
  return html`<div class="editor">
      <div class="gutter" ref=${gutter} aria-hidden="true"><div>${Array.from({ length: count }, (_, index) => html`<span key=${index} class=${amiss.has(index + 1) ? "amiss" : ""}>${index + 1}</span>`)}</div></div>
      <textarea ref=${area} class="mono" aria-label="Graph as JSON" aria-describedby="problems" aria-invalid=${problems.length ? "true" : undefined} wrap="off" spellcheck=${false} autocomplete="off"
        placeholder=${'{"schema": "langgraph.v1", "nodes": […], "edges": […]}'} value=${text} onInput=${(event) => change(event.target.value)}
        onScroll=${(event) => (gutter.current.firstChild.style.transform = `translateY(${-event.target.scrollTop}px)`)}></textarea>
    </div>
    <ol class="problems" id="problems" aria-live="polite" aria-label="Problems">${problems.slice(0, 100).map((each) => html`<li key=${each.line + each.detail}><button type="button" class="quiet" onClick=${() => goto(each.line)}>
      <span class="numbers line-number">line ${each.line}</span><span class="wrong">${each.detail}</span></button></li>`)}</ol>`;
}
