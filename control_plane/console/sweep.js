// Several values of one parameter: what is typed in its place, and what becomes of it in a submission's `sweep`.
import { kindOf, plain } from "./fields.js";
import { isLarge, typedNumber } from "./numbers.js";
import { t } from "./messages.js";
import { html } from "./view.js";
import { Lines, Ticks } from "./widgets.js";

const KINDS = ["number", "choice", "text", "switch"];

export const canSweep = (schema) => KINDS.includes(kindOf(schema));

// What a field holds at first when it gets several values.
export function firstSwept(schema, value) {
  const kind = kindOf(schema);
  if (kind === "switch") return [false, true];
  if (kind === "number") return value === undefined || value === "" ? "" : String(value?.rawJSON ?? value);
  return value === undefined || value === "" ? [] : [value];
}

// { values, wrong }
export function sweptOf(schema, held) {
  const kind = kindOf(schema);
  if (kind === "number") {
    const parts = held.split(/[\s,;]+/).filter(Boolean);
    if (parts.some((part) => !isLarge(part) && Number.isNaN(Number(part)))) return { values: [], wrong: t("Enter numbers, separated by commas.") };
    return parts.length ? { values: parts.map(typedNumber), wrong: "" } : { values: [], wrong: t("Required.") };
  }
  const values = kind === "text" ? held.map((line) => line.trim()).filter(Boolean) : held;
  return { values, wrong: values.length ? "" : t("Required.") };
}

export function Swept({ id, control, schema, held, change, title }) {
  const kind = kindOf(schema);
  if (kind === "number") return html`<input type="text" ...${control} value=${held} placeholder="4, 8, 16" onInput=${(event) => change(event.target.value)} autocomplete="off" />`;
  if (kind === "choice") return html`<${Ticks} id=${id} control=${control} schema=${{ items: { enum: plain(schema).enum } }} value=${held} change=${change} title=${title} />`;
  if (kind === "switch") return html`<span id=${id}>${t("once off, once on")}</span>`;
  return html`<${Lines} control=${control} value=${held} change=${change} placeholder=${t("One value on each line")} />`;
}
