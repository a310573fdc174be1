// What somebody keeps of a form under a name: chosen, saved, deleted. The server keeps it for its owner.
import { api, get } from "./api.js";
import { formOf } from "./fields.js";
import { t } from "./messages.js";
import { Action, Dialog, Icon, said, say, useMay } from "./ui.js";
import { html, useEffect, useState } from "./view.js";

const MOST_CHARACTERS = 100;

// Those of a form; null: not yet, or the server keeps none.
export function usePresets(what) {
  const [presets, setPresets] = useState(null);
  const query = what.task ? `task=${encodeURIComponent(what.task)}` : `pipeline=${encodeURIComponent(what.id)}`;
  const load = () => get(`/api/presets?${query}`).then((found) => setPresets(found.presets), () => {});
  useEffect(() => void (what.isPlain && load()), []);
  return { presets, load };
}

const pathOf = (what, name) => `/api/presets/${what.task ? "tasks" : "pipelines"}/${encodeURIComponent(what.task ?? what.id)}/${encodeURIComponent(name)}`;

// `params`: as the form stands; `choose(typed)`: makes the form what was kept.
export function Presets({ what, presets, load, params, choose }) {
  const may = useMay();
  const [dropping, setDropping] = useState(null);
  if (!presets?.length) return null;
  const drop = async () => {
    await api(pathOf(what, dropping.name), { method: "DELETE" });
    setDropping(null);
    await load();
  };
  const isShown = (preset) => JSON.stringify(preset.params) === JSON.stringify(params);
  return html`<div class="presets" role="group" aria-label=${t("Presets")}>
    ${presets.map((preset) => html`<span class="preset" key=${preset.name}><button type="button" class="chip" aria-pressed=${isShown(preset)} onClick=${() => choose(formOf(what.schema, preset.params))}>${preset.name}</button>
      ${may("submit") && html`<button type="button" class="quiet icon-only" aria-label=${t("Delete the preset {name}", { name: preset.name })} onClick=${() => setDropping(preset)}><${Icon} of="close" /></button>`}</span>`)}
    ${dropping && html`<${Dialog} title=${t("Delete the preset {name}?", { name: dropping.name })} close=${() => setDropping(null)}>
      <div class="buttons"><button type="button" onClick=${() => setDropping(null)}>${t("Keep it")}</button><${Action} class="danger" work=${drop}>${t("Delete")}<//></div><//>`}
  </div>`;
}

export function SavePreset({ what, presets, load, params }) {
  const may = useMay();
  const [open, setOpen] = useState(false);
  const [wrong, setWrong] = useState("");
  if (!presets || !may("submit")) return null;
  const save = async (event) => {
    event.preventDefault();
    event.stopPropagation(); // the form around this one would run the job
    const name = new FormData(event.target).get("name").trim();
    try {
      await api(pathOf(what, name), { method: "PUT", body: { params } });
      setOpen(false);
      say(t("Saved as {name}", { name }));
      load();
    } catch (error) {
      setWrong(error.errors?.map((each) => each.detail).join(" ") || said(error));
    }
  };
  return html`<button type="button" class="quiet" aria-label=${t("Save as preset")} onClick=${() => (setWrong(""), setOpen(true))}><${Icon} of="save" /><span class="wide-only">${t("Save as preset")}</span></button>
    ${open && html`<${Dialog} title=${t("Save as preset")} close=${() => setOpen(false)}><form class="stack" onSubmit=${save}>
      <label class="field"><span>${t("Name")}</span><input name="name" type="text" required autofocus maxlength=${MOST_CHARACTERS} list="preset-names" autocomplete="off" /></label><datalist id="preset-names">${presets.map((preset) => html`<option key=${preset.name} value=${preset.name}></option>`)}</datalist>
      <p class="muted">${t("What differs from the defaults is kept, for this form. A name that is there is replaced.")}</p><p class="wrong" role="alert">${wrong}</p>
      <div class="buttons"><button class="primary">${t("Save")}</button></div></form><//>`}`;
}
