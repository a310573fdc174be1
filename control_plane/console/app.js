// The frame around every view: navigation, the mark of the connection, the question for a key, and which view an address means.
import { giveKey, root, session } from "./api.js";
import { ArtifactList, ArtifactPage } from "./artifacts.js";
import { JobPage } from "./job.js";
import { JobList } from "./jobs.js";
import { live } from "./live.js";
import { NewJob } from "./new.js";
import { Link, place, to } from "./router.js";
import { Dialog, Empty, Icon, Notices } from "./ui.js";
import { Workers } from "./workers.js";
import { Component, html, render, useEffect, useRef, useSource, useState } from "./view.js";

const TABS = [
  [to.jobs, "Jobs", "jobs"],
  [to.artifacts, "Artifacts", "artifacts"],
  [to.workers, "Workers", "workers"],
];

function viewOf(path) {
  if (path === to.jobs || path === root) return ["Jobs", html`<${JobList} />`];
  const parts = path.slice(root.length).split("/").slice(2).map(decoded);
  if (parts[0] === "jobs" && parts.length === 2) return [parts[1], html`<${JobPage} key=${parts[1]} jobId=${parts[1]} />`];
  if (path === to.new) return ["New job", html`<${NewJob} />`];
  if (path === to.artifacts) return ["Artifacts", html`<${ArtifactList} />`];
  if (parts[0] === "artifacts" && parts.length > 2) {
    const reference = { bucket: parts[1], key: parts.slice(2).join("/") };
    return [parts.at(-1), html`<${ArtifactPage} key=${path} reference=${reference} />`];
  }
  if (path === to.workers) return ["Workers and queues", html`<${Workers} />`];
  return ["Not found", html`<div class="page"><h1 class="hidden">Not found</h1><${Empty} title="There is no such page">
    <p><${Link} href=${to.jobs}>Go to the jobs<//></p><//></div>`];
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
  const main = useRef(null);
  const first = useRef(true);
  const [title, view] = viewOf(place.path);
  useEffect(() => {
    document.title = `${title} · Dihedral`;
    if (!first.current) main.current.focus({ preventScroll: true });
    first.current = false;
  }, [place.path]);
  const under = (tab) => (tab === to.jobs ? place.path === tab || place.path.startsWith(to.job("")) : place.path.startsWith(tab));
  return html`
    <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current.focus())}>Skip to the content</a>
    <header class="head">
      <${Link} href=${to.jobs} class="brand"><img src="${root}/console/mark.svg" alt="" width="22" height="22" /><span>Dihedral</span><//>
      <nav aria-label="Main">
        ${TABS.map(([href, label, icon]) => html`<${Link} key=${href} href=${href} class="tab"
          aria-current=${under(href) ? "page" : undefined}><${Icon} of=${icon} /><span>${label}</span><//>`)}
      </nav>
      <${Connection} />
      <${Theme} />
      <${Link} href=${to.new} class="button primary" aria-current=${place.path === to.new ? "page" : undefined}>
        <${Icon} of="plus" /><span>New job</span><//>
    </header>
    ${live.state === "cut" && html`<${Cut} />`}
    <main id="main" ref=${main} tabindex="-1" class=${live.state === "cut" ? "stale" : ""}>
      <${Guard} key=${place.path}>${view}<//>
    </main>
    <${Notices} />
    <${KeyPrompt} />`;
}

// A view that broke must not take the frame along.
class Guard extends Component {
  static getDerivedStateFromError(error) {
    return { error };
  }

  render({ children }, { error }) {
    if (!error) return children;
    return html`<div class="page"><div class="failure" role="alert"><h1>This view has failed</h1><p>${String(error)}</p>
      <button type="button" onClick=${() => this.setState({ error: null })}>Draw it again</button></div></div>`;
  }
}

const SAID = { open: "Live", connecting: "Connecting", cut: "Disconnected" };

function Connection() {
  return html`<span class="connection c-${live.state}" role="status"><i aria-hidden="true"></i><span>${SAID[live.state]}</span></span>`;
}

function Cut() {
  const at = new Date(live.seen).toLocaleTimeString();
  return html`<div class="cut" role="alert"><strong>Disconnected, reconnecting…</strong> What you see is as of ${at}; trying again.</div>`;
}

const THEMES = ["auto", "light", "dark"];

function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme || "auto");
  function next() {
    const chosen = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    wear(chosen);
    try {
      localStorage.setItem("theme", chosen);
    } catch {
      // a browser that keeps nothing still shows it
    }
    setTheme(chosen);
  }
  return html`<button type="button" class="quiet icon-only" onClick=${next} title="Theme: ${theme}" aria-label="Theme: ${theme}">
    <${Icon} of="theme" /></button>`;
}

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
      setWrong(error.status === 401 || error.status === 403 ? "Invalid API key." : error.message);
    }
    setBusy(false);
  }
  return html`<${Dialog} title="Your key">
    <form onSubmit=${give} class="stack">
      <p class="muted">This server wants an API key. It is kept for this session only.</p>
      <label class="field"><span>API key</span>
        <input name="key" type="password" required autofocus autocomplete="off" spellcheck="false"
          aria-invalid=${wrong ? "true" : undefined} aria-describedby="key-wrong" /></label>
      <p id="key-wrong" class="wrong" role="alert">${wrong}</p>
      <button class="primary" disabled=${busy}>Sign in</button>
    </form><//>`;
}

try {
  wear(localStorage.getItem("theme"));
} catch {
  // the theme of the system, then
}
render(html`<${App} />`, document.getElementById("app"));
