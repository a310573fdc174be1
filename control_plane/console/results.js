// What a job has made: the best of it at full width, the rest as a strip below, each with what one wants to do with it next.
import { bytesPath } from "./api.js";
import { fileName } from "./files.js";
import { files as countFiles, size } from "./format.js";
import { t } from "./messages.js";
import { Output } from "./outputs.js";
import { Link, to } from "./router.js";
import { Copy, Icon } from "./ui.js";
import { html, useState } from "./view.js";
import { isPoster, kindOf, posterOf, Preview, Thumbnail } from "./viewers.js";

const ORDER = ["video", "image", "audio", "text", "tensors", "other"];
const STRIP = 40;
const GRID = 24;

const rankOf = (meta) => (/\.vtt$|\.srt$/i.test(meta.key) ? ORDER.length : isPoster(meta) ? ORDER.length + 1 : ORDER.indexOf(kindOf(meta)));

// The files from the best kind to the least, in each kind the last one made first: a film, not what it was made from.
export const ranked = (artifacts) => artifacts.map((meta, index) => [meta, index]).sort(([a, i], [b, j]) => rankOf(a) - rankOf(b) || j - i).map(([meta]) => meta);

export function Results({ job, outputs }) {
  const all = ranked(job.artifacts);
  const sorted = all.every(isPoster) ? all : all.filter((meta) => !isPoster(meta));
  const [chosen, choose] = useState(null);
  const shown = sorted.find((meta) => meta.key === chosen) ?? sorted[0];
  const documents = outputs.filter(({ value }) => value !== null && typeof value === "object" && Object.keys(value).length);
  if (!shown && !documents.length) return null;
  return html`<section class="panel result" aria-labelledby="h-results"><header><h2 id="h-results">${t("Result")}</h2>${sorted.length > 1 && html`<span class="muted">${countFiles(sorted.length)}</span>`}
      ${shown && html`<span class="end"><${FileTools} meta=${shown} job=${job} /></span>`}</header>
    ${shown && html`<div class="lead"><${Lead} key=${shown.key} meta=${shown} /></div>`}
    ${sorted.length > 1 && html`<ul class="strip" aria-label=${t("Files")}>${sorted.slice(0, STRIP).map((meta) => html`<li key=${meta.key}><button type="button" class="strip-one" aria-pressed=${meta === shown} onClick=${() => choose(meta.key)} title="${meta.node_id ?? ""} ${size(meta.size_bytes)}">
        <${Thumbnail} meta=${meta} poster=${posterOf(meta, job.artifacts)} /><span>${fileName(meta)}</span></button></li>`)}
        ${sorted.length > STRIP && html`<li><${Link} href="${to.gallery}?jobId=${encodeURIComponent(job.jobId)}">${t("All {n} files", { n: sorted.length })}<//></li>`}</ul>`}
    ${documents.length > 0 && html`<div class="documents">${documents.slice(0, GRID).map(({ node, value }) => html`<section key=${node.id} class="document" aria-label=${t("Output of {node}", { node: node.definition.name || node.id })}>
      <h3>${node.definition.name || node.id} <${Copy} text=${JSON.stringify(value, null, 2)} label=${t("Copy as JSON")} /></h3><${Output} value=${value} /></section>`)}</div>`}
  </section>`;
}

function Lead({ meta }) {
  return html`<${Preview} meta=${meta} large />`;
}

// Download, use as input, its own page.
export function FileTools({ meta, job }) {
  const name = fileName(meta);
  const download = job?.name ? `${job.name.replace(/[\\/:*?"<>|\n]+/g, " ").trim().slice(0, 80)}.${name.split(".").at(-1)}` : name;
  return html`<a class="button" href=${bytesPath(meta)} download=${download}><${Icon} of="download" />${t("Download")}</a>
    <${Link} class="button" href="${to.new}?use=${encodeURIComponent(`${meta.bucket}/${meta.key}`)}"><${Icon} of="used" />${t("Use as input")}<//>
    <${Link} class="button quiet-link" href=${to.artifact(meta)}>${t("Details")}<//>`;
}
