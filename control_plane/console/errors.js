// What went wrong and what cures it: the cure, which the server names, is the first button.
import { titleOf } from "./fields.js";
import { served, t, tn } from "./messages.js";
import { Action, Copy, Icon, Tree } from "./ui.js";
import { html } from "./view.js";
import { Link } from "./router.js";

const FIRST = { change_inputs: "change", retry: "retry", resume: "resume", wait: "resume", free_space: "resume", ask_operator: "resume" };

// `remedies`: {change: address, retry(), restart()}.
export function Errors({ job, failed, select, remedies }) {
  const shown = failed.slice(0, 5);
  const first = failed[0]?.error ?? job.error;
  return html`<section class="errors" aria-label=${t("What went wrong")}>
    ${shown.map((node) => html`<${Wrong} key=${node.id} error=${node.error} at=${html`<button type="button" class="quiet" onClick=${() => select(node.id)}>${node.definition.name || node.id}</button>`} />`)}
    ${failed.length > shown.length && html`<p>${tn(failed.length - shown.length, "{n} more node failed.", "{n} more nodes failed.")}</p>`}
    ${!failed.length && job.error && html`<${Wrong} error=${job.error} at=${job.error.nodeId} />`}
    ${first && (job.status === "failed" || job.status === "cancelled") && html`<${Remedies} error=${first} ...${remedies} />`}
  </section>`;
}

function Remedies({ error, change, retry, restart }) {
  const cure = FIRST[error.remedy?.class] ?? "retry";
  const param = error.remedy?.param;
  const inputs = html`<${Link} key="change" class="button ${cure === "change" ? "primary" : ""}" href=${change + (param ? `&field=${encodeURIComponent(param)}` : "")}><${Icon} of="edit" />${param ? t("Change {field}", { field: titleOf(param) }) : t("Change the inputs")}<//>`;
  const again = html`<${Action} key="retry" class=${cure === "change" ? "" : "primary"} work=${retry}><${Icon} of="again" />${cure === "resume" ? t("Resume") : t("Retry")}<//>`;
  return html`<div class="buttons remedies">${cure === "change" ? [inputs, again] : [again, inputs]}
    <${Action} class="quiet" work=${restart}>${t("Retry from the start")}<//></div>`;
}

export function Wrong({ error, at }) {
  const { traceback, stderr, ...details } = error.details ?? {};
  const long = Object.entries({ traceback, stderr }).filter(([, text]) => text);
  const asText = (text) => (typeof text === "string" ? text : JSON.stringify(text, null, 2));
  return html`<div class="wrong-one">
    <p><code class="code">${error.code}</code> ${at} <span class="wrong-text">${error.message}</span></p>
    ${error.remedy && html`<p class="advice">${served(error.remedy.advice)}</p>`}
    ${long.map(([name, text]) => html`<details key=${name}><summary>${name === "stderr" ? t("End of its stderr") : t("Traceback")}</summary><div class="with-tool"><${Copy} text=${asText(text)} /><pre tabindex="0" role="region" aria-label=${name === "stderr" ? t("End of its stderr") : t("Traceback")}>${asText(text)}</pre></div></details>`)}
    ${Object.keys(details).length > 0 && html`<${Tree} value=${details} />`}
  </div>`;
}
