// The page of a file: what can be seen or heard of it, what made it, and what can be done with it.
import { api, bytesPath, get, metaPath } from "./api.js";
import { favourites } from "./favourites.js";
import { fileName } from "./files.js";
import { exact, nameOf, size } from "./format.js";
import { Graph } from "./graph.js";
import { t } from "./messages.js";
import { originOf } from "./origin.js";
import { Parameters } from "./parameters.js";
import { go, Link, to } from "./router.js";
import { Action, Copyable, Dialog, Failure, Icon, Loading, say, shortKey, Time } from "./ui.js";
import { html, useEffect, useMemo, useSource, useState } from "./view.js";
import { Preview } from "./viewers.js";

export function ArtifactPage({ reference }) {
  const [meta, setMeta] = useState(null);
  const [error, setError] = useState(null);
  const [sure, setSure] = useState(false);
  useSource(favourites);
  const load = () => get(metaPath(reference)).then((found) => (setMeta(found), setError(null)), setError);
  useEffect(() => {
    load();
    favourites.ask(reference).catch(() => {});
  }, []);
  const name = meta ? fileName(meta) : shortKey(reference.key);
  if (error) return html`<div class="page"><h1 class="hidden">${name}</h1><${Failure} error=${error} retry=${load} /></div>`;
  if (!meta) return html`<div class="page"><h1 class="hidden">${name}</h1><${Loading} /></div>`;
  async function drop() {
    await api(bytesPath(meta), { method: "DELETE" });
    say(t("{name} is deleted", { name }));
    go(to.gallery);
  }
  const loved = favourites.has(meta);
  return html`<div class="page">
    <${Link} class="back" href=${to.gallery}><${Icon} of="back" />${t("Artifacts")}<//>
    <div class="title"><h1>${name}</h1><span class="tag">${meta.bucket}</span>
      <div class="end"><button type="button" class="quiet favourite" aria-pressed=${loved} onClick=${() => favourites.toggle(meta)}><${Icon} of="star" />${t("Favourite")}</button>
        <${Link} class="button" href="${to.new}?use=${encodeURIComponent(`${meta.bucket}/${meta.key}`)}"><${Icon} of="used" />${t("Use as input")}<//>
        <a class="button primary" href=${bytesPath(meta)} download=${name}><${Icon} of="download" />${t("Download")}</a>
        <button type="button" class="quiet" onClick=${() => setSure(true)}>${t("Delete")}</button></div></div>
    <div class="split">
      <div class="stack"><section class="panel" aria-label=${t("Content")}><div class="body"><${Preview} meta=${meta} large /></div></section>
        ${meta.job_id && html`<${MadeBy} meta=${meta} />`}</div>
      <div class="stack aside"><section class="panel" aria-label=${t("About it")}><header><h2>${t("About it")}</h2></header><div class="body"><${Facts} meta=${meta} /></div></section></div>
    </div>
    ${sure && html`<${Dialog} title=${t("Delete {name}?", { name })} close=${() => setSure(false)}>
      <p>${t("It cannot be brought back. Jobs that name it will fail.")}</p>
      <div class="buttons"><button type="button" onClick=${() => setSure(false)}>${t("Keep it")}</button><${Action} class="danger" work=${drop}>${t("Delete")}<//></div><//>`}
  </div>`;
}

function Facts({ meta }) {
  return html`<dl class="facts">
    <dt>${t("Size")}</dt><dd>${size(meta.size_bytes)} <span class="muted">(${t("{n} bytes", { n: meta.size_bytes.toLocaleString() })})</span></dd>
    <dt>${t("Type")}</dt><dd>${meta.content_type}</dd>
    <dt>${t("Created")}</dt><dd><${Time} at=${meta.created_at} /> <span class="muted">(${exact(meta.created_at)})</span></dd>
    <dt>${t("From")}</dt><dd>${meta.job_id ? html`${t("node")} <${Link} href=${to.job(meta.job_id, meta.node_id)}>${meta.node_id ?? t("job")}<//> ${t("of job")} <${Link} href=${to.job(meta.job_id)} class="mono">${meta.job_id.slice(0, 12)}<//>` : t("an upload")}</dd>
    <dt>${t("Key")}</dt><dd><${Copyable} text=${`${meta.bucket}/${meta.key}`} label=${t("Copy the key")} /></dd>
    <dt>SHA-256</dt><dd>${meta.sha256 ? html`<${Copyable} text=${meta.sha256} label=${t("Copy the hash")} />` : t("unknown: another program stored it")}</dd>
  </dl>`;
}

// Which runs made it of which files, back to the uploads.
function MadeBy({ meta }) {
  const [origin, setOrigin] = useState(null);
  const [gone, setGone] = useState(false);
  useEffect(() => {
    let ended = false;
    originOf(meta).then((found) => ended || (found ? setOrigin(found) : setGone(true)), () => ended || setGone(true));
    return () => (ended = true);
  }, [meta.key]);
  const nodes = useMemo(() => (origin?.nodes ?? []).map((node) => ({ ...node, progress: 0, attempt: 0 })), [origin]);
  if (gone) return html`<section class="panel" aria-label=${t("What made this")}><header><h2>${t("What made this")}</h2></header><p class="nothing muted">${t("The job is no longer there.")}</p></section>`;
  if (!origin) return html`<section class="panel" aria-label=${t("What made this")}><header><h2>${t("What made this")}</h2></header><div class="body"><${Loading} rows=${2} /></div></section>`;
  const select = (id) => go(origin.nodes.find((node) => node.id === id).href);
  return html`<section class="panel" aria-label=${t("What made this")}><header><h2>${t("What made this")}</h2><span class="muted"><${Link} href=${to.job(origin.job.jobId)}>${nameOf(origin.job)}<//></span></header>
      <${Graph} nodes=${nodes} edges=${origin.edges} select=${select} label=${t("Where {name} comes from", { name: fileName(meta) })} />
      ${origin.inputs.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label=${t("Files it was made of")}><table><thead><tr><th>${t("Made of")}</th><th>SHA-256</th></tr></thead><tbody>${origin.inputs.map((each) => html`<tr key=${each.key}><td><${Link} href=${to.artifact(each)}>${shortKey(each.key)}<//></td><td>${each.sha256 ? html`<${Copyable} text=${each.sha256} shown=${each.sha256.slice(0, 16)} />` : html`<span class="muted">${t("deleted")}</span>`}</td></tr>`)}</tbody></table></div>`}
    </section><${Parameters} job=${origin.job} />`;
}
