// What can be seen or heard of a file, by its type. Files are users' files: they are shown as media or as text, never as pages.
import { bytesPath } from "./api.js";
import { number, size } from "./format.js";
import { t, tn } from "./messages.js";
import { isHuge, usePixels } from "./pixels.js";
import { Icon, shortKey } from "./ui.js";
import { html, useEffect, useRef, useState } from "./view.js";

const WAVE_BYTES = 48e6; // decoded in memory, so not for long recordings
const HEADER_BYTES = 16e6;
const TEXT_BYTES = 64 * 1024;
const TEXT = /^(text\/|application\/(json|xml|x-subrip|toml|yaml))|\.(json|txt|srt|vtt|csv|log|md|toml|ya?ml)$/i;

const SUFFIXES = { tensors: /\.safetensors$/i, image: /\.(png|jpe?g|webp|gif|avif|bmp)$/i, audio: /\.(wav|flac|mp3|ogg|m4a|opus)$/i, video: /\.(mp4|webm|mov)$/i };
const THUMB_BYTES = 6e6; // a larger picture costs more to decode than a thumbnail is worth

export const KIND_ICONS = { video: "film", audio: "audio", image: "image", tensors: "tensors", text: "text", other: "file" };

// The last preview that a node has kept is the poster of the film that it made.
export const isPoster = (meta) => Boolean(meta.job_id) && meta.key.endsWith("/preview.jpg");
export const posterOf = (meta, files) => (kindOf(meta) === "video" ? files.find((each) => isPoster(each) && each.job_id === meta.job_id && each.node_id === meta.node_id) : undefined);

// A small look at a file: the picture, the first frame of a film or its poster, else the mark of its kind.
export function Thumbnail({ meta, poster, alt = "" }) {
  const kind = kindOf(meta);
  const [broken, setBroken] = useState(false);
  const url = bytesPath(meta);
  const wrong = () => setBroken(true);
  const isPicture = kind === "image" && !(meta.size_bytes > THUMB_BYTES);
  const pixels = usePixels(isPicture ? meta : null);
  if (isPicture && pixels === undefined) return html`<span class="thumb blank"></span>`;
  if (!broken && isPicture && !isHuge(pixels)) return html`<img class="thumb" src=${url} alt=${alt} loading="lazy" decoding="async" onError=${wrong} />`;
  if (!broken && kind === "video") return html`<video class="thumb" src="${url}#t=0.5" poster=${poster && bytesPath(poster)} preload=${poster ? "none" : "metadata"} muted playsinline tabindex="-1" aria-hidden="true" onError=${wrong}></video>`;
  return html`<span class="thumb blank"><${Icon} of=${KIND_ICONS[kind]} /></span>`;
}

const WAVE_THUMB_BYTES = 4e6;
let decoding = Promise.resolve(); // one sound after the other

// The loudness of a sound as a small picture, made when it comes in sight.
export function WaveThumb({ meta }) {
  const canvas = useRef(null);
  const [peaks, setPeaks] = useState(null);
  useEffect(() => {
    if (meta.size_bytes > WAVE_THUMB_BYTES) return undefined;
    const stop = new AbortController();
    decoding = decoding.then(() => stop.signal.aborted || decoded(bytesPath(meta), stop.signal).then(setPeaks, () => {}));
    return () => stop.abort();
  }, [meta.key]);
  useEffect(() => peaks && draw(canvas.current, peaks.filter((_, index) => index % 4 === 0), 1), [peaks]);
  if (!peaks) return html`<span class="thumb blank"><${Icon} of="audio" /></span>`;
  return html`<canvas ref=${canvas} class="thumb wave-thumb" aria-hidden="true"></canvas>`;
}

// video, audio, image, tensors, text or other.
export function kindOf(meta) {
  const main = meta.content_type.split("/")[0];
  if (["video", "audio", "image"].includes(main)) return main;
  for (const [kind, suffix] of Object.entries(SUFFIXES)) if (suffix.test(meta.key)) return kind;
  return TEXT.test(meta.content_type) || TEXT.test(meta.key) ? "text" : "other";
}

// `large`: at the full width of the page.
export function Preview({ meta, large }) {
  const kind = kindOf(meta);
  const url = bytesPath(meta);
  const name = shortKey(meta.key);
  const [broken, setBroken] = useState(false);
  const wrong = () => setBroken(true);
  if (broken) return html`<p class="muted">${t("This browser cannot show {name}; it can be downloaded.", { name })}</p>`;
  if (kind === "video") return html`<div class="media ${large ? "large" : ""}"><video src=${url} controls preload="metadata" playsinline aria-label=${name} onError=${wrong}></video><${Wave} meta=${meta} of="video" /></div>`;
  if (kind === "audio") return html`<div class="media"><audio src=${url} controls preload="metadata" aria-label=${name} onError=${wrong}></audio><${Wave} meta=${meta} of="audio" /></div>`;
  if (kind === "image") return html`<div class="media ${large ? "large" : ""}"><${Picture} reference=${meta} alt=${name} onError=${wrong} /></div>`;
  if (kind === "tensors") return html`<${Tensors} url=${url} />`;
  if (kind === "text") return html`<${Text} url=${url} bytes=${meta.size_bytes} />`;
  return html`<p class="muted">${t("Nothing of {name} can be shown here; it can be downloaded.", { name })}</p>`;
}

const TINY = 64; // pixels; a smaller picture is drawn with its pixels seen

// A picture as it is; one that would take hundreds of megabytes in memory only when it is asked for.
export function Picture({ reference, ...more }) {
  const pixels = usePixels(reference);
  const [anyway, setAnyway] = useState(false);
  const loaded = (event) => event.target.classList.toggle("tiny", event.target.naturalWidth < TINY && event.target.naturalHeight < TINY);
  if (pixels === undefined) return null;
  if (isHuge(pixels) && !anyway) {
    return html`<p class="muted huge">${t("{width} × {height} pixels: it is not drawn here, because that takes {size} of memory.", { width: pixels.width.toLocaleString(), height: pixels.height.toLocaleString(), size: size(pixels.width * pixels.height * 4) })} <button type="button" class="quiet" onClick=${() => setAnyway(true)}>${t("Show it anyway")}</button></p>`;
  }
  return html`<img src=${bytesPath(reference)} ...${more} onLoad=${loaded} />`;
}

// The loudness over time; where one clicks, the player beside it goes.
function Wave({ meta, of }) {
  const canvas = useRef(null);
  const [peaks, setPeaks] = useState(null);
  const [played, setPlayed] = useState(0);
  const player = () => canvas.current?.parentElement.querySelector(of);
  useEffect(() => {
    if (meta.size_bytes > WAVE_BYTES) return undefined;
    const stop = new AbortController();
    decoded(bytesPath(meta), stop.signal).then(setPeaks, () => {}); // a film without sound has none
    return () => stop.abort();
  }, [meta.key]);
  useEffect(() => {
    const media = player();
    if (!media) return undefined;
    const moved = () => setPlayed(media.currentTime / media.duration || 0);
    media.addEventListener("timeupdate", moved);
    return () => media.removeEventListener("timeupdate", moved);
  }, [peaks]);
  useEffect(() => peaks && draw(canvas.current, peaks, played), [peaks, played]);
  if (!peaks) return null;
  const seek = (event) => {
    const at = canvas.current.getBoundingClientRect();
    const media = player();
    if (media.duration) media.currentTime = ((event.clientX - at.left) / at.width) * media.duration;
  };
  return html`<canvas ref=${canvas} class="wave" role="img" aria-label=${t("Waveform of {name}", { name: shortKey(meta.key) })} onClick=${seek}></canvas>`;
}

const BINS = 480;

async function decoded(url, signal) {
  const answer = await fetch(url, { signal });
  const sound = await new OfflineAudioContext(1, 1, 44100).decodeAudioData(await answer.arrayBuffer());
  const samples = sound.getChannelData(0);
  const step = Math.max(1, Math.floor(samples.length / BINS));
  const peaks = [];
  for (let bin = 0; bin < BINS && bin * step < samples.length; bin += 1) {
    let most = 0;
    for (let at = bin * step; at < Math.min(samples.length, (bin + 1) * step); at += 1) most = Math.max(most, Math.abs(samples[at]));
    peaks.push(most);
  }
  const loudest = Math.max(...peaks, 1e-6);
  return peaks.map((peak) => peak / loudest);
}

function draw(canvas, peaks, played) {
  const scale = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const colours = getComputedStyle(canvas);
  peaks.forEach((peak, index) => {
    const tall = Math.max(1, peak * height * 0.95);
    pen.fillStyle = index / peaks.length < played ? colours.color : colours.borderTopColor;
    pen.fillRect((index / peaks.length) * width, (height - tall) / 2, Math.max(1, width / peaks.length - 0.6), tall);
  });
}

// The header of a safetensors file: eight bytes say how long it is, then it is JSON. Nothing else of the file is read.
function Tensors({ url }) {
  const [header, setHeader] = useState(null);
  const [error, setError] = useState("");
  useEffect(() => {
    const stop = new AbortController();
    headerOf(url, stop.signal).then(setHeader, (wrong) => wrong.name === "AbortError" || setError(wrong.message));
    return () => stop.abort();
  }, [url]);
  if (error) return html`<p class="wrong">${t("The header cannot be read: {error}", { error })}</p>`;
  if (!header) return html`<p class="muted" role="status">${t("Reading the header…")}</p>`;
  const { __metadata__: notes = {}, ...tensors } = header;
  const named = Object.entries(tensors).filter(([, tensor]) => Array.isArray(tensor?.shape));
  const count = (tensor) => tensor.shape.reduce((product, side) => product * side, 1);
  return html`<div class="stack">
    <p>${tn(named.length, "{n} tensor", "{n} tensors")}, ${t("{n} parameters", { n: number(named.reduce((sum, [, tensor]) => sum + count(tensor), 0)) })}</p>
    <div class="scroll" tabindex="0" role="region" aria-label=${t("Tensors")}><table><thead><tr><th>${t("Tensor")}</th><th>${t("Type")}</th><th>${t("Shape")}</th><th class="n">${t("Size")}</th></tr></thead>
      <tbody>${named.slice(0, 500).map(([name, tensor]) => html`<tr key=${name}><td class="mono">${name}</td><td>${String(tensor.dtype)}</td><td class="numbers">${tensor.shape.join(" × ") || t("scalar")}</td>
        <td class="n">${size((tensor.data_offsets?.[1] ?? 0) - (tensor.data_offsets?.[0] ?? 0))}</td></tr>`)}</tbody></table></div>
    ${named.length > 500 && html`<p class="muted">${t("and {n} more", { n: (named.length - 500).toLocaleString() })}</p>`}
    ${Object.keys(notes).length > 0 && html`<h3>${t("Metadata")}</h3><dl class="facts">${Object.entries(notes).sort().map(([name, value]) => [html`<dt key=${name}>${name}</dt>`, html`<dd class="mono">${String(value)}</dd>`])}</dl>`}
  </div>`;
}

async function headerOf(url, signal) {
  const part = async (from, to) => {
    const answer = await fetch(url, { headers: { Range: `bytes=${from}-${to}` }, signal });
    if (answer.status !== 206) throw new Error(answer.ok ? t("the store does not send parts of files") : `HTTP ${answer.status}`);
    return answer.arrayBuffer();
  };
  const first = new DataView(await part(0, 7));
  if (first.byteLength < 8) throw new Error(t("it is no safetensors file"));
  const length = Number(first.getBigUint64(0, true));
  if (length > HEADER_BYTES) throw new Error(t("it says that its header has {n} bytes", { n: number(length) }));
  const header = JSON.parse(new TextDecoder().decode(await part(8, 7 + length)));
  if (header === null || typeof header !== "object") throw new Error(t("its header is no object"));
  return header;
}

function Text({ url, bytes }) {
  const [text, setText] = useState(null);
  useEffect(() => {
    const stop = new AbortController();
    const headers = bytes > TEXT_BYTES ? { Range: `bytes=0-${TEXT_BYTES - 1}` } : {};
    fetch(url, { headers, signal: stop.signal })
      .then((answer) => (answer.ok ? answer.text() : Promise.reject(new Error(`HTTP ${answer.status}`))))
      .then(setText, (wrong) => wrong.name === "AbortError" || setText(t("It cannot be read: {error}", { error: wrong.message })));
    return () => stop.abort();
  }, [url]);
  if (text === null) return html`<p class="muted" role="status">${t("Reading…")}</p>`;
  return html`<pre class="text" tabindex="0">${text}</pre>${bytes > TEXT_BYTES && html`<p class="muted">${t("The first {part} of {whole}.", { part: size(TEXT_BYTES), whole: size(bytes) })}</p>`}`;
}
