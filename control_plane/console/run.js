// The form of a pipeline or of a task, and what it shares with a graph as JSON: name and tags, when and how urgently, the plan, the button.
import { held, post, root } from "./api.js";
import { Form } from "./form.js";
import { formOf, plain, valuesOf } from "./fields.js";
import { between, local, nodes as countNodes } from "./format.js";
import { Graph } from "./graph.js";
import { served, t } from "./messages.js";
import { commandLine, curl, python } from "./request_texts.js";
import { go, Link, place, to } from "./router.js";
import { Presets, SavePreset, usePresets } from "./presets.js";
import { sweptOf } from "./sweep.js";
import { Copy, Icon, said, say } from "./ui.js";
import { html, useEffect, useMemo, useRef, useState } from "./view.js";

export const MOST_COMPARED = 6;
const WAIT_MS = 350; // after the last change, before the plan is asked for

export const drafts = new Map(); // what was typed, for who comes back

// Asks for the plan of what would be submitted, a moment after the last change. `document` null: there is nothing to ask.
export function usePlan(document) {
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
        (answer) => ended || setPlan({ graph: answer.graph ?? answer, answer, errors: [], asked: text }),
        (error) => ended || setPlan({ graph: null, errors: error.errors?.length ? error.errors : [{ pointer: "", detail: said(error), code: error.code ?? "" }], asked: text }),
      );
    }, WAIT_MS);
    return () => ((ended = true), clearTimeout(timer));
  }, [text]);
  return { ...plan, fresh: plan.asked === text };
}

// Name, tags, time, urgency and who is told -----------------------------------------------------------------------------------

// `given`: {name, tags, rerunOf} to begin with.
export function useOptions(given = {}) {
  const [value, change] = useState({ name: "", tags: "", priority: "normal", startAt: "", webhook: "", secret: "", ...given });
  return { value, change };
}

const secret = () => `whsec_${btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(24))))}`;

export function Options({ value, change, prefix = "o" }) {
  const typed = (name) => (event) => change({ ...value, [name]: event.target.value });
  const hook = (event) => change({ ...value, webhook: event.target.value, secret: value.secret || secret() });
  const more = [value.startAt ? t("at {time}", { time: local(new Date(value.startAt)) }) : "", value.priority === "normal" ? "" : value.priority === "high" ? t("high priority") : t("low priority"), value.webhook ? t("webhook") : ""].filter(Boolean);
  return html`<div class="options"><div class="settings">
      <div class="field"><label for="${prefix}-name">${t("Name")}</label><input id="${prefix}-name" type="text" maxlength="200" value=${value.name} onInput=${typed("name")} placeholder=${t("From the prompt or the file")} autocomplete="off" /></div>
      <div class="field"><label for="${prefix}-tags">${t("Tags")}</label><input id="${prefix}-tags" type="text" value=${value.tags} onInput=${typed("tags")} placeholder=${t("Separated by commas")} autocomplete="off" /></div></div>
    <details class="more"><summary>${t("Schedule, priority, webhook")} <span class="muted">${more.join(", ") || t("now")}</span></summary>
    <div class="settings">
      <div class="field"><label for="${prefix}-priority">${t("Priority")}</label><select id="${prefix}-priority" value=${value.priority} onChange=${typed("priority")}>
        ${[["high", t("high")], ["normal", t("normal")], ["low", t("low")]].map(([each, label]) => html`<option key=${each} value=${each} selected=${each === value.priority}>${label}</option>`)}</select></div>
      <div class="field"><label for="${prefix}-start">${t("Start at")}</label><input id="${prefix}-start" type="datetime-local" value=${value.startAt} onInput=${typed("startAt")} />
        <p class="hint muted">${t("Your local time; empty: at once")}</p></div>
      <div class="field"><label for="${prefix}-hook">${t("Webhook")}</label><input id="${prefix}-hook" type="url" value=${value.webhook} onInput=${hook} placeholder="https://" autocomplete="off" />
        <p class="hint muted">${t("Receives a signed POST when the job has ended")}</p></div>
      ${value.webhook && html`<div class="field"><label for="${prefix}-secret">${t("Signing secret")}</label><span class="with-copy"><input id="${prefix}-secret" type="text" class="mono" value=${value.secret} onInput=${typed("secret")} autocomplete="off" spellcheck="false" /><${Copy} text=${value.secret} /></span>
        <p class="hint muted">${t("Copy it now: no page shows it again")}</p></div>`}
    </div></details></div>`;
}

export const tagsOf = (text) => [...new Set(text.split(",").map((tag) => tag.trim()).filter(Boolean))];

export const withOptions = (body, options) => ({
  ...body,
  ...(options.name.trim() ? { name: options.name.trim() } : {}),
  ...(tagsOf(options.tags).length ? { tags: tagsOf(options.tags) } : {}),
  ...(options.priority === "normal" ? {} : { priority: options.priority }),
  ...(options.startAt ? { startAt: new Date(options.startAt).toISOString() } : {}),
  ...(options.webhook ? { webhook: { url: options.webhook, secret: options.secret } } : {}),
  ...(options.rerunOf ? { rerunOf: options.rerunOf } : {}),
});

// One press is one job, however often the request has to be sent.
export function useSubmit() {
  const [state, setState] = useState({ busy: false, error: null });
  const key = useRef(null);
  async function submit(body) {
    key.current ||= [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    setState({ busy: true, error: null });
    try {
      const made = await post("/api/jobs", body, { "Idempotency-Key": key.current });
      go(made.sweep ? sweepPage(made) : to.job(made.jobId));
      return true;
    } catch (error) {
      if (error.status) key.current = null; // it was answered: the next press is another one
      setState({ busy: false, error });
      return false;
    }
  }
  return { ...state, submit };
}

// Where the jobs of a sweep are looked at: beside each other where they are few, else as a list.
function sweepPage({ jobs, tag }) {
  const ids = jobs.map((job) => job.jobId).filter(Boolean);
  if (ids.length < jobs.length) say(t("{n} of {all} jobs were refused: {why}", { n: jobs.length - ids.length, all: jobs.length, why: jobs.find((job) => !job.jobId).detail }), "wrong");
  if (ids.length === 1) return to.job(ids[0]);
  return ids.length <= MOST_COMPARED ? to.compare(ids) : `${to.jobs}?tag=${encodeURIComponent(tag)}`;
}

export function Planned({ plan, template, note, title = t("What will run") }) {
  const shown = plan.graph ?? template;
  const nodes = useMemo(() => (shown?.nodes ?? []).map((node) => ({ ...node, status: "pending", progress: 0, attempt: 0 })), [shown]);
  const edges = useMemo(() => (shown?.edges ?? []).map((edge) => ({ kind: "normal", ...edge })), [shown]);
  const sound = nodes.length > 0 && edges.every((edge) => [edge.from, edge.to].every((id) => nodes.some((node) => node.id === id)));
  return html`<section class="panel" aria-labelledby="h-plan"><header><h2 id="h-plan">${title}</h2><span class="muted">${note}</span></header>
    <div>${sound ? html`<${Graph} nodes=${nodes} edges=${edges} label=${t("Planned graph of {nodes}", { nodes: countNodes(nodes.length) })} />` : html`<p class="nothing muted">${t("The graph is drawn here once it can be planned.")}</p>`}</div></section>`;
}

// The same request elsewhere -------------------------------------------------------------------------------------------------

export function Same({ body }) {
  const [shown, setShown] = useState("curl");
  const about = { origin: location.origin + root, locked: held() };
  const texts = { curl: () => curl(body, about), Python: () => python(body, about), [t("Command line")]: () => commandLine(body, about) };
  const text = (texts[shown] ?? texts.curl)();
  return html`<details class="panel same"><summary><h2>${t("Same request as")}</h2><span class="muted">curl, Python, ${t("Command line")}</span></summary>
    <div class="body"><div class="chips" role="group" aria-label=${t("Same request as")}>${Object.keys(texts).map((each) => html`<button key=${each} type="button" class="chip" aria-pressed=${each === shown} onClick=${() => setShown(each)}>${each}</button>`)}
      <span class="grow"></span><${Copy} text=${text}>${t("Copy")}<//></div>
    <pre class="text" tabindex="0">${text}</pre></div></details>`;
}

// The form --------------------------------------------------------------------------------------------------------------------

// `what`: {id, label, description, schema, graph, body(params), task}; `params`: what the fields hold at first; `options`: name, tags and whose rerun it is.
export function FormJob({ what, params, options: given, children }) {
  const draft = params ? `${what.id} ${given?.rerunOf ?? JSON.stringify(params)}` : what.id;
  const [typed, setTyped] = useState(() => drafts.get(draft) ?? formOf(what.schema, params));
  const options = useOptions(given);
  const [touched, setTouched] = useState(new Set());
  const [pressed, setPressed] = useState(false);
  const [uploads, setUploads] = useState(0);
  const [swept, setSwept] = useState(() => drafts.get(`${draft} swept`) ?? {});
  const kept = usePresets(what);
  const form = useRef(null);
  const focus = place.query.get("field");
  useEffect(() => {
    if (focus) form.current.querySelector(`#${CSS.escape(`f-${focus}`)}`)?.focus();
  }, []);
  const { params: read, wrong } = valuesOf(without(what.schema, swept), typed);
  const sweeps = {};
  for (const [name, held] of Object.entries(swept)) {
    const { values, wrong: amiss } = sweptOf(what.schema.properties[name], held);
    if (amiss) wrong[`/${name}`] = amiss;
    else sweeps[name] = values;
  }
  const sweep = (name, held) => {
    const { [name]: _, ...rest } = swept;
    const next = held === undefined ? rest : { ...rest, [name]: held };
    drafts.set(`${draft} swept`, next);
    setSwept(next);
  };
  const body = withOptions({ ...what.body(read), ...(Object.keys(sweeps).length ? { sweep: sweeps } : {}) }, options.value);
  const plan = usePlan(Object.keys(wrong).length ? null : body);
  const { busy, error, submit } = useSubmit();
  const count = Object.values(sweeps).reduce((product, values) => product * values.length, 1);
  const change = (update) =>
    setTyped((before) => {
      const next = update(before);
      drafts.set(draft, next);
      return next;
    });
  const problems = {};
  for (const [pointer, text] of Object.entries(wrong)) if (pressed || (touched.has(`/${pointer.split("/")[1]}`) && text !== t("Required."))) problems[pointer] = text;
  const others = [];
  for (const each of [...(plan.fresh ? plan.errors : []), ...(error?.errors ?? [])]) {
    const pointer = what.pointerOf(each.pointer);
    if (pointer && pointer.split("/")[1] in (what.schema.properties ?? {})) problems[pointer] ||= each.detail;
    else others.push(each.detail);
  }
  if (error && !error.errors?.length) others.push(said(error));
  async function press(event) {
    event.preventDefault();
    setPressed(true);
    if (Object.keys(wrong).length) {
      requestAnimationFrame(() => form.current.querySelector("[aria-invalid=true]")?.focus());
      return;
    }
    if (await submit(body)) for (const each of [draft, `${draft} swept`]) drafts.delete(each);
  }
  return html`<div class="split run">
    <form class="panel" ref=${form} onSubmit=${press} novalidate aria-label=${what.label}><div class="body">
      ${children}
      <${Presets} what=${what} ...${kept} params=${read} choose=${(next) => change(() => next)} />
      <${Form} schema=${what.schema} swept=${swept} sweep=${what.isPlain && sweep} focus=${focus} typed=${typed} problems=${problems} change=${change} touch=${(pointer) => setTouched((before) => new Set(before).add(pointer))} busy=${(step) => setUploads((count) => count + step)} />
      <${Options} ...${options} />
      ${[...new Set(others)].map((text) => html`<p key=${text} class="wrong" role="alert">${text}</p>`)}
      <div class="buttons run-bar"><${SavePreset} what=${what} ...${kept} params=${read} /><${Estimate} plan=${plan} /><button class="primary big" disabled=${busy || uploads > 0} aria-busy=${busy}><${Icon} of="play" />${uploads ? t("Uploading…") : count > 1 ? t("Run {n} jobs", { n: count }) : t("Run")}</button></div>
    </div></form>
    <div class="stack aside"><${Planned} plan=${plan} template=${what.graph} /><${Same} body=${body} /></div>
  </div>`;
}

// The schema without the fields that have several values.
function without(schema, swept) {
  if (!Object.keys(swept).length) return schema;
  const each = plain(schema);
  return { ...each, required: (each.required ?? []).filter((name) => !(name in swept)), properties: Object.fromEntries(Object.entries(each.properties).filter(([name]) => !(name in swept))) };
}

function Estimate({ plan }) {
  const estimate = plan.answer?.estimate;
  return estimate && Number.isFinite(estimate.high) ? html`<span class="estimate muted"><${Icon} of="clock" /> ${t("takes about {range}", { range: between(estimate) })}</span>` : null;
}

const fieldOf = (pointer) => /^\/params(\/.*)$/.exec(pointer)?.[1] ?? /^\/sweep(\/[^/]+)/.exec(pointer)?.[1];

// A pipeline as what FormJob wants.
export const pipelineForm = (pipeline) => ({
  id: pipeline.id, label: served(pipeline.label), description: served(pipeline.description), schema: pipeline.params, graph: pipeline.graph,
  body: (params) => ({ pipeline: pipeline.id, params }),
  isPlain: true, // its params are those of the submission
  pointerOf: fieldOf,
});

// A task as what FormJob wants.
export const taskForm = (capability) => ({
  id: `task ${capability.id}`, task: capability.id, label: served(capability.label), description: served(capability.description), schema: capability.io.input,
  graph: { nodes: [{ id: capability.id, task: capability.id, plane: capability.plane }], edges: [] },
  body: (params) => ({ task: capability.id, params }),
  isPlain: true, // its params are those of the submission
  pointerOf: fieldOf,
});

export const Back = () => html`<${Link} class="back" href=${to.new}><${Icon} of="back" />${t("All pipelines and tasks")}<//>`;
