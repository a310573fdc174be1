// The frame around every view: navigation, the mark of the connection, the question for a key, and which view an address means.
import { giveKey, root, session, signOut, whoAsks } from "./api.js";
import { ArtifactPage } from "./artifact.js";
import { Compare } from "./compare.js";
import { DropAnywhere } from "./drop.js";
import { Gallery } from "./gallery.js";
import { JobPage } from "./job.js";
import { JobList } from "./jobs.js";
import { Keys } from "./keys.js";
import { live } from "./live.js";
import { t } from "./messages.js";
import { NewJob } from "./new.js";
import { Queue } from "./queue.js";
import { follow, go, Link, place, to } from "./router.js";
import { attempt, Dialog, Empty, Icon, Notices, said } from "./ui.js";
import { Workers } from "./workers.js";
import { Component, html, render, useEffect, useRef, useSource, useState } from "./view.js";

const TABS = [
  [to.jobs, t("Jobs"), "jobs"],
  [to.gallery, t("Artifacts"), "gallery"],
  [to.queue, t("Queue"), "queue"],
  [to.workers, t("Workers"), "workers"],
];

function viewOf(path) {
  if (path === to.jobs || path === root) return [t("Jobs"), html`<${JobList} />`];
  const parts = path.slice(root.length).split("/").slice(2).map(decoded);
  if (parts[0] === "jobs" && parts.length === 2) return [parts[1], html`<${JobPage} key=${parts[1]} jobId=${parts[1]} />`];
  if (path === to.new) return [t("New job"), html`<${NewJob} />`];
  if (path === to.gallery) return [t("Artifacts"), html`<${Gallery} />`];
  if (parts[0] === "artifacts" && parts.length > 2) {
    const reference = { bucket: parts[1], key: parts.slice(2).join("/") };
    return [parts.at(-1), html`<${ArtifactPage} key=${path} reference=${reference} />`];
  }
  if (path === to.compare([]).split("?")[0]) return [t("Compare"), html`<${Compare} />`];
  if (path === to.queue) return [t("Queue"), html`<${Queue} />`];
  if (path === to.workers) return [t("Workers"), html`<${Workers} />`];
  if (path === to.keys) return [t("API keys"), html`<${Keys} />`];
  return [t("Not found"), html`<div class="page"><h1 class="hidden">${t("Not found")}</h1><${Empty} title=${t("There is no such page")}>
    <p><${Link} href=${to.jobs}>${t("Go to the jobs")}<//></p><//></div>`];
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function App() {
  useSource(place);
  useSource(live);
  useSource(session);
  const main = useRef(null);
  const first = useRef(true);
  const [title, view] = viewOf(place.path);
  useEffect(() => {
    document.title = `${title} · Dihedral`;
    if (!first.current) main.current.focus({ preventScroll: true });
    first.current = false;
  }, [place.path]);
  useEffect(() => void (main.current.scrollTop = 0), [place.visit]);
  const under = (tab) => (tab === to.jobs ? place.path === tab || place.path.startsWith(to.job("")) : place.path.startsWith(tab));
  return html`
    <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current.focus())}>${t("Skip to the content")}</a>
    <header class="head">
      <${Link} href=${to.jobs} class="brand"><img src="${root}/console/mark.svg" alt="" width="22" height="22" /><span>Dihedral</span><//>
      <nav aria-label=${t("Main")}>
        ${TABS.map(([href, label, icon]) => html`<${Link} key=${href} href=${href} class="tab"
          aria-current=${under(href) ? "page" : undefined}><${Icon} of=${icon} /><span>${label}</span><//>`)}
      </nav>
      <${Connection} />
      <${Menu} />
      <${Link} href=${to.new} class="button primary" aria-current=${place.path === to.new ? "page" : undefined}>
        <${Icon} of="plus" /><span>${t("New job")}</span><//>
    </header>
    ${live.state === "cut" && !session.asked && html`<${Cut} />`}
    <main id="main" ref=${main} tabindex="-1" class=${live.state === "cut" ? "stale" : ""}>
      <${Guard} key=${place.path}>${view}<//>
    </main>
    <${Notices} />
    <${DropAnywhere} />
    <${KeyPrompt} />`;
}

// A view that broke must not take the frame along.
class Guard extends Component {
  static getDerivedStateFromError(error) {
    return { error };
  }

  render({ children }, { error }) {
    if (!error) return children;
    return html`<div class="page"><div class="failure" role="alert"><h1>${t("This view has failed")}</h1><p>${textOf(error)}</p>
      <button type="button" onClick=${() => this.setState({ error: null })}>${t("Draw it again")}</button></div></div>`;
  }
}

// Even what was thrown may be nothing that becomes a text.
function textOf(error) {
  try {
    return String(error);
  } catch {
    return "";
  }
}

const SAID = { open: t("Live"), connecting: t("Connecting"), cut: t("Disconnected") };

function Connection() {
  useSource(session);
  const state = session.asked ? "asked" : live.state;
  return html`<span class="connection c-${state}" role="status"><i aria-hidden="true"></i><span>${session.asked ? t("Signed out") : SAID[state]}</span></span>`;
}

function Cut() {
  const at = new Date(live.seen).toLocaleTimeString();
  return html`<div class="cut" role="alert"><strong>${t("Disconnected, reconnecting…")}</strong> ${t("What you see is as of {time}.", { time: at })}</div>`;
}

const THEMES = { auto: t("As the system"), light: t("Light"), dark: t("Dark") };

// Theme, notifications, who is signed in, the shortcuts.
function Menu() {
  useSource(session);
  const [theme, setTheme] = useState(document.documentElement.dataset.theme || "auto");
  const [open, setOpen] = useState(false);
  const box = useRef(null);
  useEffect(() => {
    if (!open) return undefined;
    whoAsks();
    const away = (event) => box.current?.contains(event.target) || setOpen(false);
    const escape = (event) => event.key === "Escape" && (setOpen(false), box.current?.querySelector("button").focus());
    addEventListener("pointerdown", away);
    addEventListener("keydown", escape);
    return () => (removeEventListener("pointerdown", away), removeEventListener("keydown", escape));
  }, [open]);
  function choose(chosen) {
    wear(chosen);
    try {
      localStorage.setItem("theme", chosen);
    } catch {
      // a browser that keeps nothing still shows it
    }
    setTheme(chosen);
  }
  const who = session.who;
  return html`<div class="menu-box" ref=${box}><button type="button" class="quiet icon-only" aria-label=${t("Menu: theme, account, shortcuts")} aria-expanded=${open} onClick=${() => setOpen(!open)}><${Icon} of="user" /></button>
    ${open && html`<div class="menu" role="group" aria-label=${t("Menu: theme, account, shortcuts")}>
      <p class="muted">${t("Theme")}</p>
      <div class="chips">${Object.entries(THEMES).map(([each, label]) => html`<button key=${each} type="button" class="chip" aria-pressed=${theme === each} onClick=${() => choose(each)}>${label}</button>`)}</div>
      <p class="muted">${t("Account")}</p>
      ${who?.owner ? html`<p><strong>${who.owner}</strong> <span class="muted">${who.scopes.join(", ")}</span></p>` : html`<p>${who ? t("This server requires no key.") : "…"}</p>`}
      <p><${Link} class="menu-link" href=${to.keys} onClick=${(event) => (setOpen(false), follow(event))}><${Icon} of="key" />${t("API keys")}<//></p>
      ${who?.owner && html`<p><button type="button" class="quiet menu-link" onClick=${() => (setOpen(false), attempt(signOut))}><${Icon} of="logout" />${t("Sign out")}</button></p>`}
      <p><a class="menu-link" href="${root}/docs"><${Icon} of="external" />${t("API reference")}</a></p>
      <p class="muted">${t("Shortcuts")}</p>
      <p class="shortcuts"><kbd>/</kbd> ${t("search")} · <kbd>n</kbd> ${t("new job")} · <kbd>j</kbd> ${t("jobs")} · <kbd>a</kbd> ${t("artifacts")}</p>
    </div>`}</div>`;
}

const SHORTCUTS = { n: to.new, j: to.jobs, a: to.gallery, q: to.queue, w: to.workers };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog, [contenteditable]")) return;
  if (event.key === "/") {
    const box = document.querySelector("main input[type=search]");
    if (!box) return;
    event.preventDefault();
    box.focus();
  } else if (Object.hasOwn(SHORTCUTS, event.key)) go(SHORTCUTS[event.key]);
});

function wear(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function KeyPrompt() {
  useSource(session);
  const [wrong, setWrong] = useState("");
  const [busy, setBusy] = useState(false);
  if (!session.asked) return null;
  async function give(event) {
    event.preventDefault();
    setBusy(true);
    setWrong("");
    try {
      await giveKey(new FormData(event.target).get("key"));
    } catch (error) {
      setWrong(error.status === 401 || error.status === 403 ? t("Invalid API key.") : said(error));
    }
    setBusy(false);
  }
  return html`<${Dialog} title=${t("Sign in")}>
    <form onSubmit=${give} class="stack">
      <p class="muted">${t("This server requires an API key. It is kept until this tab is closed.")}</p>
      <label class="field"><span>${t("API key")}</span>
        <input name="key" type="password" required autofocus autocomplete="off" spellcheck="false"
          aria-invalid=${wrong ? "true" : undefined} aria-describedby="key-wrong" /></label>
      <p id="key-wrong" class="wrong" role="alert">${wrong}</p>
      <button class="primary" disabled=${busy}>${t("Sign in")}</button>
    </form><//>`;
}

try {
  wear(localStorage.getItem("theme"));
} catch {
  // the theme of the system, then
}
const box = document.getElementById("app");
box.replaceChildren(); // what stood here until the modules had arrived
render(html`<${App} />`, box);
