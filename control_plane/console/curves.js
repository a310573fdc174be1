// Numbers along their steps, of one job or of several over each other: log scale, smoothing, a part enlarged. Where there are more points
// than a screen has columns, each column keeps its least and its most, so that no peak is lost.
import { number } from "./format.js";
import { t } from "./messages.js";
import { Icon } from "./ui.js";
import { html, useMemo, useRef, useState } from "./view.js";

const WIDTH = 640;
const HEIGHT = 150;
const COLUMNS = 400;
export const COLOURS = ["var(--accent)", "var(--c-2)", "var(--c-3)", "var(--c-4)", "var(--c-5)", "var(--c-6)"];

// The controls for all curves of a page and the curves. `series`: [{key, title, nodeId, along, lines: [{name, points}]}] or, of one job, with `points`.
// `within`: the y axis, where it is not that of the values.
export function Curves({ series }) {
  const [log, setLog] = useState(false);
  const [smooth, setSmooth] = useState(0);
  return html`<div class="stack"><div class="curve-tools">
      <button type="button" class="chip" aria-pressed=${log} onClick=${() => setLog(!log)}>${t("Log scale")}</button>
      <label class="smooth"><span>${t("Smoothing")}</span><input type="range" min="0" max="0.98" step="0.02" value=${smooth} onInput=${(event) => setSmooth(Number(event.target.value))} /><output class="numbers">${smooth.toFixed(2)}</output></label>
      <span class="muted">${t("Drag over a curve to enlarge a part; double click shows all.")}</span></div>
    <div class="curves">${series.map((each) => html`<${Curve} key=${each.key} series=${each} log=${log} smooth=${smooth} />`)}</div></div>`;
}

const finite = (points) => points.filter((point) => point.every(Number.isFinite));

// Exponential moving average whose start is not drawn towards zero.
export function smoothed(points, weight) {
  if (!weight) return points;
  let sum = 0;
  let share = 0;
  return points.map(([x, y]) => {
    sum = sum * weight + y;
    share = share * weight + 1;
    return [x, sum / share];
  });
}

// At most two points of each column: its least and its most, in their order.
export function thinned(points, columns = COLUMNS) {
  if (points.length <= 2 * columns) return points;
  const kept = [];
  for (let column = 0; column < columns; column += 1) {
    const from = Math.floor((column * points.length) / columns);
    const to = Math.floor(((column + 1) * points.length) / columns);
    let [least, most] = [from, from];
    for (let at = from; at < to; at += 1) {
      if (points[at][1] < points[least][1]) least = at;
      if (points[at][1] > points[most][1]) most = at;
    }
    kept.push(...[...new Set([least, most])].sort((a, b) => a - b).map((at) => points[at]));
  }
  return kept;
}

export function Curve({ series, log = false, smooth = 0 }) {
  const box = useRef(null);
  const [near, setNear] = useState(null);
  const [part, setPart] = useState(null); // [from, to] of the x axis
  const [drag, setDrag] = useState(null);
  const lines = series.lines ?? [{ name: "", points: series.points }];
  const whole = useMemo(() => lines.map((line) => ({ ...line, points: smoothed(finite(line.points).filter((point) => !log || point[1] > 0), smooth) })), [series, lines.map((line) => line.points.length).join(), log, smooth]);
  const shown = whole.map((line, index) => ({ ...line, index: line.index ?? index, points: part ? line.points.filter(([x]) => x >= part[0] && x <= part[1]) : line.points })).filter((line) => line.points.length);
  if (!shown.length) return log ? html`<figure class="curve"><figcaption><h3>${series.title}</h3></figcaption><p class="muted">${t("Nothing above zero for a log scale.")}</p></figure>` : null;
  const scale = log ? Math.log10 : (value) => value;
  const xs = part ? { least: part[0], most: part[1] } : range(shown, 0, (value) => value);
  const ys = (!log && series.within) || range(shown, 1, scale);
  const x = (value) => ((value - xs.least) / (xs.most - xs.least || 1)) * WIDTH;
  const y = (value) => HEIGHT - 8 - ((scale(value) - ys.least) / (ys.most - ys.least || 1)) * (HEIGHT - 16);
  const path = (points) => points.map((point, index) => `${index ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join("");
  const at = (event) => {
    const edge = box.current.getBoundingClientRect();
    return xs.least + Math.min(1, Math.max(0, (event.clientX - edge.left) / edge.width)) * (xs.most - xs.least);
  };
  const pointer = {
    onPointerDown: (event) => event.button === 0 && setDrag([at(event), at(event)]),
    onPointerMove: (event) => (setNear(at(event)), drag && setDrag([drag[0], at(event)])),
    onPointerUp: () => {
      if (drag && Math.abs(drag[1] - drag[0]) > (xs.most - xs.least) / 50) setPart([Math.min(...drag), Math.max(...drag)]);
      setDrag(null);
    },
    onPointerLeave: () => (setNear(null), setDrag(null)),
    onDblClick: () => setPart(null),
  };
  const value = (line) => (near === null ? line.points.at(-1) : nearest(line.points, near));
  const first = shown[0];
  const last = first.points.at(-1);
  const told = { title: series.title, node: series.nodeId, value: number(last[1]), along: series.along, step: number(last[0]), start: number(first.points[0][1]) };
  const one = series.nodeId ? t("{title} of {node}: {value} at {along} {step}, from {start}", told) : t("{title}: {value} at {along} {step}, from {start}", told);
  const said = shown.length === 1 ? one
    : `${series.title}: ${shown.map((line) => `${line.name} ${number(line.points.at(-1)[1])}`).join(", ")}`;
  const axis = (each) => number(log ? Number((10 ** each).toPrecision(4)) : each);
  return html`<figure class="curve">
    <figcaption><h3>${series.title}</h3><span class="muted">${series.nodeId || (shown.length === 1 && first.name)}</span>
      ${part && html`<button type="button" class="quiet" onClick=${() => setPart(null)}><${Icon} of="fit" />${t("Show all")}</button>`}
      ${shown.length === 1 && html`<span class="curve-value numbers">${number(value(first)[1])}<span class="muted"> ${t("at {along} {step}", { along: series.along, step: number(value(first)[0]) })}</span></span>`}</figcaption>
    <div class="plot">
      <span class="y numbers" aria-hidden="true"><span>${axis(ys.most)}</span><span>${axis(ys.least)}</span></span>
      <svg ref=${box} viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label=${said} ...${pointer}>
        <path class="grid" d="M0 ${HEIGHT - 8}H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 8H${WIDTH}" />
        ${shown.length === 1 && html`<path class="area" d="${path(thinned(first.points))}L${x(last[0]).toFixed(1)} ${HEIGHT}L${x(first.points[0][0]).toFixed(1)} ${HEIGHT}Z" />`}
        ${shown.map((line) => html`<path key=${line.name} class="stroke" style=${{ stroke: COLOURS[line.index % COLOURS.length] }} d=${path(thinned(line.points))} />`)}
        ${near !== null && html`<path class="cross" d="M${x(near).toFixed(1)} 0V${HEIGHT}" />`}
        ${drag && html`<rect class="part" x=${x(Math.min(...drag))} y="0" width=${Math.abs(x(drag[1]) - x(drag[0]))} height=${HEIGHT} />`}
      </svg>
    </div>
    <p class="x numbers muted" aria-hidden="true"><span>${series.along} ${number(xs.least)}</span><span>${number(xs.most)}</span></p>
    ${shown.length > 1 && html`<ul class="legend">${shown.map((line) => html`<li key=${line.name}><i style=${{ background: COLOURS[line.index % COLOURS.length] }}></i>${line.name} <span class="numbers muted">${number(value(line)[1])}</span></li>`)}</ul>`}
    ${shown.length === 1 && html`<p class="numbers muted curve-ends">${t("least {value}", { value: number(least(first.points)) })} · ${t("last {value}", { value: number(last[1]) })}</p>`}
  </figure>`;
}

const least = (points) => points.reduce((low, [, value]) => Math.min(low, value), Infinity);

function nearest(points, x) {
  let best = points[0];
  for (const point of points) if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  return best;
}

function range(lines, axis, scale) {
  let least = Infinity;
  let most = -Infinity;
  for (const line of lines) {
    for (const point of line.points) {
      const value = scale(point[axis]);
      least = Math.min(least, value);
      most = Math.max(most, value);
    }
  }
  return { least, most };
}
