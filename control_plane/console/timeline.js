// When each node waited and ran: the light part of a bar is the time in the queue, the full part the time of work.
import { exact, ms, STATUS, took } from "./format.js";
import { t, tn } from "./messages.js";
import { now, Rows, Status, useNow } from "./ui.js";
import { html } from "./view.js";

const HEIGHT = 30;
const MOST_SHOWN = 12;
const TICKS = 4;

// The runs of a node in the job's present attempt; where the log no longer tells, what the graph says.
function runsOf(node, attempt) {
  const runs = node.runs.filter((run) => (run.begun ?? attempt) === attempt);
  if (runs.length || !node.started) return runs;
  return [{ start: ms(node.started), end: ms(node.finished), status: node.status, attempt: node.attempt }];
}

export function Timeline({ model, select, selected, critical }) {
  useNow();
  const job = model.job;
  const nodes = [...model.nodes.values()];
  const rows = nodes.map((node) => ({ node, runs: runsOf(node, job.attempt) }));
  const begins = rows.flatMap(({ runs }) => runs.flatMap((run) => [run.ready, run.start])).filter(Boolean);
  const from = job.attempt === 1 ? Math.min(ms(job.created), ...begins) : Math.min(...begins, Infinity);
  if (!Number.isFinite(from)) return html`<p class="muted">${t("Nothing has run in this attempt yet.")}</p>`;
  const to = Math.max(job.finished ? ms(job.finished) : now(), from + 1, ...rows.flatMap(({ runs }) => runs.map((run) => run.end || 0)));
  const sorted = rows.sort((a, b) => firstOf(a) - firstOf(b));
  return html`<div class="timeline" role="table" aria-label=${t("Timeline of {n} nodes", { n: nodes.length })} aria-rowcount=${nodes.length}>
    <div class="axis" aria-hidden="true">${Array.from({ length: TICKS + 1 }, (_, tick) => html`<span key=${tick}>${took(((to - from) * tick) / TICKS)}</span>`)}</div>
    <div class="timeline-rows" role="presentation" style=${{ height: `${Math.min(nodes.length, MOST_SHOWN) * HEIGHT}px` }}>
      <${Rows} count=${sorted.length} height=${HEIGHT} label=${t("Nodes by start")} row=${(index) => html`<${Row} key=${sorted[index].node.id} ...${sorted[index]}
        index=${index} from=${from} to=${to} present=${now()} select=${select} selected=${sorted[index].node.id === selected} critical=${critical.ids.has(sorted[index].node.id)} />`} />
    </div>
    <p class="legend muted" aria-hidden="true"><span><i class="wait"></i> ${t("queued")}</span>${ENDS.filter((status) => nodes.some((node) => node.status === status)).map((status) => html`<span key=${status} class="s-${status}"><i class="run"></i> ${STATUS[status]}</span>`)}
      ${critical.ids.size > 0 && html`<span><i class="path"></i> ${t("critical path")}</span>`}<span class="end">${t("time at work, then time in the queue")}</span></p>
  </div>`;
}

const ENDS = ["running", "completed", "failed", "cancelled"];
const firstOf = ({ runs }) => runs[0]?.ready ?? runs[0]?.start ?? Infinity;

function Row({ node, runs, index, from, to, present, select, selected, critical }) {
  const last = runs.at(-1);
  const waited = runs.reduce((sum, run) => sum + (run.ready ? (run.start ?? present) - run.ready : 0), 0);
  const ran = runs.reduce((sum, run) => sum + (run.start ? (run.end ?? present) - run.start : 0), 0);
  const bar = (start, end, kind, title) => html`<i class=${kind} title=${title} style=${{ left: `${((start - from) / (to - from)) * 100}%`, width: `${Math.max(0, ((end - start) / (to - from)) * 100)}%` }}></i>`;
  return html`<div class="timeline-row ${critical ? "critical" : ""}" role="row" aria-rowindex=${index + 1}>
    <span role="cell" class="timeline-name"><button type="button" class="quiet" aria-pressed=${selected} onClick=${() => select(node.id)}>
      <${Status} status=${node.status}>${node.definition.name || node.id}<//></button>${runs.length > 1 && html`<span class="muted runs" title=${tn(runs.length, "{n} run", "{n} runs")}>×${runs.length}</span>`}</span>
    <span role="cell" class="bars">
      ${runs.map((run, each) => html`<span key=${each} class="s-${run.status ?? (run.end ? node.status : "running")}">
        ${run.ready && bar(run.ready, run.start ?? present, "wait", t("queued for {time} from {start}", { time: took((run.start ?? present) - run.ready), start: exact(run.ready) }))}
        ${run.start && bar(run.start, run.end ?? present, "run", `${t("attempt {n}", { n: run.attempt })}: ${took((run.end ?? present) - run.start)} ${t("from {start}", { start: exact(run.start) })}${run.worker ? ` ${t("on {worker}", { worker: run.worker })}` : ""}`)}
      </span>`)}
    </span>
    <span role="cell" class="numbers timeline-took">${last ? html`${took(ran)}${waited >= 50 ? html`<span class="muted"> + ${took(waited)}<span class="hidden"> ${t("in the queue")}</span></span>` : ""}`
      : html`<span class="muted">${node.started ? t("kept") : "–"}</span>`}</span>
  </div>`;
}
