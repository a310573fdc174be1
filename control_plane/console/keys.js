// API keys: who may do what, made here and shown once, revoked here.
import { api, get, giveKey, held, post, session, whoAsks } from "./api.js";
import { exact } from "./format.js";
import { t } from "./messages.js";
import { Action, Copy, Dialog, Empty, Failure, Icon, Loading, said, say, Time } from "./ui.js";
import { html, useEffect, useSource, useState } from "./view.js";

const SCOPES = [["read", t("read jobs and files")], ["submit", t("submit jobs and upload files")], ["cancel", t("cancel, retry and finish jobs")], ["operate", t("order the queue, pause pools, drain workers")], ["admin", t("everything, of every owner")]];
const DAYS = [["", t("never")], ["1", t("in a day")], ["30", t("in 30 days")], ["365", t("in a year")]];

export function Keys() {
  useSource(session);
  const [keys, setKeys] = useState(null);
  const [error, setError] = useState(null);
  const [making, setMaking] = useState(false);
  const [made, setMade] = useState(null);
  const [revoking, setRevoking] = useState(null);
  const load = () => get("/api/keys").then((found) => (setKeys(found.keys), setError(null)), setError);
  useEffect(() => {
    load();
    whoAsks();
  }, []);
  const revoke = async () => {
    await api(`/api/keys/${encodeURIComponent(revoking.id)}`, { method: "DELETE" });
    say(t("The key of {owner} is revoked", { owner: revoking.owner }));
    setRevoking(null);
    await load();
  };
  const open = session.who && !session.who.owner;
  return html`<div class="page">
    <div class="title"><h1>${t("API keys")}</h1><div class="end">${keys && html`<button type="button" class="primary" onClick=${() => setMaking(true)}><${Icon} of="plus" />${t("Create a key")}</button>`}</div></div>
    ${error ? html`<${Failure} error=${error.status === 403 ? Object.assign(new Error(t("Only a key with the scope admin sees the keys.")), { status: 403 }) : error} retry=${load} />` : !keys ? html`<${Loading} />` : !keys.length
      ? html`<${Empty} title=${t("No key yet")}><p>${t("Without a key, everybody who reaches this server may do everything. From the first key on, every request needs one.")}</p><//>`
      : html`<section class="panel" aria-label=${t("API keys")}><div class="scroll" tabindex="0" role="region" aria-label=${t("API keys")}><table><thead><tr><th>${t("Owner")}</th><th>${t("Id")}</th><th>${t("Scopes")}</th><th>${t("Limits")}</th><th>${t("Created")}</th><th>${t("Expires")}</th><th><span class="hidden">${t("What to do")}</span></th></tr></thead>
        <tbody>${keys.map((key) => html`<tr key=${key.id} class=${key.revoked ? "revoked" : ""}><td><strong>${key.owner}</strong></td><td class="mono">${key.id}</td><td>${key.scopes.map((scope) => html`<span key=${scope} class="tag">${scope}</span> `)}</td>
          <td>${limitsOf(key)}</td><td><${Time} at=${key.created} /></td><td>${key.revoked ? html`<span class="muted">${t("revoked")} <${Time} at=${key.revoked} /></span>` : key.expires ? html`<span title=${exact(key.expires)}><${Time} at=${key.expires} /></span>` : t("never")}</td>
          <td class="letter-buttons">${!key.revoked && html`<button type="button" onClick=${() => setRevoking(key)}>${t("Revoke")}</button>`}</td></tr>`)}</tbody></table></div></section>`}
    ${making && html`<${Create} open=${open && !keys.some((key) => !key.revoked)} close=${() => setMaking(false)} done=${(created) => (setMaking(false), setMade(created), load())} />`}
    ${made && html`<${Made} made=${made} close=${() => setMade(null)} />`}
    ${revoking && html`<${Dialog} title=${t("Revoke the key of {owner}?", { owner: revoking.owner })} close=${() => setRevoking(null)}><p>${t("Within a second it is refused everywhere. It cannot be brought back.")}</p>
      <div class="buttons"><button type="button" onClick=${() => setRevoking(null)}>${t("Keep it")}</button><${Action} class="danger" work=${revoke}>${t("Revoke")}<//></div><//>`}
  </div>`;
}

const limitsOf = (key) => [key.jobsPerMinute ? t("{n} jobs a minute", { n: key.jobsPerMinute.toLocaleString() }) : "", key.maxAlive ? t("{n} unfinished jobs", { n: key.maxAlive.toLocaleString() }) : ""].filter(Boolean).join(", ") || t("none");

function Create({ open, close, done }) {
  const [wrong, setWrong] = useState("");
  const [busy, setBusy] = useState(false);
  const [scopes, setScopes] = useState(new Set(open ? ["admin"] : ["read", "submit", "cancel"]));
  const toggle = (scope) => {
    const next = new Set(scopes);
    if (!next.delete(scope)) next.add(scope);
    setScopes(next);
  };
  async function create(event) {
    event.preventDefault();
    const form = new FormData(event.target);
    const number = (name) => Number(form.get(name) || 0);
    setBusy(true);
    setWrong("");
    try {
      const created = await post("/api/keys", { owner: form.get("owner").trim(), scopes: [...scopes], jobsPerMinute: number("jobsPerMinute"), maxAlive: number("maxAlive"), ...(form.get("days") ? { days: Number(form.get("days")) } : {}) });
      if (open && !held()) await giveKey(created.token); // from now on this page needs it
      done(created);
    } catch (error) {
      setWrong(said(error));
      setBusy(false);
    }
  }
  return html`<${Dialog} title=${t("Create a key")} close=${close}><form class="stack" onSubmit=${create}>
    ${open && html`<p class="waiting"><${Icon} of="warning" /><span>${t("This is the first key: from now on every request needs one. This page signs in with it.")}</span></p>`}
    <label class="field"><span>${t("Owner")}</span><input name="owner" type="text" required autofocus maxlength="64" pattern="[A-Za-z0-9][A-Za-z0-9._@\\-]*" autocomplete="off" /></label>
    <fieldset class="scopes"><legend>${t("Scopes")}</legend>${SCOPES.map(([scope, meaning]) => html`<label key=${scope}><input type="checkbox" checked=${scopes.has(scope)} onChange=${() => toggle(scope)} /><strong>${scope}</strong> <span class="muted">${meaning}</span></label>`)}</fieldset>
    <div class="settings"><label class="field"><span>${t("Expires")}</span><select name="days">${DAYS.map(([days, label]) => html`<option key=${days} value=${days}>${label}</option>`)}</select></label>
      <label class="field"><span>${t("Jobs a minute")}</span><input name="jobsPerMinute" type="number" min="0" placeholder=${t("no limit")} /></label>
      <label class="field"><span>${t("Unfinished jobs")}</span><input name="maxAlive" type="number" min="0" placeholder=${t("no limit")} /></label></div>
    <p class="wrong" role="alert">${wrong}</p>
    <div class="buttons"><button class="primary" disabled=${busy || !scopes.size}>${t("Create")}</button></div></form><//>`;
}

function Made({ made, close }) {
  return html`<${Dialog} title=${t("The key of {owner}", { owner: made.key.owner })} close=${close}>
    <p>${t("Copy it now: it is not shown again.")}</p>
    <p class="token"><code>${made.token}</code></p>
    <div class="buttons"><${Copy} text=${made.token}>${t("Copy")}<//><button type="button" class="primary" onClick=${close}>${t("Done")}</button></div><//>`;
}
