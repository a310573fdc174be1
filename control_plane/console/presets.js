// What somebody keeps of a form under a name: chosen, saved, deleted. The server keeps it for its owner.
import { api, get } from "./api.js";
import { formOf } from "./fields.js";
import { t } from "./messages.js";
import { Action, Dialog, Icon, said, say, useMay } from "./ui.js";
import { html, useEffect, useState } from "./view.js";

const MOST_CHARACTERS = 100;

// `params`: as the form stands; `choose(typed)`: makes the form what was kept.
export function Presets({ what, params, choose }) {
  const may = useMay();
  const [presets, setPresets] = useState(null);
  const [dialog, setDialog] = useState(null); // "save", or the preset that is to be deleted
  const [wrong, setWrong] = useState("");
  const [kind, id] = what.task ? ["task", what.task] : ["pipeline", what.id];
  const path = (name) => `/api/presets/${kind}s/${encodeURIComponent(id)}/${encodeURIComponent(name)}`;
  const load = () => get(`/api/presets?${kind}=${encodeURIComponent(id)}`).then((found) => setPresets(found.presets), () => {});
  useEffect(() => void load(), []);
  if (!presets) return null;
  const save = async (event) => {
    event.preventDefault();
    const name = new FormData(event.target).get("name").trim();
    try {
      await api(path(name), { method: "PUT", body: { params } });
      setDialog(null);
      say(t("Saved as {name}", { name }));
      load();
    } catch (error) {
      setWrong(error.errors?.map((each) => each.detail).join(" ") || said(error));
    }
  };
  const drop = async () => {
    await api(path(dialog.name), { method: "DELETE" });
    setDialog(null);
    await load();
  };
  const isShown = (preset) => JSON.stringify(preset.params) === JSON.stringify(params);
  return html`<div class="presets" role="group" aria-label=${t("Presets")}>
    ${presets.map((preset) => html`<span class="preset" key=${preset.name}><button type="button" class="chip" aria-pressed=${isShown(preset)} onClick=${() => choose(formOf(what.schema, preset.params))}>${preset.name}</button>
      ${may("submit") && html`<button type="button" class="quiet icon-only" aria-label=${t("Delete the preset {name}", { name: preset.name })} onClick=${() => setDialog(preset)}><${Icon} of="close" /></button>`}</span>`)}
    ${may("submit") && html`<button type="button" class="quiet" onClick=${() => (setWrong(""), setDialog("save"))}><${Icon} of="save" />${t("Save as preset")}</button>`}
    ${dialog === "save" && html`<${Dialog} title=${t("Save as preset")} close=${() => setDialog(null)}><form class="stack" onSubmit=${save}>
      <label class="field"><span>${t("Name")}</span><input name="name" type="text" required autofocus maxlength=${MOST_CHARACTERS} list="preset-names" autocomplete="off" /></label><datalist id="preset-names">${presets.map((preset) => html`<option key=${preset.name} value=${preset.name}></option>`)}</datalist>
      <p class="muted">${t("What differs from the defaults is kept, for this form. A name that is there is replaced.")}</p><p class="wrong" role="alert">${wrong}</p>
      <div class="buttons"><button class="primary">${t("Save")}</button></div></form><//>`}
    ${dialog?.name && html`<${Dialog} title=${t("Delete the preset {name}?", { name: dialog.name })} close=${() => setDialog(null)}>
      <div class="buttons"><button type="button" onClick=${() => setDialog(null)}>${t("Keep it")}</button><${Action} class="danger" work=${drop}>${t("Delete")}<//></div><//>`}
  </div>`;
}
