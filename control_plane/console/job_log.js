// The log of a job: what it was told and what happened, searched, followed and taken along. Numbers that are curves already are apart.
import { clockTime, exact, STATUS } from "./format.js";
import { t, tn } from "./messages.js";
import { Copy, Icon, Rows } from "./ui.js";
import { html, useMemo, useState } from "./view.js";

const ROW = 26;
const VISIBLE = 14;
const LEVELS = ["debug", "info", "warning", "error"];
const RANK = { debug: 0, info: 1, warning: 2, error: 3, stderr: 2, stdout: 1 };

export function Log({ model, selected }) {
  const [kind, setKind] = useState("log");
  const [level, setLevel] = useState("");
  const [search, setSearch] = useState("");
  const [wrap, setWrap] = useState(false);
  const [follow, setFollow] = useState(true);
  const [picked, setPicked] = useState(null);
  const isData = kind === "data";
  const wanted = search.toLowerCase();
  const all = useMemo(() => model.events.filter((event) => !selected || !event.nodeId || event.nodeId === selected), [model.version, selected]);
  const data = all.filter((event) => event.type === "data").length;
  const events = all.filter((event) => (event.type === "data") === isData && (!level || event.type !== "log" || (RANK[event.level] ?? 1) >= RANK[level]) && (!wanted || `${event.nodeId ?? "job"} ${sentence(event)}`.toLowerCase().includes(wanted)));
  const first = model.events[0]?.seq ?? 1;
  const tab = (name, label, count) => html`<button type="button" class="chip" aria-pressed=${kind === name} onClick=${() => setKind(name)}>${label} <span class="muted numbers">${count.toLocaleString()}</span></button>`;
  return html`<section class="panel" aria-labelledby="h-log"><header><h2 id="h-log">${t("Log")}</h2>
      <span class="chips" role="group" aria-label=${t("What is shown")}>${tab("log", t("Events"), all.length - data)}${tab("data", t("Data"), data)}</span>
      <span class="end log-tools">
        <span class="search"><${Icon} of="search" /><input type="search" aria-label=${t("Search the log")} placeholder=${t("Search the log")} value=${search} onInput=${(event) => setSearch(event.target.value)} /></span>
        <select aria-label=${t("Least level")} value=${level} onChange=${(event) => setLevel(event.target.value)}><option value="">${t("All levels")}</option>${LEVELS.map((each) => html`<option key=${each} value=${each}>${t("{level} and above", { level: each })}</option>`)}</select>
        <button type="button" class="quiet icon-only" aria-label=${t("Follow the newest")} title=${t("Follow the newest")} aria-pressed=${follow} onClick=${() => setFollow(!follow)}><${Icon} of="follow" /></button>
        <button type="button" class="quiet icon-only" aria-label=${t("Wrap lines")} title=${t("Wrap lines")} aria-pressed=${wrap} onClick=${() => setWrap(!wrap)}><${Icon} of="wrap" /></button>
        <${DownloadLog} model=${model} events=${events} /></span></header>
    ${first > 1 && html`<p class="trimmed muted">${tn(first - 1, "The log keeps the newest events; {n} older one is gone.", "The log keeps the newest events; {n} older ones are gone.")}</p>`}
    ${wrap ? html`<${Wrapped} events=${events} follow=${follow} />` : html`<div class="log" style=${{ height: `${Math.min(Math.max(events.length, 3), VISIBLE) * ROW + 8}px` }}>
      <${Rows} count=${events.length} height=${ROW} follow=${follow} role="log" label=${t("Events of the job")} row=${(index) => html`<${LogRow} key=${events[index].seq} event=${events[index]} picked=${picked === events[index].seq} pick=${setPicked} />`} />
    </div>`}
    ${!events.length && html`<p class="nothing muted">${search || level ? t("No matches") : t("Nothing yet.")}</p>`}
    ${picked !== null && !wrap && html`<${Picked} event=${model.events.find((event) => event.seq === picked)} close=${() => setPicked(null)} />`}
  </section>`;
}

const WRAPPED = 2000; // lines of any height are all drawn

function Wrapped({ events }) {
  return html`<div class="log wrapped" role="log" tabindex="0" aria-label=${t("Events of the job")}>${events.slice(-WRAPPED).map((event) => html`<div key=${event.seq} class="log-line e-${event.type} ${event.level ? `l-${event.level}` : ""}"><span class="log-time" title=${exact(event.created)}>${clockTime(event.created)}</span><span class="log-node">${event.nodeId ?? "job"}</span><span class="log-text">${sentence(event)}</span></div>`)}</div>`;
}

// What is shown, as a file.
function DownloadLog({ model, events }) {
  const save = () => {
    const text = events.map((event) => `${event.created} ${event.nodeId ?? "job"} ${event.level ?? event.type} ${sentence(event)}`).join("\n");
    const url = URL.createObjectURL(new Blob([text, "\n"], { type: "text/plain" }));
    Object.assign(document.createElement("a"), { href: url, download: `${model.jobId}.log` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
  return html`<button type="button" class="quiet icon-only" aria-label=${t("Download the log")} title=${t("Download the log")} onClick=${save}><${Icon} of="download" /></button>`;
}

function LogRow({ event, picked, pick }) {
  return html`<button type="button" class="log-row e-${event.type} ${event.level ? `l-${event.level}` : ""}" aria-pressed=${picked} title=${exact(event.created)} onClick=${() => pick(picked ? null : event.seq)}>
    <span class="log-time">${clockTime(event.created)}</span><span class="log-node">${event.nodeId ?? "job"}</span><span class="log-text">${sentence(event)}</span></button>`;
}

function sentence(event) {
  const status = STATUS[event.status] ?? event.status;
  if (event.type === "status") return event.error ? `${status}: ${event.error.message}` : status + (event.attempt > 1 ? ` (${t("attempt {n}", { n: event.attempt })})` : "");
  if (event.type === "node") return event.error ? `${status}: ${event.error.code}: ${event.error.message}` : status + (event.worker ? ` ${t("on {worker}", { worker: event.worker })}` : "") + (event.reason ? ` (${event.reason})` : "");
  if (event.type === "data") return `${event.name} ${JSON.stringify(event.data)}`;
  return event.message;
}

function Picked({ event, close }) {
  if (!event) return null;
  const text = event.type === "log" ? event.message : JSON.stringify(event, null, 2);
  return html`<div class="picked"><div><span class="muted">${t("event {n}", { n: event.seq })}, ${exact(event.created)}</span>
      <span><${Copy} text=${text} /><button type="button" class="quiet icon-only" aria-label=${t("Close")} onClick=${close}><${Icon} of="close" /></button></span></div>
    <pre tabindex="0" role="region" aria-label=${t("event {n}", { n: event.seq })}>${text}</pre></div>`;
}
