// Fields that are more than a line: tick boxes, lists that are put in order, sliders, and a place on a picture.
import { Files, useStored } from "./files.js";
import { isArtifact, kindOf, plain, propertiesOf, titleOf, takes, wantedOf } from "./fields.js";
import { isReference, number } from "./format.js";
import { t } from "./messages.js";
import { Icon } from "./ui.js";
import { html, useRef, useState } from "./view.js";
import { Picture } from "./viewers.js";

export function Ticks({ id, control, schema, value, change, title }) {
  const choices = plain(plain(schema).items).enum;
  const chosen = new Set(value ?? []);
  const toggle = (each) => {
    if (!chosen.delete(each)) chosen.add(each);
    change(choices.filter((choice) => chosen.has(choice)));
  };
  return html`<div class="ticks" role="group" aria-label=${title} aria-describedby=${control["aria-describedby"]}>
    ${choices.map((each, index) => html`<label key=${each}><input type="checkbox" id=${index ? undefined : id} checked=${chosen.has(each)} onChange=${() => toggle(each)} />${String(each)}</label>`)}</div>`;
}

export function Lines({ control, value, change, placeholder }) {
  const lines = value ?? [];
  return html`<textarea ...${control} rows=${Math.min(8, Math.max(2, lines.length))} value=${lines.join("\n")} placeholder=${placeholder ?? t("One on each line")} onInput=${(event) => change(event.target.value ? event.target.value.split("\n") : [])}></textarea>`;
}

// A list of objects with a file in each, such as scenes: files that are dropped become items, and the items are put in order.
export function List({ id, control, schema, value, change, busy, title, draw }) {
  const items = plain(plain(schema).items);
  const list = value ?? [];
  const now = useRef(list);
  now.current = list;
  const [held, setHeld] = useState(null);
  const [over, setOver] = useState(null);
  const [file, fileSchema] = propertiesOf(items).find(([, each]) => kindOf(each) === "file");
  const set = (next) => ((now.current = next), change(next));
  const add = (reference) => set([...now.current, { [file]: reference }]);
  const move = (from, to) => {
    if (to < 0 || to >= list.length || from === to) return;
    const next = [...list];
    next.splice(to, 0, ...next.splice(from, 1));
    set(next);
  };
  const drop = (event, index) => {
    if (held === null) return;
    event.preventDefault();
    event.stopPropagation();
    move(held, index);
    setHeld(null);
    setOver(null);
  };
  return html`<div class="list" role="group" aria-label=${title}>
    <ol>${list.map((item, index) => html`<li key=${index} class="item ${held === index ? "held-item" : ""} ${over === index ? "over-item" : ""}"
      onDragOver=${(event) => held !== null && (event.preventDefault(), setOver(index))} onDrop=${(event) => drop(event, index)}>
      <div class="item-tools">
        <span class="grip" draggable="true" title=${t("Drag to order")} onDragStart=${(event) => (event.dataTransfer.setData("text/plain", String(index)), (event.dataTransfer.effectAllowed = "move"), setHeld(index))}
          onDragEnd=${() => (setHeld(null), setOver(null))}><${Icon} of="grip" /></span>
        <strong class="numbers">${index + 1}</strong>
        <button type="button" class="quiet icon-only" aria-label=${t("Move {n} up", { n: index + 1 })} disabled=${index === 0} onClick=${() => move(index, index - 1)}><${Icon} of="up" /></button>
        <button type="button" class="quiet icon-only" aria-label=${t("Move {n} down", { n: index + 1 })} disabled=${index === list.length - 1} onClick=${() => move(index, index + 1)}><${Icon} of="down" /></button>
        <button type="button" class="quiet icon-only" aria-label=${t("Remove {name}", { name: index + 1 })} onClick=${() => set(list.filter((_, each) => each !== index))}><${Icon} of="close" /></button>
      </div>
      <div class="item-body">${draw(items, item, `/${index}`, (next) => set(now.current.map((each, at) => (at === index ? next : each))))}</div></li>`)}</ol>
    <${Files} id=${id} control=${control} schema=${{ ...plain(fileSchema), items: fileSchema }} many taken=${add} busy=${busy} name=${file} title=${t("Add to {field}", { field: title })} />
  </div>`;
}

export function Sliders({ id, schema, value, change, whole }) {
  const fields = propertiesOf(schema);
  const held = value ?? {};
  const isGrade = fields.every(([name]) => name in NEUTRAL);
  const at = (name, each) => Number(held[name] ?? plain(each).default ?? plain(each).minimum);
  return html`<div class="sliders ${isGrade ? "with-picture" : ""}">
    ${isGrade && html`<${GradeLook} grade=${Object.fromEntries(fields.map(([name, each]) => [name, at(name, each)]))} whole=${whole} id=${id} />`}
    <div class="stack">${fields.map(([name, each], index) => {
      const { minimum, maximum, default: usual, description } = plain(each);
      const label = titleOf(name, each);
      return html`<div class="slider" key=${name}><label for=${`${id}-${name}`}>${label}</label>
        <input type="range" id=${`${id}-${name}`} min=${minimum} max=${maximum} step=${(maximum - minimum) / 200} value=${at(name, each)} title=${description} onInput=${(event) => change({ ...held, [name]: Number(event.target.value) })} />
        <output class="numbers" for=${`${id}-${name}`}>${number(at(name, each))}</output>
        <button type="button" class="quiet icon-only" aria-label=${t("Reset {field}", { field: label })} disabled=${at(name, each) === usual} onClick=${() => change({ ...held, [name]: usual })}><${Icon} of="again" /></button></div>`;
    })}</div></div>`;
}

// Colour grade. The worker's formula (gains of light, contrast around the middle, saturation around luma) is one matrix, so the browser
// shows exactly what will be rendered, before the film's own encoding.
const NEUTRAL = { exposure: 0, contrast: 1, saturation: 1, temperature: 0 };
const LUMA = [0.2126, 0.7152, 0.0722];
const DISPLAY_GAMMA = 2.4;

export function gradeMatrix({ exposure = 0, contrast = 1, saturation = 1, temperature = 0 }) {
  const gains = [exposure + temperature / 2, exposure, exposure - temperature / 2].map((stops) => 2 ** (stops / DISPLAY_GAMMA));
  const offset = 0.5 - 0.5 * contrast;
  return [0, 1, 2].map((row) => {
    const share = [0, 1, 2].map((column) => (LUMA[column] * (1 - saturation) + (row === column ? saturation : 0)) * contrast * gains[column]);
    return [...share, 0, offset];
  });
}

function GradeLook({ grade, whole, id }) {
  const stored = useStored({ accept: ["image/*"] });
  const picture = firstPicture(whole) ?? stored[0];
  if (!picture) return null;
  const rows = [...gradeMatrix(grade), [0, 0, 0, 1, 0]];
  return html`<figure class="grade-look"><svg width="0" height="0" aria-hidden="true"><filter id="${id}-grade" color-interpolation-filters="sRGB"><feColorMatrix type="matrix" values=${rows.flat().map((each) => each.toFixed(5)).join(" ")} /></filter></svg>
    <${Picture} reference=${picture} alt=${t("The picture with these colours")} style=${{ filter: `url("#${CSS.escape(id)}-grade")` }} /></figure>`;
}

// The first picture that has been chosen anywhere in the form.
function firstPicture(value) {
  if (isReference(value)) return takes({ accept: ["image/*"] }, { name: value.key }) ? value : null;
  if (value === null || typeof value !== "object") return null;
  for (const each of Object.values(value)) {
    const found = firstPicture(each);
    if (found) return found;
  }
  return null;
}

// A place with a width on the picture of a field beside it.
export function Mouth({ id, control, value, change, whole, root }) {
  const box = useRef(null);
  const [name] = propertiesOf(root).filter(([, each]) => isArtifact(plain(each)) && wantedOf(each).accept.includes("image/*")).sort(([a]) => (a === "portrait" ? -1 : 0))[0] ?? [];
  const picture = whole["portrait"] ?? whole[name];
  if (!picture) return html`<p class="muted" id=${id}>${t("Choose the portrait first, then place the mouth on it.")}</p>`;
  const held = value ?? null;
  const set = (next) => change({ ...next, x: clamp(next.x), y: clamp(next.y), width: Math.min(1, Math.max(0.01, Number(next.width.toFixed(4)))) });
  const place = (event) => {
    const at = box.current.getBoundingClientRect();
    set({ x: (event.clientX - at.left) / at.width, y: (event.clientY - at.top) / at.height, width: held?.width ?? 0.2 });
  };
  const drag = (event) => event.buttons & 1 && place(event);
  const press = (event) => {
    const step = event.shiftKey ? 0.05 : 0.005;
    const moves = { ArrowLeft: [-step, 0, 0], ArrowRight: [step, 0, 0], ArrowUp: [0, -step, 0], ArrowDown: [0, step, 0], "+": [0, 0, step], "-": [0, 0, -step] };
    const by = moves[event.key];
    if (!by) return;
    event.preventDefault();
    const from = held ?? { x: 0.5, y: 0.65, width: 0.2 };
    set({ x: from.x + by[0], y: from.y + by[1], width: from.width + by[2] });
  };
  return html`<div class="mouth">
    <div class="mouth-picture" ref=${box} id=${id} tabindex="0" role="application" aria-label=${t("Place the mouth: arrow keys move it, plus and minus change its width")} aria-describedby=${control["aria-describedby"]}
      onPointerDown=${(event) => (event.preventDefault(), box.current.focus({ preventScroll: true }), box.current.setPointerCapture?.(event.pointerId), place(event))} onPointerMove=${drag} onKeyDown=${press}>
      <${Picture} reference=${picture} alt="" draggable=${false} />
      ${held && html`<span class="mouth-mark" style=${{ left: `${held.x * 100}%`, top: `${held.y * 100}%`, width: `${held.width * 100}%` }}></span>`}
    </div>
    ${held ? html`<div class="slider"><label for="${id}-width">${t("Width")}</label><input type="range" id="${id}-width" min="0.01" max="0.6" step="0.005" value=${held.width} onInput=${(event) => set({ ...held, width: Number(event.target.value) })} />
        <output class="numbers">${number(held.width)}</output><button type="button" class="quiet" onClick=${() => change(undefined)}>${t("Remove")}</button></div>`
      : html`<p class="muted">${t("Press on the middle of the mouth.")}</p>`}
  </div>`;
}

const clamp = (value) => Number(Math.min(1, Math.max(0, value)).toFixed(4));
