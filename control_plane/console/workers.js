import { html } from "./view.js";
export const Workers = () => html`<div class="page"><h1>Workers</h1></div>`;
