// The address is the state: path and query say which view is shown and how; back and forward work by themselves.
import { root } from "./api.js";
import { changes, html } from "./view.js";

export const place = { ...changes(), visit: 0, path: location.pathname, query: new URLSearchParams(location.search) };

function read() {
  place.path = location.pathname;
  place.query = new URLSearchParams(location.search);
  place.tell();
}

addEventListener("popstate", read);

// Where each view is.
export const to = {
  jobs: `${root}/`,
  job: (id, node) => `${root}/console/jobs/${encodeURIComponent(id)}${node ? `?node=${encodeURIComponent(node)}` : ""}`,
  new: `${root}/console/new`,
  gallery: `${root}/console/artifacts`,
  artifact: (ref) => `${root}/console/artifacts/${encodeURIComponent(ref.bucket)}/${ref.key.split("/").map(encodeURIComponent).join("/")}`,
  workers: `${root}/console/workers`,
  queue: `${root}/console/queue`,
  keys: `${root}/console/keys`,
  compare: (ids) => `${root}/console/compare?jobs=${ids.map(encodeURIComponent).join(",")}`,
};

export function go(address, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", address);
  if (!replace) place.visit += 1;
  read();
}

// The present address with some words of its query changed; null and "" take a word away.
export function withQuery(changed) {
  const query = new URLSearchParams(place.query);
  for (const [name, value] of Object.entries(changed)) {
    if (value === null || value === undefined || value === "") query.delete(name);
    else query.set(name, value);
  }
  const text = query.toString();
  return place.path + (text ? `?${text}` : "");
}

export function follow(event) {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(event.currentTarget.getAttribute("href"));
}

export const Link = ({ href, children, ...more }) => html`<a href=${href} onClick=${follow} ...${more}>${children}</a>`;
