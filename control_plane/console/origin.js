// Where a file comes from: the node that made it, the files that went into it, the nodes that made those, back to what was uploaded.
import { get, jobPath, metaPath } from "./api.js";
import { isReference } from "./format.js";
import { t } from "./messages.js";
import { shortKey } from "./ui.js";
import { to } from "./router.js";

const DEEPEST = 6;
const MOST = 60;

const idOf = (reference) => `${reference.bucket}/${reference.key}`;

// All files that a value names.
function referencesIn(value, found = new Map()) {
  if (isReference(value)) found.set(idOf(value), { bucket: value.bucket, key: value.key });
  else if (value !== null && typeof value === "object") for (const each of Object.values(value)) referencesIn(each, found);
  return found;
}

// A place inside the output of another node.
function pointed(output, path = "") {
  return path.split("/").slice(1).reduce((value, part) => (value !== null && typeof value === "object" ? value[part.replaceAll("~1", "/").replaceAll("~0", "~")] : undefined), output);
}

// What a node was given, with what it took from others in its place.
function resolved(value, byId) {
  if (value === null || typeof value !== "object") return value;
  if (typeof value.$from === "string") return pointed(byId.get(value.$from)?.output, value.path);
  return Array.isArray(value) ? value.map((each) => resolved(each, byId)) : Object.fromEntries(Object.entries(value).map(([name, each]) => [name, resolved(each, byId)]));
}

// { job, nodes, edges, inputs: [meta] }, or null where the job is gone. Nodes are runs and files; what cannot be read any more ends a branch.
export async function originOf(meta) {
  const nodes = new Map();
  const edges = [];
  const metas = new Map();
  const graphs = new Map();
  let first = null;
  const graphOf = (jobId) => {
    if (!graphs.has(jobId)) graphs.set(jobId, get(`${jobPath(jobId)}/graph`).catch(() => null));
    return graphs.get(jobId);
  };
  const metaOf = async (reference) => (reference.sha256 !== undefined ? reference : get(metaPath(reference)).catch(() => reference));

  async function walk(reference, depth, to_) {
    const id = idOf(reference);
    if (to_) edges.push({ from: id, to: to_, kind: "normal" });
    if (nodes.has(id) || nodes.size > MOST) return;
    const found = await metaOf(reference);
    metas.set(id, found);
    nodes.set(id, { id, name: found.name || shortKey(found.key), task: found.job_id ? found.bucket : t("uploaded"), plane: "", status: "completed", href: to.artifact(found) });
    if (!found.job_id || depth > DEEPEST) return;
    const graph = await graphOf(found.job_id);
    const run = graph?.nodes.find((node) => node.id === found.node_id);
    if (!run) return;
    first ??= found.job_id;
    const runId = `${found.job_id} ${run.id}`;
    edges.push({ from: runId, to: id, kind: "normal" });
    if (nodes.has(runId)) return;
    nodes.set(runId, { id: runId, name: run.name || run.id, task: run.task, plane: run.plane, status: run.status, href: to.job(found.job_id, run.id) });
    const byId = new Map(graph.nodes.map((node) => [node.id, node]));
    const parents = graph.edges.filter((edge) => edge.to === run.id).map((edge) => byId.get(edge.from));
    const given = referencesIn(resolved({ ...(run.input ?? {}), ...run.params }, byId));
    if (!given.size) for (const parent of parents) referencesIn(parent?.output, given);
    for (const each of given.values()) await walk(each, depth + 1, runId);
    for (const parent of parents) {
      if (!parent || [...given.values()].some((each) => nodes.has(idOf(each)) && metas.get(idOf(each))?.node_id === parent.id)) continue;
      const parentId = `${found.job_id} ${parent.id}`;
      if (!nodes.has(parentId)) nodes.set(parentId, { id: parentId, name: parent.name || parent.id, task: parent.task, plane: parent.plane, status: parent.status, href: to.job(found.job_id, parent.id) });
      edges.push({ from: parentId, to: runId, kind: "normal" });
    }
  }

  await walk(meta, 0, null);
  if (!first) return null;
  const job = await get(jobPath(first));
  return { job, nodes: [...nodes.values()], edges, inputs: [...metas.values()].filter((each) => idOf(each) !== idOf(meta)) };
}
