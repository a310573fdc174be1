// The list of jobs. Pages come over REST as one scrolls; whatever is in sight is subscribed to, so it lives.
import { get, jobPath, post } from "./api.js";
import { isAlive, plural } from "./format.js";
import { LATEST, watch } from "./live.js";
import { follow, go, Link, place, to, withQuery } from "./router.js";
import { Action, Dialog, Duration, Empty, Failure, Icon, Loading, Progress, Rows, say, Status, Time, useWidth } from "./ui.js";
import { html, useEffect, useEvery, useMemo, useRedraw, useRef, useState } from "./view.js";

const PAGE = 500;
const LOOK_MS = 2500; // how soon a new job is seen
const SETTLED_MS = 120;
const NEWEST = 100;
const AT_ONCE = 6;
const STATUSES = ["scheduled", "queued", "running", "cancelling", "completed", "failed", "cancelled"];
const PERIODS = { "1h": ["last hour", 3600e3], "24h": ["last day", 86400e3], "7d": ["last week", 7 * 86400e3] };
const NARROW = 720;

// The jobs that the query of the address asks for, newest first, as a list that grows at both ends.
class Found {
  constructor(query, redraw) {
    this.redraw = redraw;
    this.parameters = new URLSearchParams();
    for (const name of ["status", "pipeline"]) if (query.get(name)) this.parameters.set(name, query.get(name));
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
  const words = ["status", "pipeline", "period"].map((name) => query.get(name) || "").join("|");
  const found = useMemo(() => new Found(place.query, redraw), [words]);
  useEffect(() => () => found.close(), [found]);
  useEvery(LOOK_MS, () => found.look(), [found]);
  const [chosen, setChosen] = useState(new Set());
  const search = (query.get("q") || "").toLowerCase();
  const rows = useMemo(() => (search ? found.rows.filter((job) => job.jobId.toLowerCase().includes(search)) : found.rows), [found.rows, search]);
  const asked = useAsked(search, rows.length > 0 || found.cursor === undefined, redraw);
  const narrow = useWidth() < NARROW;
  const shown = rows.length ? rows : asked;
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

  return html`<div class="page fill">
    <div class="title"><h1>Jobs</h1>
      <span class="muted numbers" aria-live="polite">${found.cursor === undefined ? "" : `${plural(rows.length, "job")}${found.cursor ? " so far" : ""}`}</span></div>
    <${Filters} />
    ${selected.length > 0 && html`<${Bulk} jobs=${selected} clear=${() => setChosen(new Set())} />`}
    <${Body} found=${found} shown=${shown} search=${search} narrow=${narrow} see=${see} chosen=${chosen} toggle=${toggle}
      all=${() => setChosen(selected.length === shown.length ? new Set() : new Set(shown.map((job) => job.jobId)))} />
  </div>`;
}

function Body({ found, shown, search, narrow, see, chosen, toggle, all }) {
  if (found.cursor === undefined) return found.error ? html`<${Failure} error=${found.error} retry=${() => found.more()} />` : html`<${Loading} rows=${10} />`;
  if (!shown.length && found.cursor && search) {
    found.more();
    return html`<${Loading} rows=${3} />`;
  }
  if (!shown.length) return html`<${Nothing} />`;
  return html`<div class="jobs" role="table" aria-label="Jobs" aria-rowcount=${found.cursor ? -1 : shown.length + 1}>
    <div role="rowgroup" class="table-head"><div role="row" class="job-row" aria-rowindex="1">
      <span role="columnheader" class="c-pick"><input type="checkbox" aria-label="Choose all" checked=${chosen.size > 0 && shown.every((job) => chosen.has(job.jobId))} onChange=${all} /></span>
      ${["Status", "Job", "Pipeline", "Progress", "Age", "Duration", ""].map((name, index) => html`<span role="columnheader" key=${index} class="c-${index}">${name || html`<span class="hidden">What is wrong</span>`}</span>`)}
    </div></div>
    <${Rows} count=${shown.length} height=${narrow ? 76 : 44} label="Jobs, newest first" range=${see} end=${() => found.more()}
      row=${(index) => html`<${JobRow} key=${shown[index].jobId} job=${shown[index]} index=${index} chosen=${chosen.has(shown[index].jobId)} toggle=${toggle} />`} />
  </div>`;
}

function JobRow({ job, index, chosen, toggle }) {
  const note = job.error ? `${job.error.code}: ${job.error.message}` : job.waitingFor?.message || "";
  return html`<div role="row" class="job-row" aria-rowindex=${index + 2} aria-selected=${chosen}>
    <span role="cell" class="c-pick"><input type="checkbox" aria-label="Choose ${job.jobId}" checked=${chosen} onChange=${() => toggle(job)} /></span>
    <span role="cell" class="c-0"><${Status} status=${job.status} /></span>
    <span role="cell" class="c-1"><a href=${to.job(job.jobId)} onClick=${follow} title=${job.jobId}>${job.jobId}</a></span>
    <span role="cell" class="c-2">${job.pipeline || html`<span class="muted">graph</span>`}</span>
    <span role="cell" class="c-3"><${Progress} value=${job.progress} status=${job.status} label="Progress of ${job.jobId}" /></span>
    <span role="cell" class="c-4"><${Time} at=${job.created} /></span>
    <span role="cell" class="c-5">${job.started ? html`<${Duration} from=${job.started} to=${job.finished} />` : html`<span class="muted">–</span>`}</span>
    <span role="cell" class="c-6 ${job.error ? "wrong" : "muted"}" title=${note}>${note}</span>
  </div>`;
}

// A job that no loaded page has may still be there.
function useAsked(search, some, redraw) {
  const asked = useRef({ search: "", jobs: [] });
  useEffect(() => {
    asked.current = { search, jobs: [] };
    if (!search || some) return undefined;
    const stop = new AbortController();
    const timer = setTimeout(() => {
      get(jobPath(place.query.get("q")), { signal: stop.signal })
        .then((job) => {
          asked.current.jobs = [job];
          redraw();
        })
        .catch(() => {});
    }, 250);
    return () => (clearTimeout(timer), stop.abort());
  }, [search, some]);
  return asked.current.search === search ? asked.current.jobs : [];
}

function Filters() {
  const query = place.query;
  const [pipelines, setPipelines] = useState([]);
  const [typed, setTyped] = useState(query.get("q") || "");
  useEffect(() => {
    get("/api/pipelines").then((found) => setPipelines(found.pipelines), () => {});
  }, []);
  useEffect(() => setTyped(query.get("q") || ""), [query]);
  const wanted = (query.get("status") || "").split(",").filter(Boolean);
  const choose = (status) => {
    const next = wanted.includes(status) ? wanted.filter((each) => each !== status) : [...wanted, status];
    go(withQuery({ status: next.join(",") }));
  };
  async function find(event) {
    event.preventDefault();
    const id = typed.trim();
    if (!id) return;
    const job = await get(jobPath(id)).catch(() => null);
    if (job) go(to.job(job.jobId));
  }
  return html`<div class="filters">
    <form role="search" class="search" onSubmit=${find}>
      <${Icon} of="search" />
      <input type="search" aria-label="Search by id" placeholder="Search by id" value=${typed} spellcheck="false" autocomplete="off"
        onInput=${(event) => {
          setTyped(event.target.value);
          go(withQuery({ q: event.target.value.trim() }), { replace: true });
        }} />
    </form>
    <div class="chips" role="group" aria-label="Status">
      ${STATUSES.map((status) => html`<button key=${status} type="button" class="chip" aria-pressed=${wanted.includes(status)} onClick=${() => choose(status)}>
        <${Status} status=${status} /></button>`)}
    </div>
    <select aria-label="Pipeline" value=${query.get("pipeline") || ""} onChange=${(event) => go(withQuery({ pipeline: event.target.value }))}>
      <option value="">All pipelines</option>
      ${pipelines.map((each) => html`<option key=${each.id} value=${each.id} selected=${each.id === query.get("pipeline")}>${each.label}</option>`)}
    </select>
    <select aria-label="Period" value=${query.get("period") || ""} onChange=${(event) => go(withQuery({ period: event.target.value }))}>
      <option value="">Any time</option>
      ${Object.entries(PERIODS).map(([word, [label]]) => html`<option key=${word} value=${word} selected=${word === query.get("period")}>${label}</option>`)}
    </select>
    ${[...query.keys()].length > 0 && html`<button type="button" class="quiet" onClick=${() => go(place.path)}>Clear</button>`}
  </div>`;
}

function Nothing() {
  if ([...place.query.keys()].length) {
    return html`<${Empty} title="No matches"><p>Nothing here has these words and filters.</p>
      <p><button type="button" onClick=${() => go(place.path)}>Show every job</button></p><//>`;
  }
  return html`<${Empty} title="No job yet">
    <p>A picture, a voice and a sentence become a video: start with the talking picture.</p>
    <p><${Link} href="${to.new}?pipeline=talking_picture" class="button primary">Make a video<//></p><//>`;
}

// Bulk ---------------------------------------------------------------------------------------------------------------------

function Bulk({ jobs, clear }) {
  const [sure, setSure] = useState(false);
  const alive = jobs.filter((job) => isAlive(job) && job.status !== "cancelling");
  const again = jobs.filter((job) => job.status === "failed" || job.status === "cancelled");
  async function each(some, what, done) {
    const refused = await many(some, (job) => post(`${jobPath(job.jobId)}/${what}`));
    say(`${plural(some.length - refused.length, "job")} ${done}${refused.length ? `, ${refused.length} refused: ${refused[0].message}` : ""}`, refused.length ? "wrong" : "done");
    clear();
  }
  return html`<div class="bulk" role="group" aria-label="Chosen jobs">
    <strong class="numbers">${plural(jobs.length, "job")} chosen</strong>
    <button type="button" disabled=${!alive.length} onClick=${() => setSure(true)}>Cancel ${alive.length.toLocaleString()}</button>
    <${Action} disabled=${!again.length} work=${() => each(again, "retry", "run again")}>Retry ${again.length.toLocaleString()}<//>
    <button type="button" class="quiet" onClick=${clear}>Clear</button>
    ${sure && html`<${Dialog} title="Cancel ${plural(alive.length, "job")}?" close=${() => setSure(false)}>
      <p>What runs is stopped; what is finished stays.</p>
      <div class="buttons">
        <button type="button" onClick=${() => setSure(false)}>Keep them</button>
        <${Action} class="danger" work=${async () => (await each(alive, "cancel", "cancelled"), setSure(false))}>Cancel ${plural(alive.length, "job")}<//>
      </div><//>`}
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
