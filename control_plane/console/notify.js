// What is seen and heard of a job when its page is not looked at: the tab's title and icon, and a notification when it has ended.
import { root } from "./api.js";
import { nameOf, percent, STATUS } from "./format.js";
import { t } from "./messages.js";
import { to } from "./router.js";
import { changes } from "./view.js";

const SIDE = 32;
const MARK = `${root}/console/mark.svg`;
const TONES = { completed: "#19733c", failed: "#b3261e", cancelled: "#63676f" };

export const wish = { ...changes(), on: wanted() };

function wanted() {
  try {
    return localStorage.getItem("notify") === "on" && globalThis.Notification?.permission === "granted";
  } catch {
    return false;
  }
}

export const canNotify = () => "Notification" in globalThis;

// Asks the browser where it has not been asked; answers whether notifications will come.
export async function toggleNotifications() {
  const on = !wish.on && (Notification.permission === "granted" || (await Notification.requestPermission()) === "granted");
  const refused = !wish.on && !on;
  wish.on = on;
  try {
    localStorage.setItem("notify", on ? "on" : "off");
  } catch {
    // it is kept until the tab is closed
  }
  wish.tell();
  return !refused;
}

// A job that this page watched has ended.
export function hasEnded(job) {
  if (!wish.on || (!document.hidden && document.hasFocus() && location.pathname === to.job(job.jobId))) return;
  const note = new Notification(nameOf(job), { body: job.error ? `${STATUS[job.status] ?? job.status}: ${job.error.message}` : STATUS[job.status] ?? job.status, tag: job.jobId, icon: MARK });
  note.onclick = () => {
    focus();
    location.assign(to.job(job.jobId));
  };
}

let drawn = "";

// Without a job the tab is as it was.
export function showInTab(job) {
  const link = document.querySelector("link[rel=icon]");
  if (!job) {
    if (drawn) setIcon(link, MARK, "image/svg+xml");
    drawn = "";
    return;
  }
  const running = job.status === "running";
  document.title = `${running ? `${percent(job.progress)} · ` : job.status === "failed" ? `${t("failed")} · ` : ""}${nameOf(job)} · Dihedral`;
  const state = running ? `r${Math.round(job.progress * 20)}` : job.status;
  if (state === drawn) return;
  drawn = state;
  ring(running ? job.progress : null, TONES[job.status]).then((url) => url && drawn === state && setIcon(link, url, "image/png"));
}

function setIcon(link, url, type) {
  if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
  link.type = type;
  link.href = url;
}

// The mark's ring: as full as the job is, or whole in the colour of its end.
async function ring(part, tone) {
  if (part === null && !tone) return MARK;
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  const pen = canvas.getContext("2d");
  const arc = (to, colour) => {
    pen.beginPath();
    pen.strokeStyle = colour;
    pen.lineWidth = 6;
    pen.arc(SIDE / 2, SIDE / 2, SIDE / 2 - 4, -Math.PI / 2, -Math.PI / 2 + to * 2 * Math.PI);
    pen.stroke();
  };
  arc(1, tone ?? "#9995");
  if (part !== null) arc(part, "#4452cc");
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return blob && URL.createObjectURL(blob);
}
