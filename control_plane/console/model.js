// A job as its page sees it: the job document, the graph, and the event log folded over both. It is a function of what the server
// keeps, so a page that is loaded anew in the middle shows the same.
import { bytesPath, get, jobPath } from "./api.js";
import { ENDED_NODE, isAlive, isReference, ms } from "./format.js";
import { watch } from "./live.js";
import { hasEnded } from "./notify.js";
import { changes } from "./view.js";

const STEPS = ["step", "iteration", "epoch", "round", "index"];
const TOTALS = ["steps", "iterations", "epochs", "rounds", "total"];
const SIZE = "components"; // of a model that is fitted in several sizes: each has a curve of its own, or is a point of one
const AGAIN_MS = 1000;

export class JobModel {
  constructor(jobId) {
    const told = changes();
    this.listen = told.listen;
    this.version = 0; // goes up with every change
    this.tell = () => {
      this.version += 1;
      told.tell();
    };
    this.jobId = jobId;
    this.error = null;
    this.job = null;
    this.nodes = new Map();
    this.edges = [];
    this.events = null; // until the log is read
    this.series = new Map();
    this.stop = () => {};
    this.closed = false;
  }

  // The graph is read before the log: what the log says of a node is then never older than what the graph says.
  async load() {
    try {
      const [job, graph] = await Promise.all([get(jobPath(this.jobId)), get(`${jobPath(this.jobId)}/graph`)]);
      const first = !this.job;
      if (first) {
        this.begin(job, graph); // drawn while the log comes
        this.tell();
      }
      const page = await get(`${jobPath(this.jobId)}/events`);
      if (this.closed) return;
      if (!first) this.begin(job, graph);
      this.events = [];
      this.series = new Map();
      this.fold(page.events);
      this.stop();
      this.stop = watch(this.jobId, { seq: page.events.at(-1)?.seq ?? 0, epoch: page.epoch }, (message) => this.hear(message));
    } catch (error) {
      // What is shown stays, marked by the connection, until it can be read anew; a page without a job says what is wrong.
      if (!this.job || error.status === 404) this.error = error;
      else setTimeout(() => this.closed || this.load(), AGAIN_MS);
    }
    this.tell();
  }

  begin(job, graph) {
    this.error = null;
    this.job = job;
    this.graph = graph;
    this.edges = graph.edges;
    this.nodes = new Map(graph.nodes.map((node) => [node.id, fresh(node)]));
    this.lookedAt = Date.now();
  }

  close() {
    this.closed = true;
    this.stop();
  }

  hear(message) {
    if (message.type === "resync") return this.load();
    if (message.type === "response") {
      this.error = { status: 404, message: `The job ${this.jobId} is no longer there.` };
      return this.tell();
    }
    const before = this.job;
    this.job = { ...before, status: message.status, progress: message.progress };
    this.fold(message.events);
    if (isAlive(before) && !isAlive(this.job)) hasEnded(this.job);
    const ended = message.events.some((event) => event.type === "node" && ENDED_NODE.includes(event.status));
    if (this.job.attempt !== before.attempt) this.load();
    else if (ended || message.events.some((event) => event.type === "status")) this.look();
    return this.tell();
  }

  // Outputs, artifacts, each node's progress and why a job waits are in the documents, not in events.
  look() {
    const wait = Math.max(0, (this.lookedAt ?? 0) + AGAIN_MS - Date.now());
    this.looking ||= new Promise((resolve) => setTimeout(resolve, wait)).then(async () => {
      this.lookedAt = Date.now();
      this.looking = null;
      try {
        const [job, graph] = await Promise.all([get(jobPath(this.jobId)), get(`${jobPath(this.jobId)}/graph`)]);
        if (this.closed || job.attempt !== this.job.attempt) return;
        this.job = { ...job, status: this.job.status, progress: Math.max(job.progress, this.job.progress) };
        for (const node of graph.nodes) this.nodes.get(node.id)?.take(node);
        this.tell();
      } catch {
        // the connection's own mark says so
      }
    });
    return this.looking;
  }

  fold(events) {
    for (const event of events) {
      if (this.events.length && event.seq <= this.events.at(-1).seq) continue;
      this.events.push(event);
      if (event.type === "status") this.foldStatus(event);
      else if (event.type === "node") this.foldNode(event);
      else if (event.type === "data") this.foldData(event);
    }
  }

  foldStatus(event) {
    this.attempt = event.attempt;
    const job = { ...this.job, status: event.status, attempt: event.attempt, error: event.error };
    if (event.status === "running") job.started ??= event.created;
    if (!isAlive(job)) job.finished = event.created;
    this.job = job;
  }

  foldNode(event) {
    const node = this.nodes.get(event.nodeId);
    if (!node) return;
    node.status = event.status;
    node.error = event.error && node.known?.code === event.error.code ? { ...event.error, remedy: node.known.remedy } : event.error;
    node.reason = event.reason;
    node.attempt = event.status === "ready" ? node.attempt : event.attempt;
    const at = ms(event.created);
    const last = node.runs.at(-1);
    if (event.status === "ready") {
      if (last && last.start && !last.end) Object.assign(last, { end: at, status: "failed" }); // it is tried again
      node.runs.push({ ready: at, begun: this.attempt });
    } else if (event.status === "running") {
      node.worker = event.worker;
      const run = last && !last.start ? last : {};
      if (run !== last) node.runs.push(run);
      Object.assign(run, { start: at, worker: event.worker, attempt: event.attempt, begun: this.attempt });
      if (last && last !== run && !last.end) Object.assign(last, { end: at, status: "cancelled" });
      node.progress = 0;
      node.preview = null;
      for (const [name, each] of this.series) if (each.nodeId === node.id) this.series.delete(name);
    } else if (last && last.start && !last.end) {
      Object.assign(last, { end: at, status: event.status });
    }
    if (event.status === "completed") node.progress = 1;
  }

  foldData(event) {
    const node = this.nodes.get(event.nodeId);
    if (event.name === "preview" && node && isReference(event.data)) {
      node.preview = { url: `${bytesPath(event.data)}?seq=${event.seq}`, seq: event.seq, frame: event.data.frame };
      return;
    }
    const numbers = Object.entries(event.data).filter(([, value]) => typeof value === "number");
    const size = numbers.find(([name]) => name === SIZE);
    const time = numbers.find(([name]) => STEPS.includes(name));
    const step = time ?? size;
    const which = time && size ? ` · ${size[1]} ${SIZE}` : "";
    for (const [field, value] of numbers) {
      if (field === SIZE || STEPS.includes(field) || TOTALS.includes(field)) continue;
      const name = `${event.nodeId} ${event.name} ${field}${which}`;
      let series = this.series.get(name);
      if (!series) {
        series = { key: name, nodeId: event.nodeId, title: (field === event.name ? field : `${event.name} · ${field}`) + which, along: step?.[0] ?? "event", points: [] };
        this.series.set(name, series);
      }
      series.points.push([step ? step[1] : series.points.length + 1, value]);
    }
  }
}

function fresh(definition) {
  const node = { id: definition.id, definition, runs: [], worker: null, reason: null, progress: 0, preview: null, output: undefined, take };
  node.take(definition);
  return node;
}

function take(definition) {
  const { status, error, output, retries, telemetry } = definition;
  // A document that was asked for before an event came must not undo the event.
  if (this.status === undefined || !ENDED_NODE.includes(this.status) || ENDED_NODE.includes(status)) this.status = status;
  this.known = error ?? null; // events have no remedy
  this.error = error ?? this.error ?? null;
  this.output = output ?? this.output;
  this.attempt = Math.max(retries.attempt, this.attempt ?? 0);
  this.progress = Math.max(telemetry?.progress ?? 0, this.progress);
  this.started = telemetry?.started ?? null;
  this.finished = telemetry?.finished ?? null;
  this.definition = definition; // with what is estimated
}

// The chain of nodes that decided when the job ended (or what it waits for now): from the node that ended last back over the parent that
// ended last. `ids` and `edges` ("from to") of it; empty where there is nothing to choose from.
export function criticalPath(model) {
  const end = (node) => (node.started ? ms(node.finished) ?? Infinity : -1);
  const parents = new Map();
  for (const edge of model.edges) {
    if (!parents.has(edge.to)) parents.set(edge.to, []);
    parents.get(edge.to).push(edge.from);
  }
  let at = null;
  for (const node of model.nodes.values()) if (end(node) >= 0 && (!at || end(node) > end(at))) at = node;
  const ids = new Set();
  const edges = new Set();
  while (at && !ids.has(at.id)) {
    ids.add(at.id);
    let last = null;
    for (const id of parents.get(at.id) ?? []) {
      const parent = model.nodes.get(id);
      if (end(parent) >= 0 && (!last || end(parent) > end(last))) last = parent;
    }
    if (last) edges.add(`${last.id} ${at.id}`);
    at = last;
  }
  return ids.size > 1 ? { ids, edges } : { ids: new Set(), edges: new Set() };
}
