// Numbers and times as people read them. Times come as RFC 3339 or as epoch milliseconds.
import { t, tn } from "./messages.js";

export const ms = (time) => (time === null || time === undefined ? null : typeof time === "number" ? time : Date.parse(time));

const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
export const exact = (time) => whole.format(ms(time));

const today = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const year = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

// A time of this place, as short as it can be understood.
export function local(time) {
  const at = new Date(ms(time));
  const now = new Date();
  if (at.toDateString() === now.toDateString()) return today.format(at);
  return (at.getFullYear() === now.getFullYear() ? day : year).format(at);
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hour12: false });
export const clockTime = (time) => clock.format(ms(time));

export function ago(time, now = Date.now()) {
  const passed = now - ms(time);
  if (passed < 0) return t("in {time}", { time: span(-passed) });
  return passed < 2000 ? t("just now") : t("{time} ago", { time: span(passed) });
}

// One unit, for what need not be exact.
export function span(duration) {
  const seconds = duration / 1000;
  if (seconds < 60) return t("{n} s", { n: Math.floor(seconds) });
  if (seconds < 3600) return t("{n} min", { n: Math.floor(seconds / 60) });
  if (seconds < 86400 * 2) return t("{n} h", { n: Math.floor(seconds / 3600) });
  return t("{n} d", { n: Math.floor(seconds / 86400) });
}

// Two units, for how long something took.
export function took(duration) {
  if (duration === null || Number.isNaN(duration)) return "–";
  if (duration < 1000) return t("{n} ms", { n: Math.max(0, Math.round(duration)) });
  const seconds = duration / 1000;
  if (seconds < 60) return t("{n} s", { n: seconds.toFixed(1) });
  if (seconds < 3600) return `${t("{n} min", { n: Math.floor(seconds / 60) })} ${t("{n} s", { n: Math.floor(seconds % 60) })}`;
  if (seconds < 86400) return `${t("{n} h", { n: Math.floor(seconds / 3600) })} ${t("{n} min", { n: Math.floor((seconds % 3600) / 60) })}`;
  return `${t("{n} d", { n: Math.floor(seconds / 86400) })} ${t("{n} h", { n: Math.floor((seconds % 86400) / 3600) })}`;
}

// An honest range of seconds, as short as it can be: 40–90 s, 3–5 min.
export function between({ low, high }) {
  const [unit, text] = high < 100 ? [1, (n) => t("{n} s", { n })] : high < 100 * 60 ? [60, (n) => t("{n} min", { n })] : [3600, (n) => t("{n} h", { n })];
  const [from, to] = [Math.max(unit === 1 ? 0 : 1, Math.floor(low / unit)), Math.max(1, Math.ceil(high / unit))];
  return text(from >= to ? to : `${from}–${to}`);
}

// A countdown: 1:02:05.
export function countdown(duration) {
  const seconds = Math.max(0, Math.ceil(duration / 1000));
  if (seconds >= 2 * 86400) return span(duration);
  const two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60), seconds % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

// Files are counted in thousands, as file managers do; memory by 1024, as devices are sold.
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const power = Math.min(4, Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** power;
  return `${value.toFixed(value < 10 ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

export function memory(bytes) {
  const power = bytes < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  return `${value.toFixed(power && value < 10 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

export function number(value) {
  if (Number.isInteger(value)) return value.toLocaleString();
  const large = Math.abs(value);
  return large !== 0 && (large < 0.001 || large >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

export const percent = (fraction) => `${Math.floor(fraction * 100)} %`;

export const ALIVE = ["scheduled", "queued", "running", "cancelling"];
export const isAlive = (job) => ALIVE.includes(job.status);
export const ENDED_NODE = ["completed", "failed", "skipped", "cancelled"];

// Whether a value names an artifact.
export const isReference = (value) =>
  value !== null && typeof value === "object" && typeof value.bucket === "string" && typeof value.key === "string";

// What a job is called: its name, else the beginning of its id.
export const nameOf = (job) => job.name || job.jobId;

// How statuses are called; the words of the API are English.
export const STATUS = {
  scheduled: t("scheduled"), queued: t("queued"), running: t("running"), cancelling: t("cancelling"), completed: t("completed"), failed: t("failed"),
  cancelled: t("cancelled"), pending: t("pending"), ready: t("ready"), skipped: t("skipped"),
};

export const nodes = (count) => tn(count, "{n} node", "{n} nodes");
export const files = (count) => tn(count, "{n} file", "{n} files");
export const jobs = (count) => tn(count, "{n} job", "{n} jobs");

