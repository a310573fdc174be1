// What a node has returned, as tables where it is small and flat, else as a tree.
import { isReference, number } from "./format.js";
import { isLarge } from "./numbers.js";
import { t, tn } from "./messages.js";
import { titleOf } from "./fields.js";
import { shortKey, Tree } from "./ui.js";
import { Link, to } from "./router.js";
import { html, useState } from "./view.js";

const ROWS = 20;
const MOST_ROWS = 2000;
const MOST_COLUMNS = 8;

const isPlain = (value) => value === null || typeof value !== "object" || isLarge(value) || isReference(value);
const isRow = (value) => value !== null && typeof value === "object" && !Array.isArray(value) && !isLarge(value) && !isReference(value) && Object.values(value).every(isPlain) && Object.keys(value).length <= MOST_COLUMNS;
export const isTable = (value) => Array.isArray(value) && value.length > 0 && value.length <= MOST_ROWS && value.every(isRow);

function Cell({ value }) {
  if (isReference(value)) return html`<${Link} href=${to.artifact(value)}>${shortKey(value.key)}<//>`;
  if (value === null || value === undefined) return html`<span class="muted">–</span>`;
  if (isLarge(value)) return value.rawJSON;
  if (typeof value === "number") return html`<span title=${String(value)}>${number(value)}</span>`;
  return String(value);
}

const numeric = (value) => typeof value === "number" || isLarge(value);

function Rows({ name, rows }) {
  const [shown, setShown] = useState(ROWS);
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const right = new Set(columns.filter((column) => rows.every((row) => !Object.hasOwn(row, column) || row[column] === null || numeric(row[column]))));
  return html`<div class="scroll output-rows" tabindex="0" role="region" aria-label=${name}><table><thead><tr>${columns.map((column) => html`<th key=${column} class=${right.has(column) ? "n" : ""}>${titleOf(column)}</th>`)}</tr></thead>
    <tbody>${rows.slice(0, shown).map((row, index) => html`<tr key=${index}>${columns.map((column) => html`<td key=${column} class=${right.has(column) ? "n" : ""}>${Object.hasOwn(row, column) ? html`<${Cell} value=${row[column]} />` : ""}</td>`)}</tr>`)}</tbody></table></div>
    ${rows.length > shown && html`<button type="button" class="quiet" onClick=${() => setShown(shown + 10 * ROWS)}>${t("{n} more", { n: (rows.length - shown).toLocaleString() })}</button>`}`;
}

// A document: its plain fields as one table, each list of rows as one of its own, and what is deeper as trees.
export function Output({ value }) {
  if (value === null || typeof value !== "object" || isLarge(value) || isReference(value)) return html`<${Tree} value=${value} />`;
  if (isTable(value)) return html`<${Rows} name=${t("Output")} rows=${value} />`;
  if (Array.isArray(value)) return html`<${Tree} value=${value} />`;
  const entries = Object.entries(value);
  const flat = entries.filter(([, each]) => isPlain(each));
  const deep = entries.filter(([, each]) => !isPlain(each));
  return html`<div class="stack output">
    ${flat.length > 0 && html`<dl class="pairs">${flat.map(([name, each]) => html`<div key=${name}><dt title=${name}>${titleOf(name)}</dt><dd class=${numeric(each) ? "numbers" : ""}><${Cell} value=${each} /></dd></div>`)}</dl>`}
    ${deep.map(([name, each]) => html`<${Deep} key=${name} name=${name} value=${each} />`)}
  </div>`;
}

function Deep({ name, value }) {
  const count = Array.isArray(value) ? tn(value.length, "{n} item", "{n} items") : "";
  if (Array.isArray(value) && value.length && value.length <= 200 && value.every((each) => isPlain(each) && !isReference(each))) {
    return html`<section><h3>${titleOf(name)} <span class="muted">${count}</span></h3><p class="output-list" tabindex="0" role="region" aria-label=${titleOf(name)}>${value.map((each, index) => html`${index > 0 && " · "}<${Cell} key=${index} value=${each} />`)}</p></section>`;
  }
  if (isTable(value)) return html`<details class="more" open=${value.length <= 5 * ROWS || undefined}><summary>${titleOf(name)} <span class="muted">${count}</span></summary><${Rows} name=${titleOf(name)} rows=${value} /></details>`;
  return html`<section><h3>${titleOf(name)} <span class="muted">${count}</span></h3><${Tree} value=${value} /></section>`;
}
