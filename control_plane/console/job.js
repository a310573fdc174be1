import { html } from "./view.js";
export const JobPage = () => html`<div class="page"><h1>JobPage</h1></div>`;
