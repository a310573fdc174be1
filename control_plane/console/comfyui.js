// A ComfyUI workflow as a form: its literal inputs are the fields, those that people change first.
import { t } from "./messages.js";

const ARTIFACT = (accept) => ({ type: "object", "x-artifact": { accept }, required: ["bucket", "key"], properties: { bucket: { type: "string" }, key: { type: "string" } } });
const LOADERS = { image: ["image/*"], audio: ["audio/*"], video: ["video/*"], file: ["video/*"] };
const MODELS = /^(ckpt|lora|vae|unet|clip|control_net|model|style_model|upscale_model)(_name)?\d*$|_name$/;
const SEEDS = /^(noise_)?seed$/;
const SIZES = /^(width|height|steps|cfg|denoise|strength.*|batch_size|fps|length|frame_rate)$/;
const OUTPUTS = /^filename_prefix$/;

const isLink = (value) => Array.isArray(value) && value.length === 2 && typeof value[0] === "string" && Number.isInteger(value[1]);
const isUpload = (node, name) => /^Load/.test(node.class_type) && name in LOADERS;

// What FormJob wants.
export function workflowForm({ name, workflow }) {
  const properties = {};
  const required = [];
  for (const [id, node] of Object.entries(workflow)) {
    for (const [input, value] of Object.entries(node.inputs ?? {})) {
      if (isLink(value) || value === null || typeof value === "object") continue;
      const key = `${id}.${input}`;
      properties[key] = fieldOf(node, id, input, value);
      if (properties[key]["x-artifact"]) required.push(key);
    }
  }
  const ranked = Object.fromEntries(Object.entries(properties).sort(([, a], [, b]) => a.rank - b.rank));
  const groups = { 0: t("Inputs"), 1: t("Inputs"), 2: t("Inputs"), 4: t("Models"), 5: t("Size and steps"), 6: t("Everything else") };
  for (const each of Object.values(ranked)) {
    if (groups[each.rank]) each["x-group"] = groups[each.rank];
    delete each.rank;
  }
  return {
    id: `comfyui ${name} ${Object.keys(workflow).length}`, label: name.replace(/\.json$/i, ""), description: t("A ComfyUI workflow of {n} nodes", { n: Object.keys(workflow).length }),
    schema: { type: "object", properties: ranked, required: [] }, graph: { nodes: [{ id: "run_comfyui", task: "run_comfyui", plane: "python", name }], edges: [] },
    body: (params) => {
      const files = Object.fromEntries(Object.entries(params).filter(([key]) => required.includes(key)));
      const values = Object.fromEntries(Object.entries(params).filter(([key]) => !required.includes(key)));
      return { task: "run_comfyui", params: { workflow, ...(Object.keys(values).length ? { values } : {}), ...(Object.keys(files).length ? { files } : {}) } };
    },
    pointerOf: (pointer) => /^\/params\/(?:values|files)(\/[^/]+)/.exec(pointer)?.[1],
  };
}

function fieldOf(node, id, input, value) {
  const called = node._meta?.title || node.class_type;
  const title = `${called}: ${input.replaceAll("_", " ")}`;
  const said = { title, description: t("node {id}, {kind}", { id, kind: node.class_type }) };
  if (isUpload(node, input)) return { ...ARTIFACT(LOADERS[input]), ...said, description: t("in place of {file}", { file: String(value) }), rank: 1 };
  if (typeof value === "boolean") return { ...said, type: "boolean", default: value, rank: 6 };
  if (typeof value === "number" || JSON.isRawJSON?.(value)) {
    const isWhole = JSON.isRawJSON?.(value) || Number.isInteger(value);
    return { ...said, type: isWhole && !/cfg|denoise|strength/.test(input) ? "integer" : "number", default: value, rank: SEEDS.test(input) ? 2 : SIZES.test(input) ? 5 : 6 };
  }
  if (MODELS.test(input)) return { ...said, type: "string", maxLength: 200, default: value, rank: 4 };
  const isProse = /text|prompt/i.test(input) || /\s/.test(value);
  return { ...said, type: "string", maxLength: isProse ? 20000 : 200, default: value, rank: isProse && !OUTPUTS.test(input) ? 0 : 6 };
}
