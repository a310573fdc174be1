// A form made from a JSON schema: the fields one must see first, the settings in their groups below.
import { Files } from "./files.js";
import { isRequired, kindOf, limitsOf, plain, propertiesOf, titleOf } from "./fields.js";
import { served, t } from "./messages.js";
import { canSweep, firstSwept, Swept } from "./sweep.js";
import { html, useState } from "./view.js";
import { FileMap, Places, Rows } from "./tables.js";
import { Lines, List, Mouth, Sliders, Ticks } from "./widgets.js";

const FEW = 6;
const FIRST = ["text", "file", "files", "list", "mouth"];

// `typed`: see fields.js; `problems`: pointer → sentence; `change(typed)` with the whole form; `busy(±1)` while files are sent;
// `swept`: name → several values in place of one, `sweep(name, held)` sets them; `focus`: the name of a field whose group is open.
export function Form({ schema, typed, problems, change, touch, busy, prefix = "f", swept, sweep, focus }) {
  const fields = propertiesOf(schema);
  const groupOf = ([, each]) => each["x-group"] ?? plain(each)["x-group"] ?? "";
  const lead = fields.length ? groupOf(fields[0]) : ""; // the first group of a form is what it is about
  const isFirst = (field) => (lead ? groupOf(field) === lead : isRequired(schema, field[0]) || (FIRST.includes(kindOf(field[1])) && !groupOf(field)));
  const rank = ([name, each]) => ["text", "list", "file", "files", "mouth"].indexOf(kindOf(each)) + (isRequired(schema, name) ? 0 : 10) + (kindOf(each) === "mouth" ? 5 : 0);
  const first = fields.filter(isFirst);
  const main = lead ? first : first.sort((a, b) => rank(a) - rank(b));
  const rest = fields.filter((field) => !isFirst(field));
  const groups = new Map();
  for (const field of rest) {
    const name = groupOf(field);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(field);
  }
  const draw = ([name, each]) => html`<${Field} key=${name} name=${name} schema=${each} value=${typed[name]} pointer=${`/${name}`} problems=${problems} needed=${isRequired(schema, name)} prefix=${prefix}
    change=${(value) => (change((before) => ({ ...before, [name]: value })), touch?.(`/${name}`))} busy=${busy} whole=${typed} root=${schema}
    several=${sweep && canSweep(each) ? { held: swept[name], set: (held) => sweep(name, held) } : null} />`;
  return html`<div class="stack form">
    ${lead ? html`<div class="settings lead-group">${main.map(draw)}</div>` : main.map(draw)}
    ${[...groups].map(([name, members]) => html`<${Group} key=${name} name=${name} members=${members} draw=${draw} problems=${problems} typed=${typed} schema=${schema} swept=${swept ?? {}} focus=${focus} always=${rest.length <= FEW && groups.size === 1} />`)}
  </div>`;
}

function Group({ name, members, draw, problems, typed, schema, swept, focus, always }) {
  const amiss = members.some(([field]) => hasProblem(problems, `/${field}`) || swept[field] !== undefined);
  const changed = members.filter(([field, each]) => typed[field] !== undefined && JSON.stringify(typed[field]) !== JSON.stringify(plain(each).default)).length;
  const [opened, setOpened] = useState(members.some(([field]) => field === focus || isRequired(schema, field)));
  const title = name ? served(name) : t("Settings");
  if (always && !name) return html`<div class="settings">${members.map(draw)}</div>`;
  return html`<details class="more group" open=${opened || amiss} onToggle=${(event) => setOpened(event.target.open)}>
    <summary>${title} <span class="muted">${changed ? html`<strong>${t("{n} changed", { n: changed })}</strong> · ` : ""}${members.map(([field, each]) => titleOf(field, each)).join(", ")}</span></summary>
    <div class="settings">${members.map(draw)}</div></details>`;
}

const hasProblem = (problems, pointer) => Object.keys(problems).some((each) => each === pointer || each.startsWith(`${pointer}/`));

// What stands at a field that draws no fields of its own: its own problem, or that of a part of it.
function problemAt(problems, pointer, nested) {
  if (problems[pointer] || nested) return problems[pointer];
  const below = Object.keys(problems).find((each) => each.startsWith(`${pointer}/`));
  return below && problems[below];
}

function Field({ name, schema, value, pointer, problems, needed, change, busy, whole, root, prefix, several }) {
  const each = plain(schema);
  const isSwept = several?.held !== undefined;
  const kind = kindOf(schema);
  const id = `${prefix}${pointer.replaceAll("/", "-")}`;
  const nested = kind === "list" || kind === "object";
  const wrong = problemAt(problems, pointer, nested);
  const title = titleOf(name, schema);
  const control = { id, "aria-describedby": `${id}-hint ${id}-wrong`, "aria-invalid": wrong ? "true" : undefined, "aria-required": needed ? "true" : undefined };
  const given = { id, control, schema, value, change, busy, whole, root, title, name };
  const below = (items, item, at, set) => html`<${Below} schema=${items} value=${item} pointer=${pointer + at} problems=${problems} change=${set} busy=${busy} whole=${whole} root=${root} prefix=${prefix} />`;
  const drawn = isSwept ? html`<${Swept} ...${given} held=${several.held} change=${several.set} />` : WIDGETS[kind](given, each, needed, below);
  const hint = [served(each.description ?? schema.description), limitsOf(schema), usual(each, kind)].filter(Boolean).join(" · ");
  const switcher = several && html`<button type="button" class="quiet several" aria-describedby="${id}-label" title=${t("Several values: a job for each")} onClick=${() => several.set(isSwept ? undefined : firstSwept(schema, value))}>${isSwept ? t("One value") : t("Several values")}</button>`;
  const grouped = ["ticks", "list", "sliders", "object", "mouth", "rows", "filemap", "places"].includes(kind) || (isSwept && kind !== "number" && kind !== "text");
  return html`<div class="field k-${kind}">
    ${grouped ? html`<span class="label" id="${id}-label">${title}${needed && html` <span class="muted">${t("required")}</span>`}</span>` : html`<label for=${id} id="${id}-label">${title}${needed && html` <span class="muted">${t("required")}</span>`}</label>`}
    ${drawn}
    <p class="hint muted"><span id="${id}-hint">${hint}</span>${switcher}</p>
    <p class="wrong" id="${id}-wrong">${wrong}</p>
  </div>`;
}

const usual = (schema, kind) => (["number", "choice"].includes(kind) && "default" in schema && schema.default !== null && schema.default !== "" ? t("default {value}", { value: String(schema.default) }) : "");

// The fields of an object inside a form.
function Below({ schema, value, pointer, problems, change, busy, whole, root, prefix }) {
  const fields = propertiesOf(schema);
  const isMain = ([name, each]) => isRequired(schema, name) || ["file", "lines", "text"].includes(kindOf(each));
  const main = fields.filter(isMain);
  const rest = fields.filter((field) => !isMain(field));
  const draw = ([name, each]) => html`<${Field} key=${name} name=${name} schema=${each} value=${value?.[name]} pointer=${`${pointer}/${name}`} problems=${problems} needed=${isRequired(schema, name)} prefix=${prefix}
    change=${(next) => change({ ...(value ?? {}), [name]: next })} busy=${busy} whole=${whole} root=${root} />`;
  return html`<div class="below">${main.map(draw)}</div>
    ${rest.length > 0 && html`<details class="more" open=${rest.some(([name]) => hasProblem(problems, `${pointer}/${name}`)) || undefined}><summary class="muted">${t("More")}</summary><div class="settings">${rest.map(draw)}</div></details>`}`;
}

const typing = (change) => (event) => change(event.target.value);

const WIDGETS = {
  file: (given) => html`<${Files} ...${given} />`,
  files: (given) => html`<${Files} ...${given} many />`,
  ticks: (given) => html`<${Ticks} ...${given} />`,
  lines: (given) => html`<${Lines} ...${given} />`,
  list: (given, _, __, below) => html`<${List} ...${given} draw=${below} />`,
  rows: (given) => html`<${Rows} ...${given} />`,
  filemap: (given) => html`<${FileMap} ...${given} />`,
  places: (given) => html`<${Places} ...${given} />`,
  sliders: (given) => html`<${Sliders} ...${given} />`,
  mouth: (given) => html`<${Mouth} ...${given} />`,
  object: (given, each, _, below) => html`<div class="object" role="group" aria-label=${given.title}>${below(each, given.value ?? {}, "", given.change)}</div>`,
  choice: ({ control, value, change }, each, needed) => html`<select ...${control} value=${value ?? ""} onChange=${typing(change)}>${!needed && each.default === undefined && html`<option value=""></option>`}${each.enum.map((one) => html`<option key=${one} value=${one} selected=${one === value}>${String(one)}</option>`)}</select>`,
  switch: ({ control, value, change }) => html`<input type="checkbox" ...${control} checked=${Boolean(value)} onChange=${(event) => change(event.target.checked)} />`,
  number: ({ control, value, change }) => html`<input type="text" inputmode="decimal" ...${control} value=${value?.rawJSON ?? value ?? ""} onInput=${typing(change)} autocomplete="off" />`,
  text: ({ control, value, change }, each) => ((each.maxLength ?? 4001) > 300 ? html`<textarea ...${control} rows=${Math.min(12, Math.max(2, Math.ceil(String(value ?? "").length / 80)))} value=${value ?? ""} onInput=${typing(change)} spellcheck=${true}></textarea>`
    : html`<input type="text" ...${control} value=${value ?? ""} onInput=${typing(change)} autocomplete="off" />`),
  json: ({ control, value, change }) => html`<textarea ...${control} class="mono" rows=${Math.min(12, Math.max(2, String(value ?? "").split("\n").length))} value=${value ?? ""} onInput=${typing(change)} spellcheck=${false} placeholder="JSON"></textarea>`,
};
