// Fields that are tables: rows of a few values, files by the names that they get, and which of some files each of others belongs to.
import { isLocal, kindOf, nameOfFile, plain, propertiesOf, titleOf } from "./fields.js";
import { Files, Look } from "./files.js";
import { t } from "./messages.js";
import { Icon, shortKey } from "./ui.js";
import { html, useRef, useState } from "./view.js";

const SHOWN = 50;

const Remove = ({ name, remove }) => html`<button type="button" class="quiet icon-only" aria-label=${t("Remove {name}", { name })} onClick=${remove}><${Icon} of="close" /></button>`;

export const lastPart = (reference) => shortKey(isLocal(reference) ? reference.local : reference.key);

// A list of flat objects: a column for each of their fields.
export function Rows({ id, schema, value, change, title }) {
  const [shown, setShown] = useState(SHOWN);
  const columns = propertiesOf(plain(schema).items);
  const rows = value ?? [];
  const set = (index, name, text) => change(rows.map((row, at) => (at === index ? { ...row, [name]: text } : row)));
  return html`<div class="rows-field" role="group" aria-label=${title}>
    ${rows.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label=${title}><table><thead><tr><th class="n">#</th>${columns.map(([name, each]) => html`<th key=${name}>${titleOf(name, each)}</th>`)}<th><span class="hidden">${t("Remove")}</span></th></tr></thead>
      <tbody>${rows.slice(0, shown).map((row, index) => html`<tr key=${index}><td class="n muted">${index + 1}</td>${columns.map(([name, each]) => html`<td key=${name}><input type="text" inputmode=${kindOf(each) === "number" ? "decimal" : undefined} aria-label="${titleOf(name, each)} ${index + 1}"
          value=${row[name]?.rawJSON ?? row[name] ?? ""} onInput=${(event) => set(index, name, event.target.value)} autocomplete="off" /></td>`)}<td><${Remove} name=${index + 1} remove=${() => change(rows.filter((_, at) => at !== index))} /></td></tr>`)}</tbody></table></div>`}
    ${rows.length > shown && html`<button type="button" class="quiet" onClick=${() => setShown(shown + 10 * SHOWN)}>${t("{n} more", { n: (rows.length - shown).toLocaleString() })}</button>`}
    <button type="button" id=${id} onClick=${() => (change([...rows, {}]), setShown(Math.max(shown, rows.length + 1)))}><${Icon} of="plus" />${t("Add a row")}</button></div>`;
}

// Files by name: [{name, file}].
export function FileMap({ id, control, schema, value, change, busy, title, name }) {
  const rows = value ?? [];
  const now = useRef(rows);
  now.current = rows;
  const set = (next) => ((now.current = next), change(next));
  const add = (file) => set([...now.current, { name: lastPart(file), file }]);
  return html`<div class="stack filemap" role="group" aria-label=${title}>
    ${rows.map((row, index) => html`<div class="chosen" key=${index}><${Look} reference=${row.file} />
      <span class="grow"><input type="text" class="mono" aria-label=${t("Name of file {n}", { n: index + 1 })} value=${row.name} onInput=${(event) => set(rows.map((each, at) => (at === index ? { ...each, name: event.target.value } : each)))} autocomplete="off" spellcheck="false" />
        <span class="hint muted">${lastPart(row.file)}</span></span><${Remove} name=${row.name} remove=${() => set(rows.filter((_, at) => at !== index))} /></div>`)}
    <${Files} id=${id} control=${control} schema=${{ items: plain(schema).additionalProperties }} many taken=${add} busy=${busy} name=${name} title=${t("Add to {field}", { field: title })} /></div>`;
}

// For each file of one field, which file of another it belongs to; `value`: by the name of the file, and "" for none of them.
export function Places({ id, schema, value, change, whole, root, title }) {
  const { of, in: among } = plain(schema)["x-places"];
  const files = whole[of] ?? [];
  const choices = whole[among] ?? [];
  const called = (name) => titleOf(name, propertiesOf(root).find(([each]) => each === name)?.[1]);
  if (!files.length || !choices.length) return html`<p class="muted" id=${id}>${t("Choose first: {fields}.", { fields: [of, among].filter((name) => !whole[name]?.length).map(called).join(", ") })}</p>`;
  const held = value ?? {};
  const choose = (file, chosen) => {
    const { [nameOfFile(file)]: before, ...rest } = held;
    change(chosen === "unknown" ? rest : { ...rest, [nameOfFile(file)]: chosen });
  };
  return html`<div class="stack places" role="group" aria-label=${title}>${files.map((file, index) => {
    const at = held[nameOfFile(file)] ?? "unknown";
    return html`<div class="chosen-place" key=${nameOfFile(file)}><label for=${index ? `${id}-${index}` : id}>${lastPart(file)}</label>
      <select id=${index ? `${id}-${index}` : id} onChange=${(event) => choose(file, event.target.value)}><option value="unknown" selected=${at === "unknown"}>${t("not told")}</option>
        ${choices.map((each, number) => html`<option key=${nameOfFile(each)} value=${nameOfFile(each)} selected=${at === nameOfFile(each)}>${number + 1}. ${lastPart(each)}</option>`)}<option value="" selected=${at === ""}>${t("none of them")}</option></select></div>`;
  })}</div>`;
}
