// A layered layout of a directed graph without cycles: longest-path layers, order by barycentres, places by isotonic regression.
// Sugiyama, Tagawa, Toda 1981; the last step keeps the order and is the nearest to every wish (pool adjacent violators).

const SWEEPS = 6;
const MOST_BENDS = 4000; // beyond, long edges go straight
const FOLD = 30; // a layer of more nodes is folded into several columns

export const NODE = { width: 208, height: 56 };
const GAP = { along: 64, across: 18, bend: 10 };

// `nodes`: ids; `edges`: {from, to}. Answers { at: Map id → {x, y} (the node's upper left), lines: [{edge, points}], width, height }.
// `down`: layers go from top to bottom instead of from left to right.
export function layout(nodes, edges, down = false) {
  const work = steps(nodes, edges, down);
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}

const SLICE_MS = 16;

// The same in slices, between which the page does what else it has to do. null: `signal` ended it.
export async function layoutInSlices(nodes, edges, down, signal) {
  const work = steps(nodes, edges, down);
  for (let until = performance.now() + SLICE_MS; ; ) {
    const { done, value } = work.next();
    if (done) return value;
    if (performance.now() < until) continue;
    await new Promise((resolve) => setTimeout(resolve));
    if (signal.aborted) return null;
    until = performance.now() + SLICE_MS;
  }
}

function* steps(nodes, edges, down) {
  const length = down ? NODE.height : NODE.width;
  const breadth = down ? NODE.width : NODE.height;
  const children = new Map(nodes.map((id) => [id, []]));
  const open = new Map(nodes.map((id) => [id, 0]));
  for (const edge of edges) {
    children.get(edge.from).push(edge.to);
    open.set(edge.to, open.get(edge.to) + 1);
  }
  const rank = layersOf(nodes, children, open);
  yield;
  const layers = [];
  const place = (item, layer) => (layers[layer] ||= []).push(item);
  const items = new Map();
  for (const id of nodes) {
    const item = { id, layer: rank.get(id), before: [], after: [], breadth };
    items.set(id, item);
    place(item, item.layer);
  }
  const bends = edges.reduce((sum, edge) => sum + rank.get(edge.to) - rank.get(edge.from) - 1, 0);
  const lines = edges.map((edge) => {
    const chain = [items.get(edge.from)];
    for (let layer = rank.get(edge.from) + 1; bends <= MOST_BENDS && layer < rank.get(edge.to); layer += 1) {
      const bend = { layer, before: [], after: [], breadth: 0 };
      place(bend, layer);
      chain.push(bend);
    }
    chain.push(items.get(edge.to));
    for (let index = 1; index < chain.length; index += 1) {
      chain[index].before.push(chain[index - 1]);
      chain[index - 1].after.push(chain[index]);
    }
    return { edge, chain };
  });
  yield;
  for (const layer of layers) layer.forEach((item, order) => (item.order = order));
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const forward = sweep % 2 === 0;
    for (const layer of forward ? layers : [...layers].reverse()) arrange(layer, forward ? "before" : "after");
    yield;
  }
  for (const layer of layers) spread(layer, null);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const forward = sweep % 2 === 0;
    for (const layer of forward ? layers : [...layers].reverse()) spread(layer, forward ? "before" : "after");
    yield;
  }
  for (const layer of [...layers, ...layers]) spread(layer, "both"); // a walk along one side only drifts away
  yield;
  return placed(layers, lines, length, down);
}

function layersOf(nodes, children, open) {
  const rank = new Map(nodes.map((id) => [id, 0]));
  const left = new Map(open);
  const free = nodes.filter((id) => !left.get(id));
  for (let index = 0; index < free.length; index += 1) {
    for (const child of children.get(free[index])) {
      rank.set(child, Math.max(rank.get(child), rank.get(free[index]) + 1));
      left.set(child, left.get(child) - 1);
      if (!left.get(child)) free.push(child);
    }
  }
  return rank;
}

function arrange(layer, side) {
  for (const item of layer) {
    const near = item[side];
    item.wish = near.length ? near.reduce((sum, each) => sum + each.order, 0) / near.length : item.order;
  }
  layer.sort((a, b) => a.wish - b.wish || a.order - b.order);
  layer.forEach((item, order) => (item.order = order));
}

// Moves the items of a layer next to their neighbours on one side, in their order and without overlap.
function spread(layer, side) {
  let offset = 0;
  const blocks = [];
  layer.forEach((item, index) => {
    const previous = layer[index - 1];
    if (previous) offset += (previous.breadth + item.breadth) / 2 + (item.breadth && previous.breadth ? GAP.across : GAP.bend);
    item.offset = offset;
    const near = side === "both" ? [...item.before, ...item.after] : side ? item[side] : [];
    const wish = near.length ? near.reduce((sum, each) => sum + each.middle, 0) / near.length : side ? item.middle : item.offset;
    let block = { sum: wish - item.offset, count: 1 };
    while (blocks.length && blocks.at(-1).sum / blocks.at(-1).count > block.sum / block.count) {
      const before = blocks.pop();
      block = { sum: before.sum + block.sum, count: before.count + block.count };
    }
    blocks.push(block);
  });
  let index = 0;
  for (const block of blocks) {
    for (let count = 0; count < block.count; count += 1, index += 1) layer[index].middle = block.sum / block.count + layer[index].offset;
  }
}

function placed(layers, lines, length, down) {
  let along = 0;
  for (const layer of layers) {
    const real = layer.filter((item) => item.id !== undefined);
    const columns = Math.ceil(real.length / FOLD);
    for (const item of layer) item.along = along;
    if (columns > 1) fold(real, columns, along, length);
    along += Math.max(1, columns) * (length + GAP.across) - GAP.across + GAP.along;
  }
  const all = layers.flat();
  const least = Math.min(...all.map((item) => item.middle - item.breadth / 2));
  const most = Math.max(...all.map((item) => item.middle + item.breadth / 2));
  const turned = (a, b) => (down ? { x: b, y: a } : { x: a, y: b });
  const at = new Map();
  for (const item of all) if (item.id !== undefined) at.set(item.id, turned(item.along, item.middle - item.breadth / 2 - least));
  const drawn = lines.map(({ edge, chain }) => ({
    edge,
    points: chain.flatMap((item, index) => {
      const across = item.middle - least;
      const start = turned(item.along, across);
      const end = turned(item.along + length, across);
      return index === 0 ? [end] : index === chain.length - 1 ? [start] : [start, end];
    }),
  }));
  const whole = turned(along - GAP.along, most - least);
  return { at, lines: drawn, width: whole.x, height: whole.y, down };
}

function fold(real, columns, along, length) {
  const rows = Math.ceil(real.length / columns);
  const step = real[0].breadth + GAP.across;
  const middle = real.reduce((sum, item) => sum + item.middle, 0) / real.length;
  real.forEach((item, index) => {
    item.along = along + Math.floor(index / rows) * (length + GAP.across);
    item.middle = middle + ((index % rows) - (rows - 1) / 2) * step;
  });
}

// The path of a line: curves between layers, straight beside nodes.
export function pathOf(points, down) {
  let text = `M${round(points[0].x)} ${round(points[0].y)}`;
  for (let index = 1; index < points.length; index += 1) {
    const a = points[index - 1];
    const b = points[index];
    if (index % 2 === 0) text += `L${round(b.x)} ${round(b.y)}`;
    else if (down) text += `C${round(a.x)} ${round((a.y + b.y) / 2)} ${round(b.x)} ${round((a.y + b.y) / 2)} ${round(b.x)} ${round(b.y)}`;
    else text += `C${round((a.x + b.x) / 2)} ${round(a.y)} ${round((a.x + b.x) / 2)} ${round(b.y)} ${round(b.x)} ${round(b.y)}`;
  }
  return text;
}

const round = (value) => Math.round(value * 10) / 10;
