// What can be run, as a card with a picture of what comes out: the last one made here, else one that ships, else the mark of its kind.
import { root } from "./api.js";
import { served } from "./messages.js";
import { Link } from "./router.js";
import { Icon } from "./ui.js";
import { html } from "./view.js";
import { kindOf, KIND_ICONS, Thumbnail } from "./viewers.js";

const SHIPPED = new Set(["talking_picture", "narrated_pictures", "speak", "my_voice", "look", "render_video", "train_image_lora", "train_lora", "train_voice", "compare_voice", "simulate"]);

// Pipeline → the newest picture or film that one of these jobs has made.
export function picturesOf(jobs) {
  const found = new Map();
  for (const job of jobs) {
    if (!job.pipeline || found.has(job.pipeline) || job.status !== "completed") continue;
    const picture = job.artifacts.findLast((each) => kindOf(each) === "image") ?? job.artifacts.findLast((each) => kindOf(each) === "video");
    if (picture) found.set(job.pipeline, picture);
  }
  return found;
}

// What comes out of a task or of the last node of a pipeline: video, audio, image, tensors, text or other.
export function outputOf(each, tasks) {
  const last = each.graph?.nodes?.at(-1)?.task;
  const output = (last ? tasks.find((task) => task.id === last) : each)?.io?.output;
  const text = JSON.stringify(output?.properties ? Object.keys(output.properties) : []) + (last ?? each.id);
  if (/video|film/.test(text)) return "video";
  if (/audio|speak/.test(text)) return "audio";
  if (/lora|train|voice/.test(text)) return "tensors";
  return /picture|image/.test(text) ? "image" : "other";
}

export function Card({ href, id, label, text, picture, kind, small, bare }) {
  const icon = KIND_ICONS[kind] ?? (kind === "graph" ? "graph" : "task");
  const shown = SHIPPED.has(id) ? html`<img class="thumb" src="${root}/console/pictures/${id}.webp" alt="" loading="lazy" />` : picture ? html`<${Thumbnail} meta=${picture} />` : html`<span class="thumb blank"><${Icon} of=${icon === "file" ? "task" : icon} /></span>`;
  if (bare) return html`<span class="card-picture">${shown}</span>`;
  return html`<${Link} class="kind ${small ? "small" : ""}" href=${href}>
    ${small ? html`<span class="kind-icon"><${Icon} of=${icon === "file" ? "task" : icon} /></span>` : html`<span class="card-picture">${shown}</span>`}
    <span class="kind-text"><strong>${served(label)}</strong><span class="muted">${served(text)}</span></span><//>`;
}

