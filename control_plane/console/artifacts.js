// Artifacts: a list, and a page for each with what can be seen or heard of it and where it came from.
import { api, bytesPath, get, metaPath } from "./api.js";
import { exact, plural, size } from "./format.js";
import { follow, go, Link, place, to, withQuery } from "./router.js";
import { Action, Dialog, Empty, Failure, Icon, Loading, Rows, say, shortKey, Time, useWidth } from "./ui.js";
import { html, useEffect, useEvery, useState } from "./view.js";
import { kindOf, Preview } from "./viewers.js";

const LOOK_MS = 5000;
const BUCKETS = ["inputs", "loras", "voices", "videos"];
const KINDS = { video: "▶", audio: "♪", image: "▣", tensors: "≡", text: "¶", other: "·" };

export function ArtifactList() {
  const query = place.query;
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  const narrow = useWidth() < 720;
  const words = new URLSearchParams({ limit: 1000 });
  for (const name of ["bucket", "jobId"]) if (query.get(name)) words.set(name, query.get(name));
  async function look() {
    try {
      setFound((await get(`/api/artifacts?${words}`)).artifacts);
      setError(null);
    } catch (wrong) {
      setError(wrong);
      throw wrong;
    }
  }
  useEvery(LOOK_MS, look, [String(words)]);
  const search = (query.get("q") || "").toLowerCase();
  const shown = (found ?? []).filter((each) => each.key.toLowerCase().includes(search));
  return html`<div class="page fill">
    <div class="title"><h1>Artifacts</h1><span class="muted numbers" aria-live="polite">${found ? plural(shown.length, "file") : ""}${found?.length === 1000 ? " (the newest)" : ""}</span></div>
    <div class="filters">
      <div class="search"><${Icon} of="search" /><input type="search" aria-label="Search by name" placeholder="Search by name" value=${query.get("q") || ""}
        onInput=${(event) => go(withQuery({ q: event.target.value }), { replace: true })} /></div>
      <div class="chips" role="group" aria-label="Bucket">${BUCKETS.map((bucket) => html`<button key=${bucket} type="button" class="chip" aria-pressed=${query.get("bucket") === bucket}
        onClick=${() => go(withQuery({ bucket: query.get("bucket") === bucket ? null : bucket }))}>${bucket}</button>`)}</div>
      ${query.get("jobId") && html`<span class="tag">job ${query.get("jobId")}</span>`}
      ${[...query.keys()].length > 0 && html`<button type="button" class="quiet" onClick=${() => go(place.path)}>Clear</button>`}
    </div>
    ${error && !found ? html`<${Failure} error=${error} retry=${look} />` : !found ? html`<${Loading} rows=${10} />` : !shown.length ? html`<${None} />`
      : html`<div class="jobs" role="table" aria-label="Artifacts" aria-rowcount=${shown.length + 1}>
      <div role="rowgroup" class="table-head"><div role="row" class="artifact-row" aria-rowindex="1">
        ${["", "Name", "Bucket", "Size", "Type", "Created", "By"].map((name, index) => html`<span role="columnheader" key=${index}>${name || html`<span class="hidden">Kind</span>`}</span>`)}</div></div>
      <${Rows} count=${shown.length} height=${narrow ? 58 : 44} label="Artifacts, newest first" row=${(index) => html`<${ArtifactRow} key=${shown[index].key} meta=${shown[index]} index=${index} />`} />
    </div>`}
  </div>`;
}

function ArtifactRow({ meta, index }) {
  const kind = kindOf(meta);
  return html`<div role="row" class="artifact-row" aria-rowindex=${index + 2}>
    <span role="cell" class="a-kind k-${kind}"><span aria-hidden="true">${KINDS[kind]}</span><span class="hidden">${kind}</span></span>
    <span role="cell" class="a-name"><a href=${to.artifact(meta)} onClick=${follow} title=${meta.key}>${shortKey(meta.key)}</a></span>
    <span role="cell" class="a-bucket">${meta.bucket}</span>
    <span role="cell" class="a-size numbers">${size(meta.size_bytes)}</span>
    <span role="cell" class="a-type muted">${meta.content_type}</span>
    <span role="cell" class="a-made muted"><${Time} at=${meta.created_at} /></span>
    <span role="cell" class="a-by">${meta.job_id ? html`<a class="mono" href=${to.job(meta.job_id, meta.node_id)} onClick=${follow} title=${meta.job_id}>${meta.node_id ?? meta.job_id}</a>` : html`<span class="muted">uploaded</span>`}</span>
  </div>`;
}

function None() {
  if ([...place.query.keys()].length) return html`<${Empty} title="No file fits"><p><button type="button" onClick=${() => go(place.path)}>Show every file</button></p><//>`;
  return html`<${Empty} title="No file yet"><p>What jobs make and what you upload is kept here.</p><p><${Link} href=${to.new} class="button primary">New job<//></p><//>`;
}

export function ArtifactPage({ reference }) {
  const [meta, setMeta] = useState(null);
  const [error, setError] = useState(null);
  const [sure, setSure] = useState(false);
  const load = () => get(metaPath(reference)).then((found) => (setMeta(found), setError(null)), setError);
  useEffect(() => void load(), []);
  if (error) return html`<div class="page"><h1 class="hidden">${shortKey(reference.key)}</h1><${Failure} error=${error} retry=${load} /></div>`;
  if (!meta) return html`<div class="page"><h1 class="hidden">${shortKey(reference.key)}</h1><${Loading} /></div>`;
  async function drop() {
    await api(bytesPath(meta), { method: "DELETE" });
    say(`${shortKey(meta.key)} is deleted`);
    go(to.artifacts);
  }
  return html`<div class="page">
    <div class="title"><h1>${shortKey(meta.key)}</h1><span class="tag">${meta.bucket}</span>
      <div class="end"><a class="button" href=${bytesPath(meta)} download=${shortKey(meta.key)}><${Icon} of="download" /> Download</a>
        <button type="button" onClick=${() => setSure(true)}>Delete</button></div></div>
    <div class="split">
      <section class="panel" aria-label="Content"><div class="body"><${Preview} meta=${meta} /></div></section>
      <section class="panel" aria-label="About it"><header><h2>About it</h2></header><div class="body"><${Facts} meta=${meta} /></div></section>
    </div>
    ${sure && html`<${Dialog} title="Delete ${shortKey(meta.key)}?" close=${() => setSure(false)}>
      <p>It cannot be brought back. Jobs that name it will fail.</p>
      <div class="buttons"><button type="button" onClick=${() => setSure(false)}>Keep it</button><${Action} class="danger" work=${drop}>Delete<//></div><//>`}
  </div>`;
}

function Facts({ meta }) {
  return html`<dl class="facts">
    <dt>Size</dt><dd>${size(meta.size_bytes)} <span class="muted">(${meta.size_bytes.toLocaleString()} bytes)</span></dd>
    <dt>Type</dt><dd>${meta.content_type}</dd>
    <dt>Created</dt><dd><${Time} at=${meta.created_at} /> <span class="muted">(${exact(meta.created_at)})</span></dd>
    <dt>From</dt><dd>${meta.job_id ? html`<${Link} href=${to.job(meta.job_id, meta.node_id)}>${meta.node_id ?? "job"}<//> of job${" "}
      <${Link} href=${to.job(meta.job_id)} class="mono">${meta.job_id}<//>` : "an upload"}</dd>
    <dt>Key</dt><dd class="mono">${meta.bucket}/${meta.key}</dd>
    <dt>SHA-256</dt><dd class="mono">${meta.sha256 ?? "unknown: another program stored it"}</dd>
  </dl>`;
}
