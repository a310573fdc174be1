// What a job was given: every parameter as it ran, those that the user chose first.
import { isReference } from "./format.js";
import { isLarge } from "./numbers.js";
import { t, tn } from "./messages.js";
import { titleOf } from "./fields.js";
import { Look } from "./files.js";
import { Link, to } from "./router.js";
import { Copy, Icon, shortKey, Tree } from "./ui.js";
import { html, useState } from "./view.js";

const LONG = 160;

export function Value({ value }) {
  const [whole, setWhole] = useState(false);
  if (isReference(value)) return html`<span class="value-file"><${Look} reference=${value} /><${Link} href=${to.artifact(value)}>${shortKey(value.key)}<//></span>`;
  if (Array.isArray(value) && value.length && value.every(isReference)) return html`<span class="value-files">${value.slice(0, 12).map((each) => html`<${Value} key=${each.key} value=${each} />`)}${value.length > 12 && html`<span class="muted">${t("and {n} more", { n: value.length - 12 })}</span>`}</span>`;
  if (Array.isArray(value) && value.every((each) => typeof each !== "object")) return value.join(", ");
  if (value !== null && typeof value === "object" && !isLarge(value)) return html`<${Tree} value=${value} />`;
  const text = value === null || value === undefined ? "–" : typeof value === "boolean" ? (value ? t("yes") : t("no")) : isLarge(value) ? value.rawJSON : String(value);
  if (text.length <= LONG || whole) return html`<span class="value-text">${text}</span>`;
  return html`<span class="value-text">${text.slice(0, LONG)}… <button type="button" class="quiet" onClick=${() => setWhole(true)}>${t("all")}</button></span>`;
}

export function Parameters({ job }) {
  const params = Object.entries(job.params ?? {});
  const [open, setOpen] = useState(false);
  if (!params.length) return null;
  const given = new Set(job.given ?? []);
  const chosen = params.filter(([name]) => given.has(name));
  const usual = params.filter(([name]) => !given.has(name));
  const shown = open || !chosen.length || usual.length <= 3 ? [...chosen, ...usual] : chosen;
  return html`<section class="panel" aria-labelledby="h-params"><header><h2 id="h-params">${t("Parameters")}</h2>
      <span class="end"><${Copy} text=${JSON.stringify(job.params, null, 2)} label=${t("Copy as JSON")} /><${Link} class="button quiet-link" href="${to.new}?from=${encodeURIComponent(job.jobId)}"><${Icon} of="edit" />${t("Change")}<//></span></header>
    <div class="body"><dl class="facts params">${shown.map(([name, value]) => [html`<dt key=${`${name} name`} title=${name} class=${given.has(name) ? "given" : ""}>${titleOf(name)}${given.has(name) && html`<span class="hidden"> (${t("given")})</span>`}</dt>`,
      html`<dd key=${name} class=${given.has(name) ? "given" : "muted"}><${Value} value=${value} /></dd>`])}</dl>
    ${shown.length < params.length && html`<button type="button" class="quiet" onClick=${() => setOpen(true)}>${tn(usual.length, "{n} default", "{n} defaults")}</button>`}</div></section>`;
}
