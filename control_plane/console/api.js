// REST. A refused request is a Problem; without a valid key the request waits until one was given.
import { parse } from "./numbers.js";
import { changes } from "./view.js";

// The path below which a proxy serves this page, "" or as "/dihedral": this module is in the folder `console` of it.
export const root = new URL("..", import.meta.url).pathname.slice(0, -1);
const below = (path) => (root && path.startsWith(`${root}/`) ? path : root + path);

export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `HTTP ${status}`);
    this.status = status;
    this.code = document.code || "";
    this.errors = document.errors || [];
  }
}

// Whether a key is asked for, why, and the requests that wait for it.
export const session = { ...changes(), asked: false, waiting: [], who: null };

let key = kept();

// Whether this tab has a key.
export const held = () => key !== null;

function keyGiven() {
  key = null;
  session.asked = true;
  session.tell();
  return new Promise((resolve) => session.waiting.push(resolve));
}

// The server turns it into a cookie that reads, for what can carry no header: the WebSocket, pictures, players. What changes something
// carries the key itself, which this tab keeps until it is closed.
export async function giveKey(given) {
  const answer = await fetch(below("/api/session"), { method: "POST", headers: { Authorization: `Bearer ${given}` } });
  if (!answer.ok) throw await problemOf(answer);
  keep(given);
  session.asked = false;
  if (session.who) whoAsks();
  const waiting = session.waiting.splice(0);
  session.tell();
  for (const resolve of waiting) resolve();
}

// {owner, scopes} of this page's requests; read again when it is looked at, because a key may lose scopes while the page is open.
export async function whoAsks() {
  session.who = await api("/api/session").catch(() => session.who);
  session.tell();
}

// Whether this page may do that, as far as it is known who asks.
export const may = (scope) => !session.who || session.who.scopes.some((each) => each === scope || each === "admin");

// The tabs of a browser share its cookie, and each has the key besides: who signs out in one has signed out in all.
const tabs = new BroadcastChannel(`session ${root}`);
tabs.onmessage = () => forget();

export async function signOut() {
  await api("/api/session", { method: "DELETE" });
  tabs.postMessage("out");
  forget();
}

function forget() {
  try {
    sessionStorage.removeItem("key");
  } catch {
    // nothing was kept
  }
  location.assign(below("/"));
}

// The cookie anew, where this tab has the key: it ends sooner.
export const renew = () => (key ? fetch(below("/api/session"), { method: "POST", headers: credentials() }).catch(() => null) : null);

function keep(given) {
  key = given;
  try {
    sessionStorage.setItem("key", given);
  } catch {
    // a browser that keeps nothing asks again after a reload
  }
}

function kept() {
  try {
    return sessionStorage.getItem("key");
  } catch {
    return null;
  }
}

const credentials = () => (key ? { Authorization: `Bearer ${key}` } : {});

async function problemOf(answer) {
  let document = {};
  try {
    document = parse(await answer.text());
  } catch {
    document = { title: answer.statusText };
  }
  return new Problem(answer.status, document);
}

// How far the server's clock is ahead of this one, in ms; ages are told by the server's.
export const clock = { ahead: 0 };

function compare(date) {
  const ahead = Date.parse(date) - Date.now();
  if (!Number.isNaN(ahead)) clock.ahead = Math.abs(ahead) > 3000 ? ahead : 0; // the header counts whole seconds
}

export async function api(path, { method = "GET", body, headers = {}, signal } = {}) {
  const options = { method, signal, headers: { ...headers }, cache: "no-store" };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = typeof body === "string" ? body : JSON.stringify(body);
  }
  for (;;) {
    const answer = await fetch(below(path), { ...options, headers: { ...options.headers, ...credentials() } });
    compare(answer.headers.get("Date"));
    if (answer.status === 401) {
      await keyGiven();
      continue;
    }
    if (answer.status === 403 && method !== "GET") whoAsks(); // the key may have lost a scope: what it lost is offered no more
    if (!answer.ok) throw await problemOf(answer);
    return answer.status === 204 ? null : parse(await answer.text());
  }
}

const early = new Map();

// Requests now what a view will `get` in a moment.
export function getEarly(path) {
  const asked = api(path);
  asked.catch(() => {}); // said to who gets it
  early.set(path, asked);
}

export function get(path, options) {
  const asked = early.get(path);
  early.delete(path);
  return asked ?? api(path, options);
}

export const post = (path, body, headers) => api(path, { method: "POST", body, headers });
export const patch = (path, body) => api(path, { method: "PATCH", body });

export const jobPath = (id) => `/api/jobs/${encodeURIComponent(id)}`;
const keyPath = (ref) => `${encodeURIComponent(ref.bucket)}/${ref.key.split("/").map(encodeURIComponent).join("/")}`;
export const bytesPath = (ref) => below(`/api/artifacts/${keyPath(ref)}`);
export const metaPath = (ref) => `/api/artifacts-meta/${keyPath(ref)}`;

// Sends one file; `moved` is told the part that has gone, 0..1. Answers the meta document.
export function upload(file, moved, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append("bucket", "inputs");
    form.append("file", file, file.name);
    request.open("POST", below("/api/artifacts"));
    for (const [name, value] of Object.entries(credentials())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && moved(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 401) keyGiven().then(() => upload(file, moved, signal)).then(resolve, reject);
      else if (request.status === 201) resolve(request.response);
      else reject(new Problem(request.status, request.response || { title: request.statusText }));
    };
    request.onerror = () => reject(new Error("the connection broke while the file was sent"));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}
