import { html } from "./view.js";
export const NewJob = () => html`<div class="page"><h1>NewJob</h1></div>`;
