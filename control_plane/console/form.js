// A form made from a pipeline's parameters. A field holds what was typed; `valuesOf` makes the parameters of it, leaving out what is empty.
import { bytesPath, get, upload } from "./api.js";
import { isReference, percent, size } from "./format.js";
import { isLarge, parse, typedNumber } from "./numbers.js";
import { Icon, shortKey } from "./ui.js";
import { html, useEffect, useEvery, useRef, useState } from "./view.js";

const LOOK_MS = 5000;

export const isArtifact = (schema) => Boolean(schema["x-artifact"]);
const isFiles = (schema) => schema.type === "array" && isArtifact(schema.items ?? {});

export function defaultsOf(schema) {
  const typed = {};
  for (const [name, each] of Object.entries(schema.properties ?? {})) if ("default" in each) typed[name] = kindOf(each) === "json" ? JSON.stringify(each.default) : each.default;
  return typed;
}

function kindOf(schema) {
  if (isArtifact(schema)) return "file";
  if (isFiles(schema)) return "files";
  if (schema.enum) return "choice";
  if (schema.type === "boolean") return "switch";
  if (schema.type === "integer" || schema.type === "number") return "number";
  return schema.type === "string" ? "text" : "json";
}

// { params, wrong: {name: sentence} }; `wrong` is what cannot even be sent.
export function valuesOf(schema, typed) {
  const params = {};
  const wrong = {};
  for (const [name, each] of Object.entries(schema.properties ?? {})) {
    const value = typed[name];
    if (value === undefined || value === null || value === "" || (Array.isArray(value) && !value.length)) {
      if ((schema.required ?? []).includes(name)) wrong[name] = "Required.";
      continue;
    }
    const kind = kindOf(each);
    if (kind === "number") {
      if (!isLarge(value) && Number.isNaN(Number(value))) wrong[name] = "Enter a number.";
      else params[name] = typedNumber(value);
    } else if (kind === "json") {
      try {
        params[name] = parse(value);
      } catch {
        wrong[name] = "This is not JSON; text needs double quotes.";
      }
    } else params[name] = value;
  }
  return { params, wrong };
}

// `typed`: name → value; `problems`: name → sentence; `change(name, value)`.
export function Form({ schema, typed, problems, change, busy }) {
  const fields = Object.entries(schema.properties ?? {});
  const needed = (name) => (schema.required ?? []).includes(name);
  const rank = ([name, each]) => (needed(name) ? 0 : ["text", "file", "files"].includes(kindOf(each)) ? 1 : 2);
  const main = fields.filter((field) => rank(field) < 2).sort((a, b) => kindRank(a[1]) - kindRank(b[1]));
  const rest = fields.filter((field) => rank(field) === 2);
  const few = rest.length <= 6;
  const draw = ([name, each]) => html`<${Field} key=${name} name=${name} schema=${each} value=${typed[name]} wrong=${problems[name]} needed=${needed(name)}
    change=${(value) => change(name, value)} busy=${busy} />`;
  const amiss = rest.some(([name]) => problems[name]);
  return html`<div class="stack form">
    ${main.map(draw)}
    ${rest.length > 0 && (few ? html`<div class="settings">${rest.map(draw)}</div>`
      : html`<details class="more" open=${amiss || undefined}><summary>${rest.length} settings <span class="muted">with good defaults</span></summary><div class="settings">${rest.map(draw)}</div></details>`)}
  </div>`;
}

const kindRank = (schema) => (["file", "files"].includes(kindOf(schema)) ? 1 : 0);

const title = (name) => name.replace(/([a-z0-9])([A-Z])/g, "$1 $2").replaceAll("_", " ").toLowerCase().replace(/^./, (first) => first.toUpperCase());

function limits(schema) {
  const least = schema.minimum ?? schema.exclusiveMinimum;
  const most = schema.maximum ?? schema.exclusiveMaximum;
  const said = [];
  if (least !== undefined && most !== undefined) said.push(`${schema.exclusiveMinimum !== undefined ? "more than " : ""}${least} to ${most}`);
  else if (least !== undefined) said.push(schema.exclusiveMinimum !== undefined ? `more than ${least}` : `${least} or more`);
  else if (most !== undefined) said.push(`at most ${most}`);
  if (schema.multipleOf) said.push(`in steps of ${schema.multipleOf}`);
  if (schema.maxLength) said.push(`at most ${schema.maxLength} characters`);
  if (schema.maxItems) said.push(`at most ${schema.maxItems}`);
  if ("default" in schema) said.push(`default ${typeof schema.default === "string" ? `“${schema.default}”` : JSON.stringify(schema.default)}`);
  return said.join(", ");
}

function Field({ name, schema, value, wrong, needed, change, busy }) {
  const id = `f-${name}`;
  const kind = kindOf(schema);
  const said = { id, "aria-describedby": `${id}-hint ${id}-wrong`, "aria-invalid": wrong ? "true" : undefined, "aria-required": needed ? "true" : undefined };
  const typed = (event) => change(event.target.value);
  let control;
  if (kind === "file" || kind === "files") control = html`<${Files} id=${id} said=${said} schema=${schema} many=${kind === "files"} value=${value} change=${change} busy=${busy} name=${title(name)} />`;
  else if (kind === "choice") control = html`<select ...${said} value=${value ?? ""} onChange=${typed}>${!needed && html`<option value=""></option>`}${schema.enum.map((each) => html`<option key=${each} value=${each} selected=${each === value}>${String(each)}</option>`)}</select>`;
  else if (kind === "switch") control = html`<input type="checkbox" ...${said} checked=${Boolean(value)} onChange=${(event) => change(event.target.checked)} />`;
  else if (kind === "number") control = html`<input type="text" inputmode="decimal" ...${said} value=${value?.rawJSON ?? value ?? ""} onInput=${typed} autocomplete="off" />`;
  else if (kind === "text") control = html`<textarea ...${said} rows=${(schema.maxLength ?? 0) > 200 ? 3 : 1} value=${value ?? ""} onInput=${typed} spellcheck=${true}></textarea>`;
  else control = html`<textarea ...${said} class="mono" rows="2" value=${value ?? ""} onInput=${typed} spellcheck=${false} placeholder="JSON"></textarea>`;
  return html`<div class="field k-${kind}">
    <label for=${id}>${title(name)}${needed && html` <span class="muted">required</span>`}</label>
    ${control}
    <p class="hint muted" id="${id}-hint">${[schema.description, limits(schema)].filter(Boolean).join(" · ")}</p>
    <p class="wrong" id="${id}-wrong">${wrong}</p>
  </div>`;
}

// Files --------------------------------------------------------------------------------------------------------------------

// What a description says that it wants; a form cannot know it otherwise.
function accepts(schema) {
  const text = `${schema.description ?? ""} ${schema.items?.description ?? ""}`.toLowerCase();
  if (/picture|image|photo|png|jpe?g/.test(text)) return "image/*";
  if (/wav|flac|audio|voice|speaker|recording|sound/.test(text)) return "audio/*,.wav,.flac,.ogg";
  return /video|mp4|film/.test(text) ? "video/*" : "";
}

function Files({ id, said, schema, many, value, change, busy, name }) {
  const accept = accepts(schema);
  const [sending, setSending] = useState([]);
  const [over, setOver] = useState(false);
  const chosen = many ? value ?? [] : value ? [value] : [];
  const now = useRef(chosen);
  now.current = chosen;
  async function send(files) {
    for (const file of many ? files : files.slice(0, 1)) {
      const one = { file, part: 0, stop: new AbortController(), error: "" };
      const show = () => setSending((all) => [...all]);
      setSending((all) => [...(many ? all : []), one]);
      busy(1);
      try {
        const meta = await upload(file, (part) => ((one.part = part), show()), one.stop.signal);
        const reference = { bucket: meta.bucket, key: meta.key };
        change(many ? [...now.current, reference] : reference);
        if (many) now.current = [...now.current, reference];
        setSending((all) => all.filter((each) => each !== one));
      } catch (error) {
        one.error = error.name === "AbortError" ? "" : error.message;
        setSending((all) => (one.error ? [...all] : all.filter((each) => each !== one)));
      }
      busy(-1);
    }
  }
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    send([...event.dataTransfer.files]);
  };
  const without = (reference) => change(many ? chosen.filter((each) => each !== reference) : undefined);
  return html`<div class="drop ${over ? "over" : ""}" onDragOver=${(event) => (event.preventDefault(), setOver(true))} onDragLeave=${() => setOver(false)} onDrop=${drop}>
    ${chosen.map((reference) => html`<div class="chosen" key=${reference.key}><${Look} reference=${reference} />
      <span class="grow">${shortKey(reference.key)}</span><button type="button" class="quiet icon-only" aria-label="Remove ${shortKey(reference.key)}" onClick=${() => without(reference)}><${Icon} of="close" /></button></div>`)}
    ${sending.map((one) => html`<div class="chosen" key=${one.file.name}><${LocalLook} file=${one.file} /><span class="grow"><span>${one.file.name}</span> <span class="muted numbers">${size(one.file.size)}</span>
      ${one.error ? html`<span class="wrong">${one.error}</span>` : html`<progress max="1" value=${one.part} aria-label="Upload of ${one.file.name}"></progress>`}</span>
      ${!one.error && html`<span class="numbers">${percent(one.part)}</span>`}
      <button type="button" class="quiet icon-only" aria-label="Stop" onClick=${() => (one.stop.abort(), setSending((all) => all.filter((each) => each !== one)))}><${Icon} of="close" /></button></div>`)}
    ${(many || !chosen.length) && html`<div class="pick"><label class="button" for=${id}>Choose ${many ? "files" : "a file"}</label>
      <input type="file" ...${said} class="hidden" accept=${accept} multiple=${many} aria-label=${name} onChange=${(event) => (send([...event.target.files]), (event.target.value = ""))} />
      <span class="muted">or drop ${many ? "them" : "it"} here</span><${Stored} accept=${accept} take=${(reference) => change(many ? [...chosen, reference] : reference)} name=${name} /></div>`}
  </div>`;
}

// What has been uploaded before; `dihedral up` puts an example of each kind there.
function Stored({ accept, take, name }) {
  const [found, setFound] = useState([]);
  const wanted = accept.split("/")[0];
  useEvery(LOOK_MS, async () => setFound((await get("/api/artifacts?bucket=inputs&limit=200")).artifacts));
  const fitting = found.filter((meta) => !accept || meta.content_type.startsWith(`${wanted}/`));
  const example = fitting.find((meta) => meta.key.startsWith("examples/"));
  if (!fitting.length) return null;
  return html`${example && html`<button type="button" class="quiet use-example" onClick=${() => take({ bucket: example.bucket, key: example.key })}>Use the example</button>`}
    ${fitting.length > (example ? 1 : 0) && html`<select aria-label="${name}: a file that is stored" value="" onChange=${(event) => event.target.value && take({ bucket: "inputs", key: event.target.value })}>
      <option value="">Stored files</option>${fitting.map((meta) => html`<option key=${meta.key} value=${meta.key}>${shortKey(meta.key)}</option>`)}</select>`}`;
}

function Look({ reference }) {
  if (!isReference(reference)) return null;
  const url = bytesPath(reference);
  if (/\.(png|jpe?g|webp|gif|avif|bmp)$/i.test(reference.key)) return html`<img src=${url} alt="" />`;
  if (/\.(wav|flac|mp3|ogg|m4a|opus)$/i.test(reference.key)) return html`<audio src=${url} controls preload="metadata" aria-label=${shortKey(reference.key)}></audio>`;
  return html`<${Icon} of="file" />`;
}

function LocalLook({ file }) {
  const [url, setUrl] = useState(null);
  useEffect(() => {
    if (!file.type.startsWith("image/")) return undefined;
    const made = URL.createObjectURL(file);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [file]);
  return url ? html`<img src=${url} alt="" />` : html`<${Icon} of="file" />`;
}
