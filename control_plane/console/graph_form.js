// A graph as JSON, with every problem at its line.
import { get, jobPath } from "./api.js";
import { nodes as countNodes } from "./format.js";
import { t } from "./messages.js";
import { parse } from "./numbers.js";
import { lineOf, linesOf, NotJson } from "./pointers.js";
import { drafts, Options, Planned, Same, useOptions, usePlan, useSubmit, withOptions } from "./run.js";
import { Failure, said } from "./ui.js";
import { html, useEffect, useMemo, useRef, useState } from "./view.js";

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

// `from`: the job whose graph is changed.
export function GraphJob({ from, name = "", tags = "" }) {
  const draft = `graph ${from ?? ""}`;
  const [text, setText] = useState(drafts.get(draft) ?? "");
  const [error, setError] = useState(null);
  const options = useOptions(from ? { rerunOf: from, name, tags } : {});
  const { busy, error: refused, submit } = useSubmit();
  const change = (next) => {
    drafts.set(draft, next);
    setText(next);
  };
  useEffect(() => {
    if (from && !drafts.has(draft)) get(`${jobPath(from)}/graph`).then((graph) => change(JSON.stringify(submission(graph), null, 2)), setError);
  }, []);
  const read = useMemo(() => parsed(text), [text]);
  const body = read.document && withOptions(read.bare ? { graph: read.document } : read.document, options.value);
  const plan = usePlan(body ?? null);
  const found = read.problem ? [read.problem] : [...(plan.fresh ? plan.errors : []), ...(refused?.errors ?? [])].map((each) => {
    const pointer = read.bare ? each.pointer.replace(/^\/graph/, "") : each.pointer;
    return { line: lineOf(read.lines, pointer), detail: each.detail, pointer };
  });
  const problems = [...new Map(found.map((each) => [`${each.line} ${each.detail}`, each])).values()].sort((a, b) => a.line - b.line);
  const failure = refused && !refused.errors?.length ? said(refused) : "";
  return html`<div class="split even">
    <section class="panel" aria-labelledby="h-json"><header><h2 id="h-json">${t("Graph")}</h2><span class="muted">${problems.length ? "" : plan.graph && plan.fresh ? t("Valid.") : ""}</span>
        <span class="end"><button type="button" class="quiet" onClick=${() => change(JSON.stringify(EXAMPLE, null, 2))}>${t("Insert example")}</button></span></header>
      ${error && html`<${Failure} error=${error} />`}
      <${Editor} text=${text} change=${change} problems=${problems} />
      <div class="body"><${Options} ...${options} />
        ${failure && html`<p class="wrong" role="alert">${failure}</p>`}
        <div class="buttons"><button type="button" class="primary big" disabled=${busy || !body || problems.length > 0} onClick=${() => submit(body)}>${t("Run")}</button></div></div>
    </section>
    <div class="stack"><${Planned} plan=${plan} template=${null} note=${plan.graph ? countNodes(plan.graph.nodes.length) : ""} />${body && html`<${Same} body=${body} />`}</div>
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
    if (document === null || typeof document !== "object" || Array.isArray(document)) return { document: null, lines, problem: { line: 1, detail: t("This is no graph: an object is wanted.") } };
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
      <textarea ref=${area} class="mono" aria-label=${t("Graph as JSON")} aria-describedby="problems" aria-invalid=${problems.length ? "true" : undefined} wrap="off" spellcheck=${false} autocomplete="off"
        placeholder=${'{"schema": "langgraph.v1", "nodes": […], "edges": […]}'} value=${text} onInput=${(event) => change(event.target.value)}
        onScroll=${(event) => (gutter.current.firstChild.style.transform = `translateY(${-event.target.scrollTop}px)`)}></textarea>
    </div>
    <ol class="problems" id="problems" aria-live="polite" aria-label=${t("Problems")}>${problems.slice(0, 100).map((each) => html`<li key=${each.line + each.detail}><button type="button" class="quiet" onClick=${() => goto(each.line)}>
      <span class="numbers line-number">${t("line {n}", { n: each.line })}</span><span class="wrong">${each.detail}</span></button></li>`)}</ol>`;
}
