// What jobs have made and what was uploaded, as pictures, films and sounds one can look through; or as a list.
import { get } from "./api.js";
import { fileName, isExample } from "./files.js";
import { files as countFiles, size } from "./format.js";
import { favourites } from "./favourites.js";
import { served, t } from "./messages.js";
import { follow, go, Link, place, to, withQuery } from "./router.js";
import { Empty, Failure, Icon, Loading, Rows, Time, useWidth } from "./ui.js";
import { html, useEffect, useEvery, useMemo, useRedraw, useRef, useSource, useState } from "./view.js";
import { isPoster, kindOf, KIND_ICONS, Preview, Thumbnail, WaveThumb } from "./viewers.js";

const LOOK_MS = 5000;
const PAGE = 500;
const LEAST = 100; // files that fill a screen
const TILE = 196;
const GAP = 14;
const KINDS = ["video", "image", "audio", "tensors", "text", "other"];
const NAMES = { video: t("Films"), image: t("Pictures"), audio: t("Sounds"), tensors: t("Models"), text: t("Texts"), other: t("Other") };
const KIND_WORDS = { image: "picture", tensors: "model" }; // what the server calls them
const WORDS = ["bucket", "jobId", "pipeline", "tag", "kind", "favourite", "origin"];
const ORIGINS = { made: t("Made by jobs"), uploaded: t("Uploaded"), example: t("Examples") };

// Files by what the address asks for, newest first. The examples that ship are shown to who asks for them.
class Found {
  constructor(query, redraw) {
    this.redraw = redraw;
    this.words = Object.fromEntries(WORDS.map((name) => [name, query.get(name)]).filter(([, value]) => value));
    if (this.words.kind) this.words.kind = KIND_WORDS[this.words.kind] ?? this.words.kind;
    if (this.words.favourite) this.words.favourite = "true";
    this.withExamples = this.words.origin === "example" || Boolean(this.words.favourite);
    this.files = new Map();
    this.cursor = undefined;
    this.error = null;
    this.closed = false;
  }

  async page(limit, cursor) {
    const parameters = new URLSearchParams({ ...this.words, limit });
    if (cursor) parameters.set("cursor", cursor);
    const found = await get(`/api/artifacts?${parameters}`);
    return { files: found.artifacts, next: found.next };
  }

  take(files) {
    for (const meta of files) this.files.set(`${meta.bucket}/${meta.key}`, meta);
    this.posters = new Map([...this.files.values()].filter(isPoster).map((meta) => [`${meta.job_id} ${meta.node_id}`, meta]));
    this.shown = [...this.files.values()].filter((meta) => !isPoster(meta) && (this.withExamples || !isExample(meta))).sort((a, b) => (a.created_at < b.created_at ? 1 : a.created_at > b.created_at ? -1 : 0));
  }

  more() {
    if (this.cursor === null) return undefined;
    this.loading ||= this.page(PAGE, this.cursor)
      .then((page) => {
        this.cursor = page.next;
        this.take(page.files);
        this.error = null;
      })
      .catch((error) => (this.error = error))
      .finally(() => {
        this.loading = null;
        this.redraw();
      });
    return this.loading;
  }

  async look() {
    if (this.cursor === undefined) return this.more();
    this.take((await this.page(100)).files);
    return this.redraw();
  }
}

export function Gallery() {
  const query = place.query;
  const redraw = useRedraw();
  useSource(favourites);
  const words = WORDS.map((name) => query.get(name) || "").join("|");
  const found = useMemo(() => new Found(place.query, redraw), [words]);
  useEvery(LOOK_MS, () => found.look(), [found]);
  const [open, setOpen] = useState(null);
  const search = (query.get("q") || "").toLowerCase();
  const shown = useMemo(() => (found.shown ?? []).filter((meta) => (!query.get("favourite") || favourites.has(meta)) && `${meta.key} ${fileName(meta)}`.toLowerCase().includes(search)),
    [found.shown, search, query.get("favourite"), favourites.version]);
  const wanted = useRef(null); // as many as are to be shown, since a page may bring none that the search shows
  if (wanted.current?.of !== `${words}|${search}`) wanted.current = { of: `${words}|${search}`, least: LEAST };
  const more = () => {
    wanted.current.least = shown.length + LEAST;
    found.more();
  };
  useEffect(() => {
    if (found.cursor && shown.length < wanted.current.least) found.more();
  }, [shown, found.cursor]);
  const asList = query.get("view") === "list";
  return html`<div class="page fill">
    <div class="title"><h1>${t("Artifacts")}</h1><span class="muted numbers" aria-live="polite">${found.shown ? (found.cursor ? t("more than {files}", { files: countFiles(shown.length) }) : countFiles(shown.length)) : ""}</span></div>
    <${Filters} query=${query} asList=${asList} />
    ${found.error && !found.shown ? html`<${Failure} error=${found.error} retry=${() => found.more()} />` : !found.shown || (!shown.length && found.cursor) ? html`<${Loading} rows=${10} />` : !shown.length ? html`<${None} />`
      : asList ? html`<${Table} shown=${shown} end=${more} />` : html`<${Grid} shown=${shown} posters=${found.posters} end=${more} enlarge=${setOpen} />`}
    ${open !== null && shown[open] && html`<${FullScreen} files=${shown} at=${open} move=${setOpen} close=${() => setOpen(null)} />`}
  </div>`;
}

function Filters({ query, asList }) {
  const [pipelines, setPipelines] = useState([]);
  useEffect(() => void get("/api/pipelines").then((found) => setPipelines(found.pipelines), () => {}), []);
  const choice = (name, value, label, icon) => html`<button key=${value} type="button" class="chip" aria-pressed=${query.get(name) === value} onClick=${() => go(withQuery({ [name]: query.get(name) === value ? null : value }))}>${icon && html`<${Icon} of=${icon} />`}${label}</button>`;
  return html`<div class="filters">
    <div class="search"><${Icon} of="search" /><input type="search" aria-label=${t("Search by name")} placeholder=${t("Search by name")} value=${query.get("q") || ""} onInput=${(event) => go(withQuery({ q: event.target.value }), { replace: true })} /></div>
    <div class="chips" role="group" aria-label=${t("Kind")}>${KINDS.map((kind) => choice("kind", kind, NAMES[kind], KIND_ICONS[kind]))}${choice("favourite", "1", t("Favourites"), "star")}</div>
    <select aria-label=${t("Pipeline")} value=${query.get("pipeline") || ""} onChange=${(event) => go(withQuery({ pipeline: event.target.value }))}><option value="">${t("All pipelines")}</option>
      ${pipelines.map((each) => html`<option key=${each.id} value=${each.id} selected=${each.id === query.get("pipeline")}>${served(each.label)}</option>`)}</select>
    <select aria-label=${t("Origin")} value=${query.get("origin") || ""} onChange=${(event) => go(withQuery({ origin: event.target.value }))}><option value="">${t("Made and uploaded")}</option>
      ${Object.entries(ORIGINS).map(([each, label]) => html`<option key=${each} value=${each} selected=${each === query.get("origin")}>${label}</option>`)}</select>
    <select aria-label=${t("Bucket")} value=${query.get("bucket") || ""} onChange=${(event) => go(withQuery({ bucket: event.target.value }))}><option value="">${t("All buckets")}</option>
      ${["inputs", "videos", "voices", "loras"].map((each) => html`<option key=${each} value=${each} selected=${each === query.get("bucket")}>${each}</option>`)}</select>
    <input type="search" class="tag-filter" aria-label=${t("Tag")} placeholder=${t("Tag")} value=${query.get("tag") || ""} onChange=${(event) => go(withQuery({ tag: event.target.value.trim() }))} />
    ${query.get("jobId") && html`<span class="tag">${t("job {id}", { id: query.get("jobId").slice(0, 12) })}</span>`}
    ${[...query.keys()].some((name) => name !== "view") && html`<button type="button" class="quiet" onClick=${() => go(place.path)}>${t("Clear")}</button>`}
    <button type="button" class="quiet icon-only view-switch" aria-label=${asList ? t("Show as a grid") : t("Show as a list")} title=${asList ? t("Show as a grid") : t("Show as a list")} onClick=${() => go(withQuery({ view: asList ? null : "list" }), { replace: true })}><${Icon} of=${asList ? "grid" : "rows"} /></button>
  </div>`;
}

// The grid --------------------------------------------------------------------------------------------------------------------

function Grid({ shown, posters, end, enlarge }) {
  const box = useRef(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(() => setWidth(box.current?.clientWidth ?? 0));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  const columns = Math.max(2, Math.floor((width + GAP) / (TILE + GAP)));
  const rows = Math.ceil(shown.length / columns);
  const tile = width ? (width - GAP * (columns - 1)) / columns : TILE;
  const height = Math.round(tile * 0.75 + 52 + GAP);
  return html`<div class="gallery" ref=${box}>${width > 0 && html`<${Rows} count=${rows} height=${height} role="list" label=${t("Artifacts, newest first")} end=${end}
    row=${(row) => html`<div key=${row} role="presentation" class="gallery-row" style=${{ gridTemplateColumns: `repeat(${columns}, minmax(0, 1fr))`, height: `${height}px` }}>
      ${shown.slice(row * columns, (row + 1) * columns).map((meta, index) => html`<${Tile} key=${meta.bucket + meta.key} meta=${meta} poster=${posters.get(`${meta.job_id} ${meta.node_id}`)} enlarge=${() => enlarge(row * columns + index)} />`)}</div>`} />`}</div>`;
}

function Tile({ meta, poster, enlarge }) {
  const kind = kindOf(meta);
  const name = fileName(meta);
  const video = useRef(null);
  const play = () => video.current?.querySelector("video")?.play().catch(() => {});
  const rest = () => {
    const film = video.current?.querySelector("video");
    if (!film) return;
    film.pause();
    film.load();
  };
  const loved = favourites.has(meta);
  return html`<article role="listitem" class="tile" ref=${video} onMouseEnter=${kind === "video" ? play : undefined} onMouseLeave=${kind === "video" ? rest : undefined}>
    <span class="tile-picture k-${kind}">${kind === "audio" ? html`<${WaveThumb} meta=${meta} />` : html`<${Thumbnail} meta=${meta} poster=${poster} />`}${kind === "video" && html`<span class="tile-kind"><${Icon} of="film" /></span>`}</span>
    <a class="tile-name" href=${to.artifact(meta)} onClick=${follow} title=${meta.key}>${name}</a>
    <span class="tile-note muted"><span>${meta.job_id ? meta.node_id ?? meta.bucket : t("uploaded")}</span><span>${size(meta.size_bytes)}</span></span>
    <span class="tile-tools">
      <button type="button" class="icon-only" aria-pressed=${loved} aria-label=${loved ? t("Remove {name} from the favourites", { name }) : t("Add {name} to the favourites", { name })} onClick=${() => favourites.toggle(meta)}><${Icon} of="star" /></button>
      <a class="button icon-only" aria-label=${t("Use {name} as input", { name })} title=${t("Use as input")} href="${to.new}?use=${encodeURIComponent(`${meta.bucket}/${meta.key}`)}" onClick=${follow}><${Icon} of="used" /></a>
      <button type="button" class="icon-only" aria-label=${t("Show {name} on the full screen", { name })} onClick=${enlarge}><${Icon} of="expand" /></button></span>
  </article>`;
}

function FullScreen({ files, at, move, close }) {
  const meta = files[at];
  const ref = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    ref.current.showModal();
    return () => before?.isConnected && before.focus();
  }, []);
  const step = (by) => files[at + by] && move(at + by);
  const press = (event) => {
    if (event.target.closest("video, audio, input")) return;
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  };
  return html`<dialog ref=${ref} class="full-screen" aria-label=${fileName(meta)} onClose=${close} onKeyDown=${press}>
    <header><strong>${fileName(meta)}</strong><span class="muted"><${Time} at=${meta.created_at} /></span><span class="end"><${Link} class="button" href=${to.artifact(meta)}>${t("Details")}<//>
      <button type="button" class="icon-only" aria-label=${t("Close")} onClick=${close}><${Icon} of="close" /></button></span></header>
    <div class="full-screen-body"><button type="button" class="quiet icon-only" aria-label=${t("The one before")} disabled=${at === 0} onClick=${() => step(-1)}><${Icon} of="back" /></button>
      <div class="full-screen-one"><${Preview} key=${meta.key} meta=${meta} large /></div>
      <button type="button" class="quiet icon-only" aria-label=${t("The next one")} disabled=${at === files.length - 1} onClick=${() => step(1)}><${Icon} of="next" /></button></div></dialog>`;
}

// The list --------------------------------------------------------------------------------------------------------------------

const HEADS = [t("Name"), t("Bucket"), t("Size"), t("Type"), t("Created"), t("By")];

function Table({ shown, end }) {
  const narrow = useWidth() < 720;
  return html`<div class="jobs" role="table" aria-label=${t("Artifacts")} aria-rowcount=${shown.length + 1}>
    <div role="rowgroup" class="table-head"><div role="row" class="artifact-row" aria-rowindex="1"><span role="columnheader"><span class="hidden">${t("Kind")}</span></span>${HEADS.map((name) => html`<span role="columnheader" key=${name}>${name}</span>`)}</div></div>
    <${Rows} count=${shown.length} height=${narrow ? 58 : 44} label=${t("Artifacts, newest first")} end=${end} row=${(index) => html`<${ArtifactRow} key=${shown[index].bucket + shown[index].key} meta=${shown[index]} index=${index} />`} /></div>`;
}

function ArtifactRow({ meta, index }) {
  const kind = kindOf(meta);
  return html`<div role="row" class="artifact-row" aria-rowindex=${index + 2}>
    <span role="cell" class="a-kind k-${kind}"><${Icon} of=${KIND_ICONS[kind]} /><span class="hidden">${kind}</span></span>
    <span role="cell" class="a-name"><a href=${to.artifact(meta)} onClick=${follow} title=${meta.key}>${fileName(meta)}</a></span>
    <span role="cell" class="a-bucket">${meta.bucket}</span>
    <span role="cell" class="a-size numbers">${size(meta.size_bytes)}</span>
    <span role="cell" class="a-type muted">${meta.content_type}</span>
    <span role="cell" class="a-made muted"><${Time} at=${meta.created_at} /></span>
    <span role="cell" class="a-by">${meta.job_id ? html`<a class="mono" href=${to.job(meta.job_id, meta.node_id)} onClick=${follow} title=${meta.job_id}>${meta.node_id ?? meta.job_id}</a>` : html`<span class="muted">${t("uploaded")}</span>`}</span>
  </div>`;
}

function None() {
  if ([...place.query.keys()].some((name) => name !== "view")) return html`<${Empty} title=${t("No matches")}><p><button type="button" onClick=${() => go(place.path)}>${t("Show all files")}</button></p><//>`;
  return html`<${Empty} title=${t("No file yet")}><p>${t("What jobs make and what you upload is kept here.")}</p><p><${Link} href=${to.new} class="button primary">${t("New job")}<//> <${Link} href=${withQuery({ origin: "example" })} class="button">${t("Show the examples")}<//></p><//>`;
}

