// What every view is written with: Preact's functions, `html`, and the hooks that this console adds.
import { Component, createElement, options, render } from "./vendor/preact.js";
import { useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(createElement);

// What would be invisible or would turn the reading direction of its neighbours is written out, as the command line does: controls but tab and newline,
// overrides and isolates of direction, lone surrogates. Every text of the page passes here; values of fields do not.
const UNSAFE = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]|\p{Surrogate}/gu;
const spelled = (char) => {
  const code = char.codePointAt(0);
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
};
const before = options.vnode;
options.vnode = (vnode) => {
  if (vnode.type === null && typeof vnode.props === "string") vnode.props = vnode.props.replace(UNSAFE, spelled);
  before?.(vnode);
};
export { Component, render, useEffect, useLayoutEffect, useMemo, useRef, useState };

// A function that draws the component again, at most once per frame however often it is called.
export function useRedraw() {
  const [, again] = useReducer((n) => n + 1, 0);
  const frame = useRef(0);
  useEffect(() => () => cancelAnimationFrame(frame.current), []);
  return useMemo(() => () => {
    cancelAnimationFrame(frame.current);
    frame.current = requestAnimationFrame(() => again());
  }, []);
}

// Draws the component again whenever the source says so. A source is made by `changes()`.
// It listens before anything else can happen: an effect after the paint would miss what the source says until then.
export function useSource(source) {
  const redraw = useRedraw();
  useLayoutEffect(() => source.listen(redraw), [source]);
}

// Listeners of something that changes.
export function changes() {
  const listeners = new Set();
  return {
    listen(heard) {
      listeners.add(heard);
      return () => listeners.delete(heard);
    },
    tell() {
      for (const heard of [...listeners]) heard();
    },
  };
}

// Calls `work` now and every `ms` while the page can be seen. What `work` throws is its own affair.
export function useEvery(ms, work, inputs = []) {
  useEffect(() => {
    let timer = 0;
    let ended = false;
    async function round() {
      if (!document.hidden) await work().catch(() => {});
      if (!ended && ms) timer = setTimeout(round, ms);
    }
    round();
    const seen = () => {
      if (document.hidden) return;
      clearTimeout(timer);
      round();
    };
    document.addEventListener("visibilitychange", seen);
    return () => {
      ended = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, inputs);
}
