// Numbers and times as people read them. Times come as RFC 3339 or as epoch milliseconds.

export const ms = (time) => (time === null || time === undefined ? null : typeof time === "number" ? time : Date.parse(time));

const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
export const exact = (time) => whole.format(ms(time));

export function ago(time, now = Date.now()) {
  const passed = now - ms(time);
  if (passed < 0) return `in ${span(-passed)}`;
  return passed < 2000 ? "just now" : `${span(passed)} ago`;
}

// One unit, for what need not be exact.
export function span(duration) {
  const seconds = duration / 1000;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400 * 2) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

// Two units, for how long something took.
export function took(duration) {
  if (duration === null || Number.isNaN(duration)) return "–";
  if (duration < 1000) return `${Math.max(0, Math.round(duration))} ms`;
  const seconds = duration / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const power = Math.min(4, Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** power;
  return `${value.toFixed(value < 10 ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

export function number(value) {
  if (Number.isInteger(value)) return value.toLocaleString();
  const large = Math.abs(value);
  return large !== 0 && (large < 0.001 || large >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

export const percent = (fraction) => `${Math.floor(fraction * 100)} %`;

export const plural = (count, word, words = `${word}s`) => `${count.toLocaleString()} ${count === 1 ? word : words}`;

export const ALIVE = ["scheduled", "queued", "running", "cancelling"];
export const isAlive = (job) => ALIVE.includes(job.status);
export const ENDED_NODE = ["completed", "failed", "skipped", "cancelled"];

// From its start, or while it waits from its creation, until its end or now.
export function durationOf(job, now) {
  if (job.started) return (ms(job.finished) ?? now) - ms(job.started);
  return null;
}

// Whether a value names an artifact.
export const isReference = (value) =>
  value !== null && typeof value === "object" && typeof value.bucket === "string" && typeof value.key === "string";
