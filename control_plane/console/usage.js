// A worker's slots, memory and utilisation over time, as its server keeps them for an hour: on the worker's page, and while a job ran on the job's.
import { get } from "./api.js";
import { Curve } from "./curves.js";
import { isAlive, ms } from "./format.js";
import { t } from "./messages.js";
import { html, useEvery, useState } from "./view.js";

const USAGE_MS = 10_000; // a sample is that far from the next
const GIB = 2 ** 30;
const KEPT_MS = 3600e3;
const MOST_WORKERS = 4;
const LEAST = 3; // samples; of a job of a few seconds a line would tell nothing

// The samples of a worker, read again `every` so many ms; 0: once, null: not yet.
export function useUsage(workerId, every = USAGE_MS) {
  const [samples, setSamples] = useState(null);
  useEvery(every, async () => every !== null && setSamples((await get(`/api/workers/${encodeURIComponent(workerId)}/usage`)).samples), [every, workerId]);
  return samples;
}

// `at`: where a sample is on the x axis, which is called `along`.
export function UsageCurves({ samples, at, along }) {
  const devices = [...new Set(samples.flatMap((sample) => sample.memory.map((each) => each.device)))];
  const lines = (value) => devices.map((device) => ({ name: device === "cpu" ? t("slots") : device, points: samples.flatMap((sample) => sample.memory.filter((each) => each.device === device && value(each) !== undefined).map((each) => [at(sample), value(each)])) })).filter((line) => line.points.length > 0);
  const memory = lines((each) => each.usedBytes / GIB);
  const utilisation = lines((each) => each.utilisation === undefined ? undefined : Math.round(each.utilisation * 1000) / 10);
  return html`<${Curve} series=${{ key: "busy", title: t("Busy slots"), nodeId: "", along, points: samples.map((sample) => [at(sample), sample.busy]) }} />
    ${memory.length > 0 && html`<${Curve} series=${{ key: "memory", title: t("Memory in GiB"), nodeId: "", along, lines: memory }} />`}
    ${utilisation.length > 0 && html`<${Curve} series=${{ key: "utilisation", title: t("Utilisation in %"), nodeId: "", along, within: { least: 0, most: 100 }, lines: utilisation }} />`}`;
}

// What the machines did while the job ran on them; nothing where that is longer ago than samples are kept.
export function Machines({ model }) {
  const { job } = model;
  const workers = [...new Set([...model.nodes.values()].filter((node) => node.definition.plane === "python").map((node) => node.worker).filter(Boolean))];
  const recent = job.started && (isAlive(job) || Date.now() - ms(job.finished) < KEPT_MS);
  if (!recent || !workers.length) return null;
  return workers.slice(0, MOST_WORKERS).map((workerId) => html`<${Machine} key=${workerId} job=${job} workerId=${workerId} />`);
}

function Machine({ job, workerId }) {
  const samples = useUsage(workerId, isAlive(job) ? USAGE_MS : 0) ?? [];
  const from = ms(job.started);
  const to = ms(job.finished) ?? Infinity;
  const within = samples.filter((sample) => Date.parse(sample.at) >= from && Date.parse(sample.at) <= to);
  if (within.length < LEAST || within.every((sample) => !sample.busy)) return null; // light nodes run beside the slots
  return html`<section class="panel machine" aria-label=${t("Machine: {worker}", { worker: workerId })}><header><h2>${t("Machine")}</h2><span class="mono muted">${workerId}</span></header>
    <div class="body"><div class="curves"><${UsageCurves} samples=${within} at=${(sample) => Math.round((Date.parse(sample.at) - from) / 1000)} along=${t("second")} /></div></div></section>`;
}
