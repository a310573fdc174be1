// The list of jobs. Pages come over REST as one scrolls; whatever is in sight is subscribed to, so it lives.
import { api, get, jobPath, patch, post } from "./api.js";
import { between, isAlive, jobs as countJobs, local, nameOf } from "./format.js";
import { LATEST, watch } from "./live.js";
import { served, t, tn } from "./messages.js";
import { hasEnded } from "./notify.js";
import { ranked } from "./results.js";
import { follow, go, Link, place, to, withQuery } from "./router.js";
import { MOST_COMPARED, tagsOf } from "./run.js";
import { Action, Countdown, Dialog, Duration, Empty, Failure, Icon, Loading, Progress, Rows, say, Status, Time, useWidth } from "./ui.js";
import { html, useEffect, useEvery, useMemo, useRedraw, useRef, useState } from "./view.js";
import { KIND_ICONS, kindOf, Thumbnail } from "./viewers.js";

const PAGE = 500;
const LOOK_MS = 2500; // how soon a new job is seen
const SETTLED_MS = 120;
const NEWEST = 100;
const AT_ONCE = 6;
const STATUSES = ["scheduled", "queued", "running", "cancelling", "completed", "failed", "cancelled"];
const PERIODS = { "1h": [t("last hour"), 3600e3], "24h": [t("last day"), 86400e3], "7d": [t("last week"), 7 * 86400e3] };
const WORDS = ["status", "pipeline", "period", "q", "tag"];
const TYPED_MS = 250; // after the last key, before the server is asked
const NARROW = 720;

// The jobs that the query of the address asks for, newest first, as a list that grows at both ends.
class Found {
  constructor(query, redraw) {
    this.redraw = redraw;
    this.parameters = new URLSearchParams();
    for (const name of ["status", "pipeline", "q", "tag"]) if (query.get(name)) this.parameters.set(name, query.get(name));
    const period = PERIODS[query.get("period")];
    if (period) this.parameters.set("since", new Date(Date.now() - period[1]).toISOString());
    this.wanted = (query.get("status") || "").split(",").filter(Boolean);
    this.jobs = new Map();
    this.rows = [];
    this.cursor = undefined; // undefined: nothing has come yet; null: that was all
    this.error = null;
    this.loading = null;
    this.closed = false;
    this.watches = new Map();
  }

  fetch(limit, cursor) {
    const parameters = new URLSearchParams(this.parameters);
    parameters.set("limit", limit);
    if (cursor) parameters.set("cursor", cursor);
    return get(`/api/jobs?${parameters}`);
  }

  more() {
    if (this.cursor === null) return this.loading;
    this.loading ||= this.fetch(this.cursor ? PAGE : NEWEST, this.cursor)
      .then((page) => {
        this.cursor = page.next;
        this.take(page.jobs);
        this.error = null;
        if (!page.jobs.length && page.next && !this.closed) setTimeout(() => this.more()); // the server has looked at many and found none yet
      })
      .catch((error) => {
        this.error = error;
        if (this.cursor && !this.closed) setTimeout(() => this.more(), LOOK_MS);
      })
      .finally(() => {
        this.loading = null;
        this.redraw();
      });
    return this.loading;
  }

  async look() {
    if (this.cursor === undefined) return this.more();
    const page = await this.fetch(NEWEST);
    this.take(page.jobs);
    return this.redraw();
  }

  // A job that is subscribed to is known better than a page that was asked for a moment ago.
  take(jobs) {
    for (const job of jobs) if (!this.watches.has(job.jobId) || !this.jobs.has(job.jobId)) this.jobs.set(job.jobId, job);
    this.sort();
  }

  sort() {
    const fitting = [...this.jobs.values()].filter((job) => this.fits(job));
    this.rows = fitting.sort((a, b) => (a.created < b.created ? 1 : a.created > b.created ? -1 : a.jobId < b.jobId ? 1 : -1));
  }

  hear(jobId, message) {
    const job = this.jobs.get(jobId);
    if (!job) return;
    if (message.type === "resync") this.jobs.set(jobId, message.snapshot.job);
    else if (message.type === "response") this.jobs.delete(jobId);
    else this.jobs.set(jobId, moved(job, message));
    const next = this.jobs.get(jobId);
    if (next && isAlive(job) && !isAlive(next)) hasEnded(next);
    this.rows = next && this.fits(next) ? this.rows.map((each) => (each === job ? next : each)) : this.rows.filter((each) => each !== job);
    this.redraw();
  }

  fits(job) {
    return !this.wanted.length || this.wanted.includes(job.status);
  }

  // Once the rows stand still: who scrolls past a thousand jobs does not watch them.
  see(rows) {
    clearTimeout(this.settled);
    this.settled = setTimeout(() => this.subscribe(rows), SETTLED_MS);
  }

  subscribe(rows) {
    const seen = new Set(rows.map((job) => job.jobId));
    for (const [id, stop] of this.watches) if (!seen.has(id)) (stop(), this.watches.delete(id));
    for (const id of seen) {
      if (!this.watches.has(id)) this.watches.set(id, watch(id, { seq: LATEST }, (message) => this.hear(id, message)));
    }
  }

  close() {
    this.closed = true;
    clearTimeout(this.settled);
    for (const stop of this.watches.values()) stop();
    this.watches.clear();
  }
}

function moved(job, message) {
  const next = { ...job, status: message.status, progress: message.progress };
  for (const event of message.events) {
    if (event.type !== "status") continue;
    if (event.status === "running") next.started ||= event.created;
    next.finished = isAlive({ status: event.status }) ? null : event.created;
    next.error = event.error;
    next.attempt = event.attempt;
    next.waitingFor = null;
  }
  return next;
}

export function JobList() {
  const query = place.query;
  const redraw = useRedraw();
  const words = WORDS.map((name) => query.get(name) || "").join("|");
  const found = useMemo(() => new Found(place.query, redraw), [words]);
  useEffect(() => () => found.close(), [found]);
  useEvery(LOOK_MS, () => found.look(), [found]);
  const [chosen, setChosen] = useState(new Set());
  const narrow = useWidth() < NARROW;
  const shown = found.rows;
  const inSight = useRef([0, 0]);
  const see = (first, last) => {
    inSight.current = [first, last];
    found.see(shown.slice(first, last));
  };
  useEffect(() => found.see(shown.slice(...inSight.current)), [shown]);
  const selected = shown.filter((job) => chosen.has(job.jobId));
  const toggle = (job) => {
    const next = new Set(chosen);
    if (!next.delete(job.jobId)) next.add(job.jobId);
    setChosen(next);
  };
  const everything = async () => {
    while (found.cursor && !found.closed) await found.more();
    setChosen(new Set(found.rows.map((job) => job.jobId)));
  };
  return html`<div class="page fill">
    <div class="title"><h1>${t("Jobs")}</h1>
      <span class="muted numbers" aria-live="polite">${found.cursor === undefined ? "" : found.cursor ? t("more than {jobs}", { jobs: countJobs(shown.length) }) : countJobs(shown.length)}</span></div>
    <${Filters} />
    ${selected.length > 0 && html`<${Bulk} jobs=${selected} clear=${() => setChosen(new Set())} more=${found.cursor && selected.length === shown.length ? everything : null} />`}
    <${Body} found=${found} shown=${shown} narrow=${narrow} see=${see} chosen=${chosen} toggle=${toggle}
      all=${() => setChosen(selected.length === shown.length ? new Set() : new Set(shown.map((job) => job.jobId)))} />
  </div>`;
}

const HEADS = [t("Status"), "", t("Job"), t("Progress"), t("Created"), t("Duration"), t("Note")];

function Body({ found, shown, narrow, see, chosen, toggle, all }) {
  if (found.cursor === undefined) return found.error ? html`<${Failure} error=${found.error} retry=${() => found.more()} />` : html`<${Loading} rows=${10} />`;
  if (!shown.length && found.cursor) return html`<${Loading} rows=${3} />`;
  if (!shown.length) return html`<${Nothing} />`;
  return html`<div class="jobs" role="table" aria-label=${t("Jobs")} aria-rowcount=${found.cursor ? -1 : shown.length + 1}>
    <div role="rowgroup" class="table-head"><div role="row" class="job-row" aria-rowindex="1">
      <span role="columnheader" class="c-pick"><input type="checkbox" aria-label=${t("Choose all")} checked=${chosen.size > 0 && shown.every((job) => chosen.has(job.jobId))} onChange=${all} /></span>
      ${HEADS.map((name, index) => html`<span role="columnheader" key=${index} class="c-${index}">${name || html`<span class="hidden">${t("Picture")}</span>`}</span>`)}
    </div></div>
    <${Rows} count=${shown.length} height=${narrow ? 84 : 52} label=${t("Jobs, newest first")} range=${see} end=${() => found.more()}
      row=${(index) => html`<${JobRow} key=${shown[index].jobId} job=${shown[index]} index=${index} chosen=${chosen.has(shown[index].jobId)} toggle=${toggle} />`} />
  </div>`;
}

function JobRow({ job, index, chosen, toggle }) {
  const note = job.error ? `${job.error.code}: ${job.error.message}` : job.waitingFor?.type === "start_time" ? "" : job.waitingFor?.message || "";
  const what = job.pipeline ?? job.task ?? t("graph");
  return html`<div role="row" class="job-row" aria-rowindex=${index + 2} aria-selected=${chosen}>
    <span role="cell" class="c-pick"><input type="checkbox" aria-label=${t("Choose {name}", { name: nameOf(job) })} checked=${chosen} onChange=${() => toggle(job)} /></span>
    <span role="cell" class="c-0"><${Status} status=${job.status} /></span>
    <span role="cell" class="c-1">${job.thumbnail ? html`<${Thumbnail} meta=${{ ...job.thumbnail, content_type: "" }} />` : html`<span class="thumb blank"><${Icon} of=${iconOf(job)} /></span>`}</span>
    <span role="cell" class="c-2"><a href=${to.job(job.jobId)} onClick=${follow} title=${job.jobId} class=${job.name ? "" : "mono"}>${nameOf(job)}</a>
      <span class="sub muted"><span>${what}</span>${(job.tags ?? []).slice(0, 3).map((tag) => html`<span key=${tag} class="tag plain">${tag}</span>`)}${job.name && html`<span class="mono">${job.jobId.slice(0, 8)}</span>`}</span></span>
    <span role="cell" class="c-3">${isAlive(job) && job.status !== "scheduled" ? html`<${Progress} value=${job.progress} status=${job.status} label=${t("Progress of {name}", { name: nameOf(job) })} />${left(job)}` : job.status === "scheduled" && job.startAt ? html`<span class="muted">${t("starts {time}, in", { time: local(job.startAt) })} <${Countdown} to=${job.startAt} /></span>` : html`<span class="hidden" role="progressbar" aria-label=${t("Progress of {name}", { name: nameOf(job) })} aria-valuenow=${Math.floor(job.progress * 100)}></span>`}</span>
    <span role="cell" class="c-4"><${Time} at=${job.created} /></span>
    <span role="cell" class="c-5">${job.started ? html`<${Duration} from=${job.started} to=${job.finished} />` : html`<span class="muted">–</span>`}</span>
    <span role="cell" class="c-6 ${job.error ? "wrong" : "muted"}" title=${note}>${note}</span>
  </div>`;
}

// What is known of when it starts, or how long it still takes.
function left(job) {
  if (job.startsIn) return html`<span class="left muted">${t("starts in about {range}", { range: between(job.startsIn) })}</span>`;
  return job.estimate && job.started ? html`<span class="left muted">${t("about {range} left", { range: between(job.estimate) })}</span>` : "";
}

// The kind of what it has made; before that, whether it is a graph or something with a name.
function iconOf(job) {
  const best = ranked(job.artifacts)[0];
  return best ? KIND_ICONS[kindOf(best)] : job.pipeline || job.task ? "task" : "graph";
}

function Filters() {
  const query = place.query;
  const [pipelines, setPipelines] = useState([]);
  const [typed, setTyped] = useState(query.get("q") || "");
  const timer = useRef(0);
  useEffect(() => {
    get("/api/pipelines").then((found) => setPipelines(found.pipelines), () => {});
    return () => clearTimeout(timer.current);
  }, []);
  useEffect(() => setTyped(query.get("q") || ""), [query]);
  const wanted = (query.get("status") || "").split(",").filter(Boolean);
  const tags = (query.get("tag") || "").split(",").filter(Boolean);
  const choose = (status) => {
    const next = wanted.includes(status) ? wanted.filter((each) => each !== status) : [...wanted, status];
    go(withQuery({ status: next.join(",") }));
  };
  const search = (text) => {
    setTyped(text);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => go(withQuery({ q: text.trim() }), { replace: true }), TYPED_MS);
  };
  async function find(event) {
    event.preventDefault();
    const id = typed.trim();
    if (!/^[\w.-]{4,}$/.test(id)) return;
    const job = await get(jobPath(id)).catch(() => null);
    if (job) go(to.job(job.jobId));
  }
  return html`<div class="filters">
    <form role="search" class="search" onSubmit=${find}>
      <${Icon} of="search" />
      <input type="search" aria-label=${t("Search all jobs")} placeholder=${t("Name, tag, parameter, id")} value=${typed} spellcheck="false" autocomplete="off" onInput=${(event) => search(event.target.value)} />
    </form>
    <div class="chips" role="group" aria-label=${t("Status")}>
      ${STATUSES.map((status) => html`<button key=${status} type="button" class="chip" aria-pressed=${wanted.includes(status)} onClick=${() => choose(status)}>
        <${Status} status=${status} /></button>`)}
    </div>
    <select aria-label=${t("Pipeline")} value=${query.get("pipeline") || ""} onChange=${(event) => go(withQuery({ pipeline: event.target.value }))}>
      <option value="">${t("All pipelines")}</option>
      ${pipelines.map((each) => html`<option key=${each.id} value=${each.id} selected=${each.id === query.get("pipeline")}>${served(each.label)}</option>`)}
    </select>
    <select aria-label=${t("Period")} value=${query.get("period") || ""} onChange=${(event) => go(withQuery({ period: event.target.value }))}>
      <option value="">${t("Any time")}</option>
      ${Object.entries(PERIODS).map(([word, [label]]) => html`<option key=${word} value=${word} selected=${word === query.get("period")}>${label}</option>`)}
    </select>
    ${tags.map((tag) => html`<button key=${tag} type="button" class="chip" aria-label=${t("Remove {name}", { name: tag })} onClick=${() => go(withQuery({ tag: tags.filter((each) => each !== tag).join(",") }))}><${Icon} of="tag" />${tag}<${Icon} of="close" /></button>`)}
    ${[...query.keys()].length > 0 && html`<button type="button" class="quiet" onClick=${() => go(place.path)}>${t("Clear")}</button>`}
  </div>`;
}

function Nothing() {
  if ([...place.query.keys()].length) {
    return html`<${Empty} title=${t("No matches")}><p>${t("Search looks at name, tags, pipeline, given parameters and the beginning of the id of every job.")}</p>
      <p><button type="button" onClick=${() => go(place.path)}>${t("Show all jobs")}</button></p><//>`;
  }
  return html`<${Empty} title=${t("No job yet")}>
    <p>${t("A sentence becomes a film in which a storyteller speaks it.")}</p>
    <p><${Link} href="${to.new}?pipeline=talking_picture" class="button primary">${t("Make a video")}<//> <${Link} href=${to.new} class="button">${t("See all pipelines")}<//></p><//>`;
}

// Bulk ---------------------------------------------------------------------------------------------------------------------

function Bulk({ jobs, clear, more }) {
  const [sure, setSure] = useState(null);
  const alive = jobs.filter((job) => isAlive(job) && job.status !== "cancelling");
  const again = jobs.filter((job) => job.status === "failed" || job.status === "cancelled");
  const ended = jobs.filter((job) => !isAlive(job));
  async function each(some, work, done) {
    const refused = await many(some, work);
    const counted = countJobs(some.length - refused.length);
    say(refused.length ? t("{done}: {jobs}; {n} refused: {why}", { done, jobs: counted, n: refused.length, why: refused[0].message }) : `${done}: ${counted}`, refused.length ? "wrong" : "done");
    setSure(null);
    clear();
  }
  const cancel = () => each(alive, (job) => post(`${jobPath(job.jobId)}/cancel`), t("Cancelled"));
  const retry = () => each(again, (job) => post(`${jobPath(job.jobId)}/retry`), t("Retried"));
  const mark = (event) => {
    event.preventDefault();
    const tags = tagsOf(new FormData(event.target).get("tags"));
    if (tags.length) each(jobs, (job) => patch(jobPath(job.jobId), { tags: [...new Set([...(job.tags ?? []), ...tags])] }), t("Tagged"));
  };
  const drop = () => each(ended, (job) => api(jobPath(job.jobId), { method: "DELETE" }), t("Deleted"));
  return html`<div class="bulk" role="group" aria-label=${t("Chosen jobs")}>
    <strong class="numbers">${tn(jobs.length, "{n} job chosen", "{n} jobs chosen")}</strong>
    ${more && html`<${Action} class="quiet" work=${more}>${t("Choose all that match")}<//>`}
    ${jobs.length >= 2 && jobs.length <= MOST_COMPARED && html`<${Link} class="button" href=${to.compare(jobs.map((job) => job.jobId))}><${Icon} of="compare" />${t("Compare")}<//>`}
    <button type="button" disabled=${!alive.length} onClick=${() => setSure("cancel")}>${t("Cancel {n}", { n: alive.length.toLocaleString() })}</button>
    <${Action} disabled=${!again.length} work=${retry}>${t("Retry {n}", { n: again.length.toLocaleString() })}<//>
    <button type="button" onClick=${() => setSure("tag")}><${Icon} of="tag" />${t("Tag {n}", { n: jobs.length.toLocaleString() })}</button>
    <button type="button" disabled=${!ended.length} onClick=${() => setSure("drop")}><${Icon} of="trash" />${t("Delete {n}", { n: ended.length.toLocaleString() })}</button>
    <button type="button" class="quiet" onClick=${clear}>${t("Clear")}</button>
    ${sure === "cancel" && html`<${Dialog} title=${tn(alive.length, "Cancel {n} job?", "Cancel {n} jobs?")} close=${() => setSure(null)}>
      <p>${t("What runs is stopped; what is finished stays.")}</p>
      <div class="buttons"><button type="button" onClick=${() => setSure(null)}>${t("Keep them")}</button>
        <${Action} class="danger" work=${cancel}>${tn(alive.length, "Cancel {n} job", "Cancel {n} jobs")}<//></div><//>`}
    ${sure === "tag" && html`<${Dialog} title=${tn(jobs.length, "Tag {n} job", "Tag {n} jobs")} close=${() => setSure(null)}><form class="stack" onSubmit=${mark}>
      <label class="field"><span>${t("Tags")}</span><input name="tags" type="text" required autofocus placeholder=${t("Separated by commas")} autocomplete="off" /></label>
      <div class="buttons"><button class="primary">${t("Add")}</button></div></form><//>`}
    ${sure === "drop" && html`<${Dialog} title=${tn(ended.length, "Delete {n} job?", "Delete {n} jobs?")} close=${() => setSure(null)}>
      <p>${t("Their records and logs go; their files stay under Artifacts.")}</p>
      <div class="buttons"><button type="button" onClick=${() => setSure(null)}>${t("Keep them")}</button>
        <${Action} class="danger" work=${drop}>${tn(ended.length, "Delete {n} job", "Delete {n} jobs")}<//></div><//>`}
  </div>`;
}

// Works through the items, a few at a time; answers the errors.
async function many(items, work) {
  const left = [...items];
  const errors = [];
  const hands = Array.from({ length: AT_ONCE }, async () => {
    for (let item = left.shift(); item; item = left.shift()) await work(item).catch((error) => errors.push(error));
  });
  await Promise.all(hands);
  return errors;
}
