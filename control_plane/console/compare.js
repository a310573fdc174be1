// Two to six jobs beside each other: which parameters differ, their curves over each other, and what they made with a line to wipe.
import { bytesPath } from "./api.js";
import { COLOURS, Curves } from "./curves.js";
import { ms, nameOf, took } from "./format.js";
import { t } from "./messages.js";
import { JobModel } from "./model.js";
import { titleOf } from "./fields.js";
import { Value } from "./parameters.js";
import { ranked } from "./results.js";
import { Link, place, to } from "./router.js";
import { Failure, Icon, Loading, Status } from "./ui.js";
import { html, useEffect, useMemo, useRedraw, useRef, useState } from "./view.js";
import { kindOf, Picture, Preview } from "./viewers.js";

const MOST = 6;

export function Compare() {
  const ids = (place.query.get("jobs") ?? "").split(",").filter(Boolean).slice(0, MOST);
  const redraw = useRedraw();
  const models = useMemo(() => ids.map((id) => new JobModel(id)), [ids.join()]);
  useEffect(() => {
    const stops = models.map((model) => model.listen(redraw));
    for (const model of models) model.load();
    return () => models.forEach((model, index) => (stops[index](), model.close()));
  }, [models]);
  const ready = models.filter((model) => model.job);
  const failed = models.find((model) => model.error);
  return html`<div class="page"><${Link} class="back" href=${to.jobs}><${Icon} of="back" />${t("Jobs")}<//>
    <h1>${t("Compare")}</h1>
    ${ids.length < 2 ? html`<p>${t("Choose two to six jobs in the list, then Compare.")}</p>` : failed ? html`<${Failure} error=${failed.error} />` : ready.length < ids.length ? html`<${Loading} />` : html`
      <${Params} jobs=${ready.map((model) => model.job)} />
      <${Outputs} jobs=${ready.map((model) => model.job)} />
      <${Over} models=${ready} />`}
  </div>`;
}

const Mark = ({ index }) => html`<i class="mark-colour" style=${{ background: COLOURS[index] }} aria-hidden="true"></i>`;

function Params({ jobs }) {
  const [all, setAll] = useState(false);
  const names = [...new Set(jobs.flatMap((job) => Object.keys(job.params ?? {})))];
  const written = (job, name) => JSON.stringify(job.params?.[name] ?? null);
  const differ = new Set(names.filter((name) => jobs.some((job) => written(job, name) !== written(jobs[0], name))));
  const shown = names.filter((name) => all || differ.has(name));
  return html`<section class="panel" aria-labelledby="h-differ"><header><h2 id="h-differ">${all ? t("Parameters") : t("Parameters that differ")}</h2>
      <span class="end">${names.length > differ.size && html`<button type="button" class="chip" aria-pressed=${all} onClick=${() => setAll(!all)}>${t("All parameters")}</button>`}</span></header>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="h-differ"><table class="compared"><thead><tr><th><span class="hidden">${t("Parameter")}</span></th>${jobs.map((job, index) => html`<th key=${job.jobId} scope="col"><${Mark} index=${index} /><${Link} href=${to.job(job.jobId)}>${nameOf(job)}<//></th>`)}</tr></thead>
      <tbody><tr><th scope="row">${t("Status")}</th>${jobs.map((job) => html`<td key=${job.jobId}><${Status} status=${job.status} /></td>`)}</tr>
        <tr><th scope="row">${t("Duration")}</th>${jobs.map((job) => html`<td key=${job.jobId} class="numbers">${job.started && job.finished ? took(ms(job.finished) - ms(job.started)) : "–"}</td>`)}</tr>
        ${shown.map((name) => html`<tr key=${name} class=${differ.has(name) ? "differs" : ""}><th scope="row" title=${name}>${titleOf(name)}</th>${jobs.map((job) => html`<td key=${job.jobId}>${Object.hasOwn(job.params ?? {}, name) ? html`<${Value} value=${job.params[name]} />` : html`<span class="muted">–</span>`}</td>`)}</tr>`)}</tbody></table></div>
    ${!differ.size && html`<p class="nothing muted">${t("They were given the same parameters.")}</p>`}</section>`;
}

function Outputs({ jobs }) {
  const best = jobs.map((job) => ranked(job.artifacts)[0]);
  if (!best.some(Boolean)) return null;
  const kinds = new Set(best.filter(Boolean).map(kindOf));
  const pairs = kinds.size === 1 && ["image", "video"].some((kind) => kinds.has(kind)) && best.filter(Boolean).length >= 2;
  return html`<section class="panel" aria-labelledby="h-outputs"><header><h2 id="h-outputs">${t("What they made")}</h2></header><div class="body">
    ${pairs && html`<${Wipe} jobs=${jobs} files=${best} />`}
    <div class="beside">${jobs.map((job, index) => html`<figure key=${job.jobId}><figcaption><${Mark} index=${index} />${nameOf(job)}</figcaption>${best[index] ? html`<${Preview} meta=${best[index]} />` : html`<p class="muted">${t("nothing")}</p>`}</figure>`)}</div></div></section>`;
}

// Two of the results in one frame; the line between them is moved.
function Wipe({ jobs, files }) {
  const there = files.map((meta, index) => (meta ? index : -1)).filter((index) => index >= 0);
  const [[left, right], setPair] = useState([there[0], there[1]]);
  const [at, setAt] = useState(50);
  const box = useRef(null);
  const isVideo = kindOf(files[left]) === "video";
  const films = () => [...box.current.querySelectorAll("video")];
  const toggle = () => {
    const [a, b] = films();
    if (a.paused) {
      b.currentTime = a.currentTime;
      for (const film of [a, b]) film.play().catch(() => {});
    } else for (const film of [a, b]) film.pause();
  };
  const show = (index) => (isVideo ? html`<video src=${bytesPath(files[index])} muted loop playsinline preload="auto" tabindex="-1"></video>` : html`<${Picture} reference=${files[index]} alt=${nameOf(jobs[index])} />`);
  const choose = (which) => html`<select aria-label=${which ? t("Right side") : t("Left side")} onChange=${(event) => setPair(which ? [left, Number(event.target.value)] : [Number(event.target.value), right])}>${there.map((index) => html`<option key=${index} value=${index} selected=${index === (which ? right : left)}>${nameOf(jobs[index])}</option>`)}</select>`;
  const drag = (event) => {
    if (!(event.buttons & 1)) return;
    const edge = box.current.getBoundingClientRect();
    setAt(Math.min(100, Math.max(0, ((event.clientX - edge.left) / edge.width) * 100)));
  };
  return html`<div class="wipe-box"><div class="wipe-tools">${choose(0)}${isVideo && html`<button type="button" onClick=${toggle}><${Icon} of="play" />${t("Play or pause both")}</button>`}${choose(1)}</div>
    <div class="wipe" ref=${box} onPointerDown=${(event) => (box.current.setPointerCapture(event.pointerId), drag(event))} onPointerMove=${drag}>
      <div class="wipe-side" key=${`l${left}`}>${show(left)}</div><div class="wipe-side over-side" key=${`r${right}`} style=${{ clipPath: `inset(0 0 0 ${at}%)` }}>${show(right)}</div><span class="wipe-line" style=${{ left: `${at}%` }}></span></div>
    <input type="range" min="0" max="100" step="0.5" value=${at} aria-label=${t("Where the line is")} onInput=${(event) => setAt(Number(event.target.value))} /></div>`;
}

function Over({ models }) {
  const names = new Map();
  models.forEach((model, index) => {
    for (const series of model.series.values()) {
      if (series.points.length < 2) continue;
      if (!names.has(series.key)) names.set(series.key, { ...series, lines: [] });
      names.get(series.key).lines.push({ name: nameOf(model.job), points: series.points, index });
    }
  });
  const all = [...names.values()].filter((each) => each.lines.length);
  if (!all.length) return null;
  return html`<section class="panel" aria-labelledby="h-over"><header><h2 id="h-over">${t("Curves")}</h2></header><div class="body"><${Curves} series=${all.slice(0, 24)} /></div></section>`;
}
