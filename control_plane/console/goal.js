// One line: what the user wants, in their words. The server plans it; here one sees the graph, why it is so, what is open, and changes it.
import { post, upload } from "./api.js";
import { Form } from "./form.js";
import { formOf, plain, propertiesOf, valuesOf } from "./fields.js";
import { dropped } from "./drop.js";
import { fileName, Look } from "./files.js";
import { percent, span } from "./format.js";
import { Graph } from "./graph.js";
import { t } from "./messages.js";
import { Same, useSubmit } from "./run.js";
import { Icon, said } from "./ui.js";
import { html, useEffect, useMemo, useRef, useSource, useState } from "./view.js";

const WAIT_MS = 500; // after the last key, before it is planned

// `first`: a goal or stored files to begin with, such as a file that is used as input.
export function Goal({ tasks, first = {}, open = false }) {
  useSource(dropped);
  const [goal, setGoal] = useState(first.goal ?? "");
  const [files, setFiles] = useState(first.files ?? []);
  const [sending, setSending] = useState(0);
  const [answers, setAnswers] = useState({});
  const [plan, setPlan] = useState(null);
  const [graph, setGraph] = useState(null); // the planned graph, with what was changed in it
  const [changed, setChanged] = useState(false);
  const [error, setError] = useState("");
  const [planning, setPlanning] = useState(false);
  const [selected, select] = useState(null);
  const { busy, error: refused, submit } = useSubmit();
  const line = useRef(null);
  const add = async (list) => {
    setSending((count) => count + list.length);
    for (const file of list) {
      try {
        const meta = await upload(file, () => {});
        setFiles((all) => [...all, { ...meta, name: file.name }]);
      } catch (wrong) {
        setError(said(wrong));
      }
      setSending((count) => count - 1);
    }
  };
  useEffect(() => {
    if (!dropped.files.length) return;
    const list = dropped.files;
    dropped.files = [];
    add(list);
    line.current?.focus();
  });
  const request = useMemo(() => ({ goal: goal.trim(), ...(files.length ? { files: files.map(({ bucket, key }) => ({ bucket, key })) } : {}), ...(Object.keys(answers).length ? { answers } : {}) }), [goal, files, answers]);
  const asked = JSON.stringify(request);
  useEffect(() => {
    setError("");
    if (!request.goal && !files.length) {
      setPlan(null);
      setGraph(null);
      return undefined;
    }
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      setPlanning(true);
      try {
        const answer = await post("/api/plans", request);
        if (stop.signal.aborted) return;
        setPlan(answer);
        setGraph(answer.graph ?? null);
        setChanged(false);
      } catch (wrong) {
        if (!stop.signal.aborted) setError(wrong.errors?.map((each) => each.detail).join(" ") || said(wrong));
      }
      setPlanning(false);
    }, WAIT_MS);
    return () => (clearTimeout(timer), stop.abort());
  }, [asked]);
  const drop = (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    add([...event.dataTransfer.files]);
  };
  const questions = plan?.questions ?? [];
  const body = changed ? { graph, ...(request.goal ? { name: request.goal.slice(0, 200) } : {}) } : plan?.certain ? request : graph && { graph, ...(request.goal ? { name: request.goal.slice(0, 200) } : {}) };
  const run = (event) => {
    event.preventDefault();
    if (body && !questions.length && !planning && request.goal) submit(body);
  };
  return html`<section class="goal panel drop" aria-label=${t("Say what you want")} onDragOver=${(event) => event.preventDefault()} onDrop=${drop}>
    <form class="goal-line" onSubmit=${run}><span class="goal-icon"><${Icon} of="wand" /></span>
      <input ref=${line} type="text" aria-label=${t("What do you want?")} placeholder=${t("Say what you want: a 20 second talking postcard from these pictures")} value=${goal} maxlength="4000" autocomplete="off" autofocus=${open} onInput=${(event) => (setGoal(event.target.value), setAnswers({}))} />
      <label class="button quiet-link" for="goal-files"><${Icon} of="upload" />${t("Files")}</label><input id="goal-files" class="hidden" type="file" multiple onChange=${(event) => (add([...event.target.files]), (event.target.value = ""))} />
      ${graph && html`<button class="primary" disabled=${busy || planning || sending > 0 || questions.length > 0 || !request.goal}><${Icon} of="play" />${t("Run")}</button>`}</form>
    ${(files.length > 0 || sending > 0) && html`<ul class="goal-files">${files.map((meta) => html`<li key=${meta.key}><${Look} reference=${meta} /><span>${fileName(meta)}</span><button type="button" class="quiet icon-only" aria-label=${t("Remove {name}", { name: fileName(meta) })} onClick=${() => setFiles(files.filter((each) => each !== meta))}><${Icon} of="close" /></button></li>`)}
      ${sending > 0 && html`<li class="muted">${t("Uploading…")}</li>`}</ul>`}
    ${plan?.suggestions?.length > 0 && !request.goal && html`<div class="chips" role="group" aria-label=${t("What can be done with it")}>${plan.suggestions.map((each) => html`<button key=${each.goal} type="button" class="chip" onClick=${() => setGoal(each.goal)}>${each.label}</button>`)}</div>`}
    ${(error || refused) && html`<p class="wrong" role="alert">${error || refused.errors?.map((each) => each.detail).join(" ") || said(refused)}</p>`}
    ${planning && !plan && html`<p class="muted" role="status">${t("Planning…")}</p>`}
    ${plan && request.goal && html`<div class="plan" aria-busy=${planning}>
      ${questions.map((question) => html`<${Question} key=${question.id} question=${question} value=${answers[question.id]} answer=${(value) => setAnswers({ ...answers, [question.id]: value })} />`)}
      ${graph && html`<div class="split run"><div class="stack"><${PlannedGraph} graph=${graph} selected=${selected} select=${(id) => select(id === selected ? null : id)} />
          ${selected && html`<${NodeForm} key=${selected} node=${graph.nodes.find((node) => node.id === selected)} tasks=${tasks} change=${(node) => (setGraph({ ...graph, nodes: graph.nodes.map((each) => (each.id === node.id ? node : each)) }), setChanged(true))} />`}</div>
        <div class="stack aside"><${Why} plan=${plan} changed=${changed} />${body && html`<${Same} body=${body} />`}</div></div>`}
      ${!graph && !questions.length && html`<p>${t("Nothing here can do this.")} ${(plan.unmet ?? []).join(" ")}</p>`}
    </div>`}
  </section>`;
}

function PlannedGraph({ graph, selected, select }) {
  const nodes = useMemo(() => graph.nodes.map((node) => ({ ...node, status: "pending", progress: 0, attempt: 0 })), [graph]);
  const edges = useMemo(() => (graph.edges ?? []).map((edge) => ({ kind: "normal", ...edge })), [graph]);
  return html`<section class="panel" aria-label=${t("The plan")}><${Graph} nodes=${nodes} edges=${edges} selected=${selected} select=${select} label=${t("Planned graph of {nodes}", { nodes: nodes.length })} /></section>`;
}

function Why({ plan, changed }) {
  const estimate = plan.estimate;
  const list = (title, items, kind = "") => items?.length > 0 && html`<section class=${kind}><h3>${title}</h3><ul>${items.map((text, index) => html`<li key=${index}>${text}</li>`)}</ul></section>`;
  const facts = [plan.confidence !== undefined && t("{part} sure", { part: percent(plan.confidence) }), estimate?.seconds ? t("about {time}", { time: span(estimate.seconds * 1000) }) : "", estimate?.memoryMiB ? `${estimate.memoryMiB.toLocaleString()} MiB` : "",
    plan.by === "model" && plan.model ? t("planned by {model}", { model: plan.model }) : "", changed ? t("changed by you") : ""].filter(Boolean);
  return html`<section class="panel why" aria-label=${t("Why")}><div class="body">
    <p class="muted">${facts.join(" · ")}</p>
    ${list(t("Why"), plan.reasons?.map((each) => `${each.nodeId}: ${each.text}`))}
    ${list(t("Assumed"), plan.assumptions)}
    ${list(t("Not done"), plan.unmet, "warned")}
  </div></section>`;
}

function Question({ question, value, answer }) {
  const [typed, setTyped] = useState({});
  const schema = question.schema && { type: "object", properties: { answer: { title: t("Answer"), ...question.schema } } };
  const give = (event) => {
    event.preventDefault();
    const { params } = valuesOf(schema, typed);
    if ("answer" in params) answer(params.answer);
  };
  return html`<div class="question"><p><${Icon} of="question" /><strong>${question.text}</strong></p>
    ${question.choices?.length > 0 && html`<div class="chips" role="group" aria-label=${question.text}>${question.choices.map((each) => html`<button key=${each.label} type="button" class="chip" aria-pressed=${JSON.stringify(each.value) === JSON.stringify(value)} onClick=${() => answer(each.value)}>${each.label}</button>`)}</div>`}
    ${schema && html`<form onSubmit=${give}><${Form} schema=${schema} typed=${typed} problems=${{}} change=${setTyped} busy=${() => {}} prefix="q-${question.id.replace(/\W/g, "-")}" /><button class="button">${t("Answer")}</button></form>`}
  </div>`;
}

const isBound = (value) => JSON.stringify(value ?? null).includes('"$from"');

// A node's parameters as its task's form; what comes from another node stays as it is.
function NodeForm({ node, tasks, change }) {
  const task = tasks.find((each) => each.id === node.task);
  const bound = Object.fromEntries(Object.entries(node.params ?? {}).filter(([, value]) => isBound(value)));
  const input = plain(task?.io.input ?? { type: "object", properties: {} });
  const schema = { ...input, required: [], properties: Object.fromEntries(propertiesOf(input).filter(([name]) => !Object.hasOwn(bound, name))) };
  const [typed, setTyped] = useState(() => formOf(schema, node.params));
  const { wrong } = valuesOf(schema, typed);
  const update = (change_) =>
    setTyped((before) => {
      const next = change_(before);
      const read = valuesOf(schema, next);
      if (!Object.keys(read.wrong).length) change({ ...node, params: { ...bound, ...read.params } });
      return next;
    });
  return html`<section class="panel" aria-label=${t("Parameters of {node}", { node: node.id })}><header><h2>${node.id}</h2><span class="muted">${task?.label ?? node.task}</span></header><div class="body">
    ${Object.keys(bound).length > 0 && html`<p class="muted">${t("From other nodes: {names}", { names: Object.keys(bound).join(", ") })}</p>`}
    <${Form} schema=${schema} typed=${typed} problems=${wrong} change=${update} busy=${() => {}} prefix="n-${node.id}" /></div></section>`;
}
