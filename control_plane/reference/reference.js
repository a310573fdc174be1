// The API reference: RapiDoc over the OpenAPI document of this server. It may load from this origin only, and sends requests with the session of this browser.
import "./rapidoc.js";

const root = new URL(".", import.meta.url).pathname.replace(/\/docs\/$/, "");
const dark = matchMedia("(prefers-color-scheme: dark)");

// The console's choice of a theme, if there is one, is that of this page too.
function theme() {
  let chosen = "";
  try {
    chosen = localStorage.getItem("theme") ?? "";
  } catch {
    // a browser that keeps nothing has the system's
  }
  return chosen === "light" || chosen === "dark" ? chosen : dark.matches ? "dark" : "light";
}

const fixed = {
  "spec-url": `${root}/schema`, "server-url": `${location.origin}${root}`, "render-style": matchMedia("(min-width: 800px)").matches ? "focused" : "view", "schema-style": "table",
  "load-fonts": "false", "regular-font": "system-ui, sans-serif", "mono-font": "ui-monospace, monospace", "primary-color": "#3566d6",
  "show-header": "false", "show-components": "true", "allow-server-selection": "false", "allow-spec-url-load": "false", "allow-spec-file-load": "false",
  "fetch-credentials": "same-origin", "persist-auth": "false", "use-path-in-nav-bar": "false", "show-method-in-nav-bar": "as-colored-text",
  "sort-endpoints-by": "none", "allow-authentication": "true",
};

// The key that this tab signed in with, if it did.
function key() {
  try {
    return sessionStorage.getItem("key") ?? "";
  } catch {
    return "";
  }
}

const viewer = document.createElement("rapi-doc");
for (const [name, value] of Object.entries(fixed)) viewer.setAttribute(name, value);
function wear() {
  const isDark = theme() === "dark";
  viewer.setAttribute("theme", isDark ? "dark" : "light");
  viewer.setAttribute("bg-color", isDark ? "#14161a" : "#ffffff");
  viewer.setAttribute("text-color", isDark ? "#e4e6ea" : "#1d2129");
  viewer.setAttribute("nav-bg-color", isDark ? "#1b1e24" : "#f4f5f7");
  viewer.setAttribute("nav-text-color", isDark ? "#c9cdd4" : "#3a404a");
}
viewer.addEventListener("spec-loaded", () => key() && viewer.setApiKey("apiKey", key()));
wear();
dark.addEventListener("change", wear);
const back = document.createElement("a");
back.slot = "nav-logo";
back.href = `${root}/`;
back.className = "back";
back.textContent = "← Console";
viewer.append(back);
document.querySelector("main").append(viewer);
