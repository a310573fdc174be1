// The one WebSocket of the page. It is always open, so that a cut is seen at once; every job that is watched is subscribed to
// again with `after` when it comes back. Whatever is shown while it is cut is marked as it was at `live.seen`.
import { get, renew, root } from "./api.js";
import { parse } from "./numbers.js";
import { changes } from "./view.js";

const FIRST_DELAY = 250;
const LONGEST_DELAY = 5000;
const PROBE_MS = 10_000; // a peer that vanished without a word is noticed by a question that nothing answers
const SILENCE_MS = 5000;

export const LATEST = 2 ** 53; // as `after`: the job as it is now, without its log

export const live = { ...changes(), state: "connecting", seen: Date.now() };

const watched = new Map();
let socket = null;
let delay = FIRST_DELAY;
let probe = 0;
let silence = 0;
let retry = 0;
let refused = false; // the last socket never opened

function become(state) {
  if (live.state === state) return;
  live.state = state;
  live.tell();
}

function connect() {
  const made = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${root}/ws`);
  socket = made;
  const late = setTimeout(() => drop(made), SILENCE_MS);
  refused = true;
  made.onopen = () => {
    refused = false;
    clearTimeout(late);
    delay = FIRST_DELAY;
    live.seen = Date.now();
    become("open");
    for (const watch of watched.values()) subscribe(watch);
    ask();
  };
  made.onmessage = (event) => {
    live.seen = Date.now();
    clearTimeout(silence);
    hear(parse(event.data));
  };
  made.onclose = () => {
    clearTimeout(late);
    cut(made);
  };
}

function cut(made) {
  if (socket !== made) return;
  socket = null;
  clearTimeout(probe);
  clearTimeout(silence);
  become("cut");
  clearTimeout(retry);
  retry = setTimeout(again, delay + Math.random() * delay);
  delay = Math.min(delay * 2, LONGEST_DELAY);
}

// A browser waits for the answer to its close, which on a dead line does not come (more than a minute was seen).
function drop(made) {
  made?.close();
  if (made) cut(made);
}

// A refused key looks like any other cut, so a request asks for it before the next try.
async function again() {
  clearTimeout(retry);
  await get("/api/jobs?limit=1").catch(() => {});
  if (refused) await renew();
  if (!socket) connect(); // a line that came back may have asked meanwhile
}

// `unsubscribe` of a job that was never subscribed to is answered and changes nothing.
function ask() {
  clearTimeout(probe);
  probe = setTimeout(() => {
    send({ action: "unsubscribe", jobId: "console" });
    const asked = socket;
    silence = setTimeout(() => drop(asked), SILENCE_MS);
    ask();
  }, PROBE_MS);
}

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function subscribe(watch) {
  send({ action: "subscribe", jobId: watch.jobId, after: watch.seq, ...(watch.epoch ? { epoch: watch.epoch } : {}) });
}

function hear(message) {
  const watch = watched.get(message.jobId);
  if (!watch) return;
  if (message.type === "update" || message.type === "resync") {
    const told = message.type === "resync" ? message.snapshot : message;
    watch.seq = told.seq;
    watch.epoch = told.epoch;
    watch.heard(message);
  } else if (message.message === "failed") {
    watch.heard(message);
  }
}

// Calls `heard` with every message about the job after `seq`; answers the function that ends it.
export function watch(jobId, { seq = 0, epoch = null }, heard) {
  const made = { jobId, seq, epoch, heard };
  watched.set(jobId, made);
  subscribe(made);
  return () => {
    if (watched.get(jobId) !== made) return;
    watched.delete(jobId);
    send({ action: "unsubscribe", jobId });
  };
}

addEventListener("online", () => socket || again());
addEventListener("offline", () => drop(socket));
connect();
