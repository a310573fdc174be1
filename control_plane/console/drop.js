// A file dropped anywhere on the page: a workflow, a graph or a request opens its form; a file that a job made opens the form it came from;
// any other file is put before the line in which one says what is to be done with it. Fields take their own files before this sees them.
import { readProvenance } from "./provenance.js";
import { parse } from "./numbers.js";
import { t } from "./messages.js";
import { go, to } from "./router.js";
import { drafts } from "./run.js";
import { Dialog, Icon, say } from "./ui.js";
import { changes, html, useEffect, useSource, useState } from "./view.js";

const JSON_BYTES = 16e6;

// What was dropped last: {workflow, name} for ComfyUI, or `request` whose form is opened, or `files` for the line.
export const dropped = { ...changes(), workflow: null, request: null, files: [], refused: "" };

// ComfyUI's API format: node id → {class_type, inputs}.
export const isWorkflow = (value) => isObject(value) && Object.keys(value).length > 0 && Object.values(value).every((node) => isObject(node) && typeof node.class_type === "string");
// What ComfyUI saves for itself: nodes with places and numbered links.
export const isDrawing = (value) => isObject(value) && Array.isArray(value.nodes) && value.nodes.some((node) => isObject(node) && "type" in node && ("pos" in node || "widgets_values" in node));
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

export async function receive(files) {
  const [file] = files;
  dropped.refused = "";
  if (files.length === 1 && /\.json$/i.test(file.name) && file.size < JSON_BYTES && receiveJson(file.name, await file.text())) return;
  const made = files.length === 1 ? await readProvenance(file).catch(() => null) : null;
  if (made) return open({ ...made, name: file.name });
  dropped.files = files;
  dropped.tell();
  go(`${to.new}?goal`);
}

// Whether it was something to run.
export function receiveJson(name, text) {
  let value;
  try {
    value = parse(text);
  } catch {
    return false;
  }
  if (isDrawing(value)) {
    dropped.refused = t("{name} is what ComfyUI saves for itself. In ComfyUI choose Workflow → Export (API) and drop that file.", { name });
    dropped.tell();
    return true;
  }
  const workflow = isWorkflow(value) ? value : isWorkflow(value?.prompt) ? value.prompt : null;
  if (workflow) {
    dropped.workflow = { name, workflow };
    dropped.tell();
    go(`${to.new}?comfyui=${encodeURIComponent(name)}`);
    return true;
  }
  if (isObject(value) && ("pipeline" in value || "task" in value) && !("nodes" in value)) return open(value);
  if (isObject(value) && (Array.isArray(value.nodes) || isObject(value.graph))) {
    drafts.set("graph ", text);
    go(`${to.new}?graph=${Date.now()}`);
    return true;
  }
  return false;
}

// Opens the form of a request: {pipeline | task | graph, params, name, jobId}.
function open(request) {
  if (request.graph && !request.pipeline && !request.task) {
    drafts.set("graph ", JSON.stringify(request.graph, null, 2));
    go(`${to.new}?graph=${Date.now()}`);
    return true;
  }
  dropped.request = request;
  dropped.tell();
  go(`${to.new}?dropped=${Date.now()}`);
  return true;
}

const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

export function DropAnywhere() {
  useSource(dropped);
  const [over, setOver] = useState(false);
  useEffect(() => {
    let timer = 0;
    const drag = (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setOver(!event.target.closest?.(".drop"));
      clearTimeout(timer);
      timer = setTimeout(() => setOver(false), 400); // no browser tells reliably that a file has left the page
    };
    const drop = (event) => {
      setOver(false);
      if (event.defaultPrevented || !hasFiles(event)) return;
      event.preventDefault();
      receive([...event.dataTransfer.files]).catch((error) => say(error.message, "wrong"));
    };
    addEventListener("dragover", drag);
    addEventListener("drop", drop);
    return () => (removeEventListener("dragover", drag), removeEventListener("drop", drop), clearTimeout(timer));
  }, []);
  return html`${over && html`<div class="drop-anywhere" aria-hidden="true"><${Icon} of="drop" /><strong>${t("Drop it to run it")}</strong><span>${t("A picture, sound or film · a ComfyUI workflow · a graph · a file that a job has made")}</span></div>`}
    ${dropped.refused && html`<${Dialog} title=${t("A workflow that cannot be run")} close=${() => ((dropped.refused = ""), dropped.tell())}><p>${dropped.refused}</p><//>`}`;
}
