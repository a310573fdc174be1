import { html } from "./view.js";
export const ArtifactList = () => html`<div class="page"><h1>ArtifactList</h1></div>`;
export const ArtifactPage = () => html`<div class="page"><h1>ArtifactPage</h1></div>`;
