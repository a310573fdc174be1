// What people read, in the language of their browser. The English text is the key; every other language is one file in messages/ that maps
// it, and a text that a file lacks stays English. A test keeps those files complete.

const FILES = { de: () => import("./messages/de.js") };

export const language = (navigator.languages ?? [navigator.language]).map((each) => each.slice(0, 2)).find((each) => each === "en" || each in FILES) ?? "en";

const texts = language in FILES ? (await FILES[language]()).default : {};
document.documentElement.lang = language;

const found = (text) => (Object.hasOwn(texts, text) ? texts[text] : text);

// `{name}` in the text stands for `values.name`.
export function t(text, values) {
  const said = found(text);
  return values ? said.replace(/\{(\w+)\}/g, (whole, name) => (Object.hasOwn(values, name) ? String(values[name]) : whole)) : said;
}

// `{n}` stands for the count as people write it.
export const tn = (count, one, many, values) => t(count === 1 ? one : many, { n: count.toLocaleString(), ...values });

// What the server has written: translated where the file knows it, else as it came.
export const served = (text) => found(text ?? "");
