// What a task publishes as numbers, drawn as it comes: one small chart for each.
import { number } from "./format.js";
import { html, useRef, useState } from "./view.js";

const WIDTH = 640;
const HEIGHT = 150;
const MOST_POINTS = 800;

export function Curves({ series }) {
  return html`<div class="curves">${series.map((each) => html`<${Curve} key=${each.key} series=${each} />`)}</div>`;
}

function Curve({ series }) {
  const box = useRef(null);
  const [near, setNear] = useState(null);
  const points = thinned(series.points.filter((point) => point.every(Number.isFinite)));
  if (!points.length) return null;
  const last = points.at(-1);
  const xs = range(points, 0);
  const ys = range(points, 1);
  const x = (value) => ((value - xs.least) / (xs.most - xs.least || 1)) * WIDTH;
  const y = (value) => HEIGHT - 8 - ((value - ys.least) / (ys.most - ys.least || 1)) * (HEIGHT - 16);
  const line = points.map((point, index) => `${index ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join("");
  const shown = near === null ? last : points[Math.min(near, points.length - 1)];
  const look = (event) => {
    const at = box.current.getBoundingClientRect();
    const wanted = xs.least + ((event.clientX - at.left) / at.width) * (xs.most - xs.least);
    let best = 0;
    points.forEach((point, index) => Math.abs(point[0] - wanted) < Math.abs(points[best][0] - wanted) && (best = index));
    setNear(best);
  };
  const said = `${series.title} of ${series.nodeId}: ${number(last[1])} at ${series.along} ${number(last[0])}, from ${number(points[0][1])}`;
  return html`<figure class="curve">
    <figcaption><h3>${series.title}</h3><span class="muted">${series.nodeId}</span>
      <span class="curve-value numbers">${number(shown[1])}<span class="muted"> at ${series.along} ${number(shown[0])}</span></span></figcaption>
    <div class="plot">
      <span class="y numbers" aria-hidden="true"><span>${number(ys.most)}</span><span>${number(ys.least)}</span></span>
      <svg ref=${box} viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label=${said} onPointerMove=${look} onPointerLeave=${() => setNear(null)}>
        <path class="grid" d="M0 ${HEIGHT - 8}H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 8H${WIDTH}" />
        <path class="area" d="${line}L${x(last[0]).toFixed(1)} ${HEIGHT}L${x(points[0][0]).toFixed(1)} ${HEIGHT}Z" />
        <path class="stroke" d=${line} />
        ${near !== null && html`<path class="cross" d="M${x(shown[0])} 0V${HEIGHT}" />`}
      </svg>
    </div>
  </figure>`;
}

function range(points, axis) {
  let least = Infinity;
  let most = -Infinity;
  for (const point of points) {
    least = Math.min(least, point[axis]);
    most = Math.max(most, point[axis]);
  }
  return { least, most };
}

// No screen shows more points; of those that are left out nothing is drawn.
function thinned(points) {
  if (points.length <= MOST_POINTS) return points;
  const every = points.length / MOST_POINTS;
  const kept = Array.from({ length: MOST_POINTS }, (_, index) => points[Math.floor(index * every)]);
  kept[MOST_POINTS - 1] = points.at(-1);
  return kept;
}
