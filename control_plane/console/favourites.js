// The files that the user wants to find again. They are kept in this browser.
import { changes } from "./view.js";

const KEPT = "favourites";
const nameOf = (meta) => `${meta.bucket}/${meta.key}`;

class Favourites {
  constructor() {
    Object.assign(this, changes());
    this.names = new Set();
    this.version = 0;
  }

  load() {
    try {
      this.names = new Set(JSON.parse(localStorage.getItem(KEPT) ?? "[]"));
    } catch {
      this.names = new Set();
    }
    this.changed();
  }

  has(meta) {
    return this.names.has(nameOf(meta));
  }

  toggle(meta) {
    if (!this.names.delete(nameOf(meta))) this.names.add(nameOf(meta));
    try {
      localStorage.setItem(KEPT, JSON.stringify([...this.names]));
    } catch {
      // kept until the tab is closed
    }
    this.changed();
  }

  changed() {
    this.version += 1;
    this.tell();
  }
}

export const favourites = new Favourites();
