// A field for files: chosen, dropped, or taken from what is stored, of the kinds that its schema takes.
import { bytesPath, get, upload } from "./api.js";
import { isLocal, nameOfFile, plain, takes, wantedOf } from "./fields.js";
import { isReference, percent, size } from "./format.js";
import { t } from "./messages.js";
import { isHuge, sizeIn } from "./pixels.js";
import { Dialog, Icon, said, shortKey, Time } from "./ui.js";
import { changes, html, useEffect, useRef, useSource, useState } from "./view.js";
import { kindOf, Thumbnail } from "./viewers.js";

const NEWEST = 1000;
const FRESH_MS = 5000;
const SHOWN = 60;
const LOCAL_HEAD = 65_536;

// The newest stored files of every bucket, read once for all fields of a form.
const stored = { ...changes(), files: [], read: 0 };

async function readStored() {
  if (Date.now() - stored.read < FRESH_MS) return;
  stored.read = Date.now();
  try {
    stored.files = (await get(`/api/artifacts?limit=${NEWEST}`)).artifacts;
    stored.tell();
  } catch {
    stored.read = 0; // the form works without them
  }
}

export const isExample = (meta) => meta.key.startsWith("examples/");
const asFile = (meta) => ({ name: meta.key, type: meta.content_type, bucket: meta.bucket });
const referenceOf = (meta) => ({ bucket: meta.bucket, key: meta.key });
export const fileName = (meta) => meta.name || shortKey(meta.key);

export function useStored(wanted) {
  useSource(stored);
  useEffect(() => void readStored(), []);
  return stored.files.filter((meta) => takes(wanted, asFile(meta)));
}

// `taken`: told each file in place of `change`.
export function Files({ id, control, schema, many, value, change, taken, busy, name, title }) {
  const wanted = wantedOf(schema, name);
  const [sending, setSending] = useState([]);
  const [over, setOver] = useState(false);
  const [refused, setRefused] = useState("");
  const [open, setOpen] = useState(false);
  const [path, setPath] = useState(null); // of a file of the workers; null: none is being typed
  const mayBeLocal = Boolean(plain(schema)["x-local"] ?? plain(plain(schema).items)["x-local"]);
  const chosen = many ? value ?? [] : value ? [value] : [];
  const now = useRef(chosen);
  now.current = chosen;
  const fitting = useStored(wanted);
  const example = fitting.find((meta) => (wanted.format ? meta.key.startsWith(`examples/${wanted.format}.`) : isExample(meta)));

  const latest = useRef(null); // a file may arrive after the form was drawn again
  latest.current = { change, taken };
  const take = (reference) => {
    if (latest.current.taken) return latest.current.taken(reference);
    now.current = many ? [...now.current, reference] : [reference];
    return latest.current.change(many ? now.current : reference);
  };
  const takePath = () => {
    if (!path.trim()) return;
    take({ local: path.trim() });
    setPath(null);
  };
  async function send(files) {
    const fit = files.filter((file) => takes(wanted, file));
    setRefused(fit.length < files.length ? t("{name} is not of a kind that this field takes.", { name: files.find((file) => !fit.includes(file)).name }) : "");
    for (const file of many ? fit : fit.slice(0, 1)) await sendOne(file);
  }
  async function sendOne(file) {
    const one = { file, part: 0, stop: new AbortController(), error: "" };
    setSending((all) => [...(many ? all : []), one]);
    busy(1);
    try {
      take(referenceOf(await upload(file, (part) => ((one.part = part), setSending((all) => [...all])), one.stop.signal)));
    } catch (error) {
      one.error = error.name === "AbortError" ? "" : said(error);
    }
    setSending((all) => (one.error ? [...all] : all.filter((each) => each !== one)));
    busy(-1);
  }
  const drop = (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    event.stopPropagation();
    setOver(false);
    send([...event.dataTransfer.files]);
  };
  const without = (reference) => change(many ? chosen.filter((each) => each !== reference) : undefined);
  return html`<div class="drop ${over ? "over" : ""} ${chosen.length || sending.length ? "full" : ""}" onDragOver=${(event) => (event.preventDefault(), setOver(true))} onDragLeave=${() => setOver(false)} onDrop=${drop}>
    ${chosen.map((reference) => html`<${Chosen} key=${nameOfFile(reference)} reference=${reference} remove=${() => without(reference)} />`)}
    ${sending.map((one) => html`<${Sending} key=${one.file.name} one=${one} stop=${() => (one.stop.abort(), setSending((all) => all.filter((each) => each !== one)))} />`)}
    ${(many || !chosen.length) && html`<div class="pick"><label class="button" for=${id}><${Icon} of="upload" />${many ? t("Choose files") : t("Choose a file")}</label>
      <input type="file" ...${control} class="hidden" accept=${wanted.accept.join(",")} multiple=${many} aria-label=${title} onChange=${(event) => (send([...event.target.files]), (event.target.value = ""))} />
      ${fitting.length > (example ? 1 : 0) && html`<button type="button" class="quiet" onClick=${() => setOpen(true)}><${Icon} of="gallery" />${t("Stored files")}</button>`}
      ${example && html`<button type="button" class="quiet use-example" onClick=${() => take(referenceOf(example))}>${t("Use the example")}</button>`}
      ${mayBeLocal && path === null && html`<button type="button" class="quiet" onClick=${() => setPath("")}><${Icon} of="workers" />${t("On the workers")}</button>`}
      <span class="muted drop-hint">${many ? t("or drop them here") : t("or drop it here")}</span></div>`}
    ${path !== null && (many || !chosen.length) && html`<div class="pick"><input type="text" class="mono grow" aria-label=${t("Path below models.roots of the workers")} placeholder=${t("Path below models.roots of the workers")} value=${path} onInput=${(event) => setPath(event.target.value)}
        onKeyDown=${(event) => event.key === "Enter" && (event.preventDefault(), takePath())} autocomplete="off" spellcheck="false" /><button type="button" disabled=${!path.trim()} onClick=${takePath}>${t("Use")}</button></div>`}
    ${refused && html`<p class="wrong" role="alert">${refused}</p>`}
    ${open && html`<${Picker} title=${t("{field}: stored files", { field: title })} fitting=${fitting} close=${() => setOpen(false)} take=${(meta) => (take(referenceOf(meta)), many || setOpen(false))}
      taken=${chosen} />`}
  </div>`;
}

function Chosen({ reference, remove }) {
  const name = isLocal(reference) ? reference.local : shortKey(reference.key);
  return html`<div class="chosen"><${Look} reference=${reference} />
    <span class="grow">${name}</span><button type="button" class="quiet icon-only" aria-label=${t("Remove {name}", { name })} onClick=${remove}><${Icon} of="close" /></button></div>`;
}

function Sending({ one, stop }) {
  return html`<div class="chosen"><${LocalLook} file=${one.file} /><span class="grow"><span>${one.file.name}</span> <span class="muted numbers">${size(one.file.size)}</span>
      ${one.error ? html`<span class="wrong">${one.error}</span>` : html`<progress max="1" value=${one.part} aria-label=${t("Upload of {name}", { name: one.file.name })}></progress>`}</span>
    ${!one.error && html`<span class="numbers">${percent(one.part)}</span>`}
    <button type="button" class="quiet icon-only" aria-label=${one.error ? t("Dismiss") : t("Stop")} onClick=${stop}><${Icon} of="close" /></button></div>`;
}

// The stored files that fit, newest first.
export function Picker({ title, fitting, take, taken = [], close }) {
  const [search, setSearch] = useState("");
  const found = fitting.filter((meta) => `${meta.bucket}/${meta.key} ${fileName(meta)}`.toLowerCase().includes(search.toLowerCase()));
  const isTaken = (meta) => taken.some((each) => each.bucket === meta.bucket && each.key === meta.key);
  return html`<${Dialog} title=${title} close=${close} wide>
    <div class="search"><${Icon} of="search" /><input type="search" aria-label=${t("Search by name")} placeholder=${t("Search by name")} value=${search} onInput=${(event) => setSearch(event.target.value)} /></div>
    <ul class="shelf">${found.slice(0, SHOWN).map((meta) => html`<li key=${meta.bucket + meta.key}><button type="button" class="shelf-one" aria-pressed=${isTaken(meta)} onClick=${() => isTaken(meta) || take(meta)}>
      <${Thumbnail} meta=${meta} /><span class="shelf-name">${fileName(meta)}</span><span class="muted">${meta.job_id ? meta.bucket : t("uploaded")} · <${Time} at=${meta.created_at} /></span></button></li>`)}</ul>
    ${!found.length && html`<p class="muted">${t("No matches")}</p>`}
    ${found.length > SHOWN && html`<p class="muted">${t("The newest {n} of {all}; search for others.", { n: SHOWN, all: found.length })}</p>`}
  <//>`;
}

export function Look({ reference }) {
  if (isLocal(reference)) return html`<span class="look thumb blank"><${Icon} of="workers" /></span>`;
  if (!isReference(reference)) return null;
  const kind = kindOf({ key: reference.key, content_type: "" });
  if (kind === "audio") return html`<audio src=${bytesPath(reference)} controls preload="metadata" aria-label=${shortKey(reference.key)}></audio>`;
  return html`<span class="look"><${Thumbnail} meta=${{ ...reference, content_type: "" }} /></span>`;
}

function LocalLook({ file }) {
  const [url, setUrl] = useState(null);
  useEffect(() => {
    if (!file.type.startsWith("image/")) return undefined;
    let made = null;
    let ended = false;
    file.slice(0, LOCAL_HEAD).arrayBuffer().then((head) => {
      if (ended || isHuge(sizeIn(head))) return;
      made = URL.createObjectURL(file);
      setUrl(made);
    }, () => {});
    return () => ((ended = true), made && URL.revokeObjectURL(made));
  }, [file]);
  return html`<span class="look">${url ? html`<img src=${url} alt="" />` : html`<${Icon} of="file" />`}</span>`;
}
