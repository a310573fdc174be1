// What the views are made of: marks, times, trees, lists of any length, dialogs, notices, and the states of a page that has nothing to show.
import { clock, may, session, whoAsks } from "./api.js";
import { ago, countdown, exact, isReference, ms, percent, STATUS, took } from "./format.js";
import { live } from "./live.js";
import { t, tn } from "./messages.js";
import { isLarge } from "./numbers.js";
import { Link, to } from "./router.js";
import { ICONS } from "./vendor/icons.js";
import { changes, html, useEffect, useLayoutEffect, useRef, useSource, useState } from "./view.js";

// Time ---------------------------------------------------------------------------------------------------------------------

const ticks = changes();
setInterval(() => document.hidden || ticks.tell(), 1000);
live.listen(ticks.tell);

// While the connection is cut, time stands still: nothing old is shown as live.
export const now = () => (live.state === "cut" ? live.seen : Date.now()) + clock.ahead;

export function useNow() {
  useSource(ticks);
  return now();
}

export function Time({ at }) {
  const present = useNow();
  if (at === null || at === undefined) return html`<span class="muted">–</span>`;
  return html`<time datetime=${new Date(ms(at)).toISOString()} title=${exact(at)}>${ago(at, present)}</time>`;
}

// How long it is until then.
export function Countdown({ to }) {
  const present = useNow();
  return html`<time class="numbers" datetime=${new Date(ms(to)).toISOString()} title=${exact(to)}>${countdown(ms(to) - present)}</time>`;
}

// From `from` until `to`, or until now.
export function Duration({ from, to }) {
  const present = useNow();
  if (!from) return html`<span class="muted">–</span>`;
  return html`<span class="numbers">${took((ms(to) ?? present) - ms(from))}</span>`;
}

// Marks --------------------------------------------------------------------------------------------------------------------

const SHAPES = {
  scheduled: "M6 1.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM6 3.5v3l2 1",
  queued: "M6 1.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9z",
  running: "M3.5 2l6 4-6 4z",
  completed: "M2 6.5 5 9.2 10 3.2",
  failed: "M2.8 2.8l6.4 6.4M9.2 2.8 2.8 9.2",
  cancelled: "M2.5 6h7",
};
Object.assign(SHAPES, { cancelling: SHAPES.cancelled, pending: SHAPES.queued, ready: SHAPES.queued, skipped: "M2 3l4 3-4 3M6 3l4 3-4 3" });

export const shapeOf = (status) => SHAPES[status] || SHAPES.queued;

export function Status({ status, children }) {
  return html`<span class="status s-${status}">
    <svg class="shape" viewBox="0 0 12 12" aria-hidden="true"><path d=${shapeOf(status)} /></svg>
    <span>${children || (STATUS[status] ?? status)}</span>
  </span>`;
}

export function Progress({ value, status, label = t("progress") }) {
  const shown = percent(value);
  return html`<span class="progress s-${status}" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${Math.floor(value * 100)}>
    <span class="track"><span class="bar" style=${{ transform: `scaleX(${value})` }}></span></span>
    <span class="numbers">${shown}</span>
  </span>`;
}

export function Icon({ of }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${ICONS[of] ?? ICONS.file} /></svg>`;
}

const COPIED_MS = 1600;

// Puts a text where it can be pasted, and shows that it has.
export function Copy({ text, label = t("Copy"), children }) {
  const [done, setDone] = useState(false);
  async function copy(event) {
    event.stopPropagation();
    const copied = await copyText(text);
    if (!copied) return say(t("This browser does not let pages copy; select the text."), "wrong");
    setDone(true);
    return setTimeout(() => setDone(false), COPIED_MS);
  }
  return html`<button type="button" class="quiet copy ${children ? "" : "icon-only"}" aria-label=${children ? undefined : done ? t("Copied") : label} title=${children ? undefined : label} onClick=${copy}>
    <${Icon} of=${done ? "check" : "copy"} />${children && html`<span>${done ? t("Copied") : children}</span>`}</button>`;
}

// Pages that came over plain HTTP from another machine have no clipboard but a selection's.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

// A text that is needed elsewhere, with the button that copies it.
export const Copyable = ({ text, shown = text, label }) => html`<span class="copyable"><span class="mono" title=${text}>${shown}</span><${Copy} text=${text} label=${label} /></span>`;

// States of a page ---------------------------------------------------------------------------------------------------------

export function Empty({ title, children }) {
  return html`<div class="empty">
    <svg viewBox="0 0 48 40" aria-hidden="true"><path d="M6 15 24 5v22L6 36z" /><path d="m24 5 18 10v21L24 27z" /></svg>
    <h2>${title}</h2>
    <div>${children}</div>
  </div>`;
}

export function Failure({ error, retry }) {
  return html`<div class="failure" role="alert">
    <h2>${error.status === 404 ? t("Not found") : t("This could not be loaded")}</h2>
    <p>${said(error)}</p>
    ${retry && html`<button type="button" onClick=${retry}><${Icon} of="again" /> ${t("Try again")}</button>`}
  </div>`;
}

// What a browser says of a connection that is not there is not for people.
export const said = (error) => (error instanceof TypeError ? t("The server cannot be reached.") : error.message);

export function Loading({ rows = 6 }) {
  return html`<div class="loading" role="status" aria-label=${t("Loading")}>
    ${Array.from({ length: rows }, (_, row) => html`<span key=${row}></span>`)}
  </div>`;
}

// Notices ------------------------------------------------------------------------------------------------------------------

const notices = { ...changes(), shown: [] };
const NOTICE_MS = 6000;

export function say(text, kind = "done") {
  const notice = { text, kind, id: Math.random() };
  notices.shown = [...notices.shown.slice(-3), notice];
  notices.tell();
  setTimeout(() => forget(notice), kind === "wrong" ? NOTICE_MS * 2 : NOTICE_MS);
}

function forget(notice) {
  notices.shown = notices.shown.filter((each) => each !== notice);
  notices.tell();
}

export function Notices() {
  useSource(notices);
  return html`<div class="notices" role="status" aria-live="polite">
    ${notices.shown.map((notice) => html`<div key=${notice.id} class="notice n-${notice.kind}">
      <span>${notice.text}</span>
      <button type="button" class="quiet" aria-label=${t("Dismiss")} onClick=${() => forget(notice)}><${Icon} of="close" /></button>
    </div>`)}
  </div>`;
}

// Runs what a button asks for, and says what went wrong.
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    say(said(error), "wrong");
    return null;
  }
}

// `may` of api.js, for a view that is drawn again when that changes.
export function useMay() {
  useSource(session);
  useEffect(() => void (session.who ?? whoAsks()), []);
  return may;
}

// A button that cannot be pressed again before its work is done. Where the work takes the button away, the view has the focus, not nothing.
export function Action({ work, children, ...more }) {
  const [busy, setBusy] = useState(false);
  const button = useRef(null);
  useLayoutEffect(() => () => {
    const held = document.activeElement === button.current || document.activeElement === document.body;
    if (held) requestAnimationFrame(() => document.activeElement === document.body && document.getElementById("main")?.focus({ preventScroll: true }));
  }, []);
  async function press() {
    if (busy) return;
    setBusy(true);
    await attempt(work);
    setBusy(false);
  }
  return html`<button type="button" ...${more} ref=${button} disabled=${more.disabled} aria-disabled=${busy || undefined} aria-busy=${busy} onClick=${press}>${children}</button>`;
}

// Without `close` it stays until it is taken away.
export function Dialog({ title, children, close, wide }) {
  const ref = useRef(null);
  const open = () => ref.current && !ref.current.open && ref.current.showModal();
  useEffect(() => {
    const before = document.activeElement;
    open();
    return () => before?.isConnected && before.focus();
  }, []);
  const outside = (event) => close && event.target === ref.current && close();
  return html`<dialog ref=${ref} class=${wide ? "wide" : ""} aria-label=${title} onClose=${close ?? open} onClick=${outside}>
    <header><h2>${title}</h2>${close && html`<button type="button" class="quiet icon-only" aria-label=${t("Close")} onClick=${close}><${Icon} of="close" /></button>`}</header>
    ${children}
  </dialog>`;
}

// Values -------------------------------------------------------------------------------------------------------------------

const MANY = 100;

export function Tree({ value, name, open = true }) {
  if (value === undefined) return html`<span class="muted">${t("nothing")}</span>`;
  if (value === null || typeof value !== "object" || isLarge(value)) return html`<${Leaf} value=${value} name=${name} />`;
  if (isReference(value) && Object.keys(value).length === 2) {
    return html`<div class="leaf"><${Name} name=${name} />
      <${Link} href=${to.artifact(value)}>${value.bucket}/${shortKey(value.key)}<//></div>`;
  }
  const entries = Array.isArray(value) ? value.map((each, index) => [index, each]) : Object.entries(value);
  if (!entries.length) return html`<div class="leaf"><${Name} name=${name} /><span class="muted">${Array.isArray(value) ? "[ ]" : "{ }"}</span></div>`;
  if (name === undefined) return html`<div class="tree"><${Branch} entries=${entries} /></div>`;
  return html`<details class="branch" open=${open && entries.length <= 12}>
    <summary><${Name} name=${name} /><span class="muted">${Array.isArray(value) ? tn(entries.length, "{n} item", "{n} items") : tn(entries.length, "{n} field", "{n} fields")}</span></summary>
    <${Branch} entries=${entries} />
  </details>`;
}

function Branch({ entries }) {
  const [shown, setShown] = useState(MANY);
  return html`<div class="twigs">
    ${entries.slice(0, shown).map(([name, value]) => html`<${Tree} key=${name} name=${String(name)} value=${value} />`)}
    ${entries.length > shown && html`<button type="button" class="quiet" onClick=${() => setShown(shown + 10 * MANY)}>
      ${t("{n} more", { n: (entries.length - shown).toLocaleString() })}</button>`}
  </div>`;
}

const Name = ({ name }) => (name === undefined ? null : html`<span class="name">${name}</span>`);

function Leaf({ value, name }) {
  const kind = value === null ? "null" : isLarge(value) ? "number" : typeof value;
  const text = kind === "string" ? value : isLarge(value) ? value.rawJSON : String(value);
  return html`<div class="leaf"><${Name} name=${name} />${text.length > 2000
    ? html`<details class="long"><summary class="v-string">${text.slice(0, 200)}…</summary><pre>${text}</pre></details>`
    : html`<span class="v-${kind}">${text === "" ? "“”" : text}</span>`}</div>`;
}

// The last part of a key, which is the name that people gave.
export const shortKey = (key) => key.split("/").at(-1);

// Lists of any length ------------------------------------------------------------------------------------------------------

const BEYOND = 6; // rows drawn above and below what is seen

// Draws only the rows that are in sight; `row(index)` makes one. `end` is called when the last rows come near, `range` with what is in sight.
export function Rows({ count, height, row, end, range, role = "rowgroup", label, follow = false }) {
  const ref = useRef(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const asked = useRef(-1);
  const atEnd = useRef(true);
  useLayoutEffect(() => {
    const element = ref.current;
    const look = () => setView({ top: element.scrollTop, height: element.clientHeight });
    const size = new ResizeObserver(look);
    size.observe(element);
    const scrolled = () => {
      atEnd.current = element.scrollTop + element.clientHeight >= element.scrollHeight - height;
      look();
    };
    element.addEventListener("scroll", scrolled, { passive: true });
    return () => {
      size.disconnect();
      element.removeEventListener("scroll", scrolled);
    };
  }, [height]);
  useLayoutEffect(() => {
    if (follow && atEnd.current) ref.current.scrollTop = ref.current.scrollHeight;
  }, [count, follow]);
  const first = Math.max(0, Math.floor(view.top / height) - BEYOND);
  const last = Math.min(count, Math.ceil((view.top + view.height) / height) + BEYOND);
  useEffect(() => range?.(first, last), [first, last, count]);
  useEffect(() => {
    if (end && last >= count - 2 * BEYOND && asked.current !== count) {
      asked.current = count;
      end();
    }
  });
  const rows = [];
  for (let index = first; index < last; index += 1) rows.push(row(index));
  return html`<div class="rows" ref=${ref} tabindex="0" role=${role} aria-label=${label}>
    <div class="whole" role="presentation" style=${{ height: `${count * height}px` }}>
      <div class="drawn" role="presentation" style=${{ transform: `translateY(${first * height}px)` }}>${rows}</div>
    </div>
  </div>`;
}

export function useWidth() {
  const [width, setWidth] = useState(innerWidth);
  useEffect(() => {
    const heard = () => setWidth(innerWidth);
    addEventListener("resize", heard);
    return () => removeEventListener("resize", heard);
  }, []);
  return width;
}

