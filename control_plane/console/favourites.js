// The files that somebody wants to find again. The server keeps them for their owner; what was pressed here is shown at once.
import { api, get } from "./api.js";
import { said, say } from "./ui.js";
import { changes } from "./view.js";

const path = (meta) => `/api/favourites/${encodeURIComponent(meta.bucket)}/${meta.key.split("/").map(encodeURIComponent).join("/")}`;

const MOST = 500;

class Favourites {
  constructor() {
    Object.assign(this, changes());
    this.pressed = new Map(); // name → whether it is one now
    this.version = 0;
  }

  has(meta) {
    return this.pressed.get(`${meta.bucket}/${meta.key}`) ?? Boolean(meta.favourite);
  }

  // A list says it of its files; of a single file, ask those of its bucket.
  async ask(meta) {
    const found = await get(`/api/artifacts?${new URLSearchParams({ favourite: "true", bucket: meta.bucket, limit: MOST })}`);
    for (const each of found.artifacts) if (!this.pressed.has(`${each.bucket}/${each.key}`)) this.set(each, true);
  }

  async toggle(meta) {
    const wanted = !this.has(meta);
    this.set(meta, wanted);
    try {
      await api(path(meta), { method: wanted ? "PUT" : "DELETE" });
    } catch (error) {
      this.set(meta, !wanted);
      say(said(error), "wrong");
    }
  }

  set(meta, is) {
    this.pressed.set(`${meta.bucket}/${meta.key}`, is);
    this.version += 1;
    this.tell();
  }
}

export const favourites = new Favourites();
