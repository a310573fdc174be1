// The graph of a job, drawn: it can be dragged, zoomed and walked through by keyboard. Far away a node is a coloured block, near it tells more.
import { percent, STATUS } from "./format.js";
import { layout, layoutInSlices, NODE, pathOf } from "./layout.js";
import { t } from "./messages.js";
import { Icon, shapeOf } from "./ui.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./view.js";

const FAR = 0.42;
const ZOOM = { least: 0.02, most: 2, step: 1.3 };
const MARGIN = 28;
const LEAST = 132; // the tools have room beside one node
const MANY = 40;
const NAMED = 150; // so many nodes have names, however small they are drawn
const PORTION = 400; // of more nodes than that, so many are drawn in a frame, after a layout in slices: nothing blocks the page
const EMPTY = { ids: new Set(), edges: new Set() };

// `nodes`: [{id, status, name, task, plane, progress, attempt, worker}] in the order of the graph; `critical`: see model.criticalPath.
export function Graph({ nodes, edges, critical = EMPTY, selected, select, label = t("Graph") }) {
  const box = useRef(null);
  const [width, setWidth] = useState(0);
  const down = width > 0 && width < 560;
  const shape = useShape(nodes, edges, down, width > 0);
  const size = useMemo(() => (width && shape ? { width, height: heightFor(shape, width) } : null), [shape, width]);
  const [view, setView] = useState(null);
  const fitted = useMemo(() => size && fit(shape, size), [shape, size]);
  const shown = view && view.shape === shape ? view : fitted;
  const [held, setHeld] = useState(false);
  const drag = useRef(null);
  const dragged = useRef(false); // the click that ends a drag chooses nothing

  useLayoutEffect(() => {
    const measure = () => setWidth(box.current.clientWidth);
    const observer = new ResizeObserver(measure);
    measure(); // the observer's own first call comes a frame later
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);

  const move = (next) => setView({ ...next, shape });
  const zoom = (factor, x = size.width / 2, y = size.height / 2) => {
    const scale = Math.min(ZOOM.most, Math.max(Math.min(ZOOM.least, fitted.scale), shown.scale * factor));
    move({ scale, x: x - ((x - shown.x) * scale) / shown.scale, y: y - ((y - shown.y) * scale) / shown.scale });
  };

  useEffect(() => {
    const wheel = (event) => {
      if (!shown || (!event.ctrlKey && !event.metaKey)) return; // a plain wheel scrolls the page
      event.preventDefault();
      const at = box.current.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY / 200), event.clientX - at.left, event.clientY - at.top);
    };
    box.current.addEventListener("wheel", wheel, { passive: false });
    return () => box.current?.removeEventListener("wheel", wheel);
  });

  const reveal = (id) => {
    const at = size && shape.at.get(id);
    if (!at) return;
    const x = at.x * shown.scale + shown.x;
    const y = at.y * shown.scale + shown.y;
    if (x < 0 || y < 0 || x + NODE.width * shown.scale > size.width || y + NODE.height * shown.scale > size.height) {
      const scale = Math.max(shown.scale, FAR + 0.08);
      move({ scale, x: size.width / 2 - (at.x + NODE.width / 2) * scale, y: size.height / 2 - (at.y + NODE.height / 2) * scale });
    }
  };

  // What a drag does not change is not made again: the lines, and the nodes as long as the same ones are near.
  const far = Boolean(shown) && shown.scale < FAR;
  const near = shown && size ? nearby(shown, size) : null;
  const lines = useMemo(() => shape && html`<${Lines} shape=${shape} nodes=${nodes} critical=${critical} />`, [shape, nodes, critical]);
  const seen = useMemo(() => ({ nodes: near ? inside(shape, nodes, near) : [], blocks: [] }), [shape, nodes, critical, selected, far, near && Object.values(near).join(" ")]);
  const [most, setMost] = useState(PORTION);
  const tabbed = selected ?? nodes[0]?.id;
  while (seen.blocks.length < Math.min(most, seen.nodes.length)) {
    const node = seen.nodes[seen.blocks.length];
    seen.blocks.push(block({ node, at: shape.at.get(node.id), far, named: nodes.length <= NAMED, critical: critical.ids.has(node.id), selected: node.id === selected, tabbed: node.id === tabbed }));
  }
  useEffect(() => {
    if (most >= seen.nodes.length) return undefined;
    const frame = requestAnimationFrame(() => setMost(most + PORTION));
    return () => cancelAnimationFrame(frame);
  }, [most, seen]);
  const blocks = seen.blocks.slice();

  function focused(id) {
    const node = box.current.querySelector(`[data-node="${CSS.escape(id)}"]`);
    node?.focus({ preventScroll: true });
    return node;
  }

  function press(event) {
    if (!shown) return;
    if (event.key === "+" || event.key === "=") zoom(ZOOM.step);
    else if (event.key === "-") zoom(1 / ZOOM.step);
    else if (event.key === "0") setView(null);
    else if (event.key.startsWith("Arrow")) {
      const next = neighbour(shape, nodes, document.activeElement?.dataset?.node ?? selected, event.key);
      if (next) {
        reveal(next);
        if (!focused(next)) requestAnimationFrame(() => focused(next)); // it is drawn only now
      }
    } else return;
    event.preventDefault();
  }

  const pointer = {
    onPointerDown(event) {
      dragged.current = false; // a drag that no click followed must not swallow the next one
      if (event.button !== 0 || event.target.closest(".graph-tools")) return;
      drag.current = { x: event.clientX, y: event.clientY, from: shown, moved: false };
    },
    onPointerMove(event) {
      const at = drag.current;
      if (!at || !event.buttons) return;
      const dx = event.clientX - at.x;
      const dy = event.clientY - at.y;
      if (!at.moved && Math.hypot(dx, dy) < 5) return;
      if (!at.moved) {
        box.current.setPointerCapture(event.pointerId);
        setHeld(true);
      }
      at.moved = dragged.current = true;
      move({ scale: at.from.scale, x: at.from.x + dx, y: at.from.y + dy });
    },
    onPointerUp() {
      drag.current = null;
      setHeld(false);
    },
    onClickCapture(event) {
      if (dragged.current) event.stopPropagation();
      dragged.current = false;
    },
    onPointerCancel() {
      drag.current = null;
      setHeld(false);
    },
    onClick(event) {
      const node = event.target.closest("[data-node]");
      if (node) select?.(node.dataset.node);
    },
  };

  return html`<div class="graph" ref=${box} style=${{ height: `${size?.height ?? (nodes.length > PORTION ? tallest() : LEAST)}px` }} role="group" aria-label=${label} aria-roledescription=${t("graph")} onKeyDown=${press} ...${pointer}>
    ${shown && html`
      <div class="nodes ${held ? "held" : ""}" style=${{ transform: `translate(${shown.x}px, ${shown.y}px) scale(${shown.scale})`, "--thin": Math.max(1, 0.7 / shown.scale), "--far-size": `${Math.min(30, 10.5 / shown.scale)}px` }}>${lines}${blocks}</div>`}
    ${shown && (fitted.scale < 1 || view?.shape === shape) && html`<div class="graph-tools">
      <button type="button" aria-label=${t("Zoom in")} onClick=${() => zoom(ZOOM.step)}><${Icon} of="plus" /></button>
      <button type="button" aria-label=${t("Zoom out")} onClick=${() => zoom(1 / ZOOM.step)}><${Icon} of="minus" /></button>
      <button type="button" aria-label=${t("Show the whole graph")} onClick=${() => setView(null)}><${Icon} of="fit" /></button>
    </div>`}
  </div>`;
}

// Where everything is; null while that is worked out.
function useShape(nodes, edges, down, hasWidth) {
  const large = nodes.length > PORTION;
  const ids = () => nodes.map((node) => node.id);
  const inputs = [edges, nodes.length, down, hasWidth];
  const now = useMemo(() => (hasWidth && !large ? layout(ids(), edges, down) : null), inputs);
  const [later, setLater] = useState(null);
  useEffect(() => {
    if (!hasWidth || !large) return undefined;
    const stop = new AbortController();
    layoutInSlices(ids(), edges, down, stop.signal).then((shape) => shape && setLater(shape));
    return () => stop.abort();
  }, inputs);
  return large ? later : now;
}

const tallest = () => Math.round(Math.max(420, innerHeight * 0.7));

// As tall as the graph is when its whole width is seen, within what leaves room for the rest of the page.
function heightFor(shape, width) {
  const wanted = shape.height * Math.min(1, (width - 2 * MARGIN) / shape.width) + 2 * MARGIN;
  const most = shape.at.size > MANY ? tallest() : Math.max(320, innerHeight * 0.5);
  return Math.round(Math.min(most, Math.max(shape.at.size > MANY ? most : LEAST, wanted)));
}

function fit(shape, size) {
  const scale = Math.min(1, (size.width - 2 * MARGIN) / shape.width, (size.height - 2 * MARGIN) / shape.height);
  return { scale, x: (size.width - shape.width * scale) / 2, y: (size.height - shape.height * scale) / 2 };
}

// The part of the graph that is in sight with half a screen around it, in steps, so that a small move stays inside.
function nearby(view, size) {
  const step = (length) => length / view.scale / 2;
  const from = (offset, length) => Math.floor(-offset / view.scale / step(length)) - 1;
  const left = from(view.x, size.width) * step(size.width);
  const top = from(view.y, size.height) * step(size.height);
  return { left, top, right: left + 5 * step(size.width), bottom: top + 5 * step(size.height) };
}

function inside(shape, nodes, near) {
  return nodes.filter((node) => {
    const at = shape.at.get(node.id);
    return at && at.x + NODE.width > near.left && at.x < near.right && at.y + NODE.height > near.top && at.y < near.bottom;
  });
}

// The nearest node in the direction of an arrow key.
function neighbour(shape, nodes, from, key) {
  const here = shape.at.get(from);
  if (!here) return nodes[0]?.id;
  const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key];
  let best = null;
  let least = Infinity;
  for (const [id, at] of shape.at) {
    const ahead = (at.x - here.x) * dx + (at.y - here.y) * dy;
    const aside = Math.abs((at.x - here.x) * dy) + Math.abs((at.y - here.y) * dx);
    if (ahead > 1 && ahead + 2 * aside < least) [best, least] = [id, ahead + 2 * aside];
  }
  return best;
}

// One path for all lines of a kind: a thousand lines are a handful of elements.
function Lines({ shape, nodes, critical }) {
  const status = new Map(nodes.map((node) => [node.id, node.status]));
  const kinds = { plain: "", dead: "", failure: "", critical: "" };
  for (const line of shape.lines) {
    line.path ||= pathOf(line.points, shape.down);
    kinds[kindOf(line.edge, status, critical)] += line.path;
  }
  return html`<svg class="lines" aria-hidden="true" width=${shape.width} height=${shape.height}>
    ${Object.entries(kinds).map(([kind, path]) => path && html`<path key=${kind} class="line l-${kind}" d=${path} />`)}</svg>`;
}

function kindOf(edge, status, critical) {
  if (critical.edges.has(`${edge.from} ${edge.to}`)) return "critical";
  if (status.get(edge.to) === "skipped" || status.get(edge.from) === "skipped") return "dead";
  return edge.kind === "on_failure" ? "failure" : "plain";
}

const PLANES = { node: t("control"), python: t("data") };

// No component and no listener of its own: there may be thousands. Its place is another element's, because elements without a style of
// their own share what the browser works out of the rules for them.
function block({ node, at, far, named, critical, selected, tabbed }) {
  const said = [node.name || node.id, STATUS[node.status] ?? node.status, node.status === "running" ? percent(node.progress) : "", node.attempt > 1 ? t("attempt {n}", { n: node.attempt }) : "", node.plane === "node" ? t("control plane") : t("data plane"), critical ? t("on the critical path") : ""];
  return html`<div key=${node.id} class="place" style=${`left:${at.x}px;top:${at.y}px`}><button type="button" class="node s-${node.status} ${far ? "far" : ""} ${critical ? "critical" : ""}" data-node=${node.id}
    aria-pressed=${selected} aria-label=${said.filter(Boolean).join(", ")} tabindex=${tabbed ? 0 : -1}>
    ${!far && html`
      <svg class="shape" viewBox="0 0 12 12" aria-hidden="true"><path d=${shapeOf(node.status)} /></svg>
      <span class="node-text"><span class="node-name">${node.name || node.id}</span>
        <span class="node-task">${PLANES[node.plane]} · ${node.task}</span></span>
      <span class="node-extra numbers">${node.status === "running" ? percent(node.progress) : ""}${node.attempt > 1 ? html`<span>${t("attempt {n}", { n: node.attempt })}</span>` : ""}</span>`}
    ${far && named && html`<span class="far-name">${node.name || node.id}</span>`}
    ${node.status === "running" && html`<span class="fill" style=${{ transform: `scaleX(${node.progress})` }}></span>`}
  </button></div>`;
}
