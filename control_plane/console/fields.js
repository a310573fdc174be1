// How a JSON schema becomes fields: what kind each is, how it is called, and how what was typed becomes parameters. No field is drawn here.
// A field holds what was typed: numbers as text, JSON as text, lists and objects as they are. `read` makes parameters of it.
import { served, t } from "./messages.js";
import { isLarge, parse, typedNumber } from "./numbers.js";

// A schema without its alternative of null; several lists of choices are one.
export function plain(schema) {
  if (!Array.isArray(schema?.anyOf)) {
    if (!Array.isArray(schema?.type)) return schema ?? {};
    const types = schema.type.filter((each) => each !== "null");
    return types.length === 1 ? { ...schema, type: types[0], nullable: true } : schema;
  }
  const { anyOf, ...around } = schema;
  const parts = anyOf.map(plain).filter((each) => each.type !== "null");
  if (parts.length && parts.every((each) => each.enum)) return { ...around, enum: parts.flatMap((each) => each.enum) };
  const files = parts.find((each) => each.type === "array" && isArtifact(plain(each.items)));
  if (files && parts.every((each) => each === files || isArtifact(each))) return { ...around, ...files, one: parts.length > 1 }; // files, or one that stands for all
  if (parts.length !== 1) return around;
  const { title: structName, description, ...part } = parts[0];
  return { description, ...part, ...around, nullable: true };
}

export const isArtifact = (schema) => Boolean(schema?.["x-artifact"]);
export const isLocal = (value) => typeof value?.local === "string";

export function kindOf(schema) {
  const each = plain(schema);
  if (isArtifact(each)) return "file";
  if (each.enum) return "choice";
  if (each.type === "boolean") return "switch";
  if (each.type === "integer" || each.type === "number") return "number";
  if (each.type === "string") return "text";
  if (each.type === "array") return each["x-places"] ? "places" : kindOfList(plain(each.items));
  if (each.type === "object" && Object.keys(each.properties ?? {}).length) return kindOfObject(each.properties);
  return each.type === "object" && isArtifact(plain(each.additionalProperties)) ? "filemap" : "json";
}

const MOST_COLUMNS = 5; // of a list that is written as a table

function kindOfList(items) {
  if (isArtifact(items)) return "files";
  if (items.enum) return "ticks";
  if (items.type === "string") return "lines";
  const properties = items.type === "object" ? Object.values(items.properties ?? {}) : [];
  if (properties.some((each) => kindOf(each) === "file")) return "list";
  return properties.length && properties.length <= MOST_COLUMNS && properties.every((each) => ["text", "number"].includes(kindOf(each))) ? "rows" : "json";
}

const isNumber = (schema) => ["number", "integer"].includes(plain(schema).type);

function kindOfObject(properties) {
  const names = Object.keys(properties);
  if (names.length === 3 && ["x", "y", "width"].every((name) => name in properties && isNumber(properties[name]))) return "mouth";
  const bounded = Object.values(properties).map(plain).every((each) => isNumber(each) && "minimum" in each && "maximum" in each);
  return bounded ? "sliders" : "object";
}

const UNITS = [[/ mi b$/, " (MiB)"], [/ gi b$/, " (GiB)"], [/ db$/, " (dB)"], [/^fps$/, "frames per second"], [/ id$/, " ID"]];
const STRUCT = /^[A-Z][a-z0-9]*([A-Z][a-z0-9]*)+$/; // the name of a struct is no title

// How a field is called: as its schema says, else by its name.
export function titleOf(name, schema) {
  const said = schema?.title ?? plain(schema).title;
  if (said && !STRUCT.test(said)) return served(said);
  let words = name.replace(/([a-z0-9])([A-Z])/g, "$1 $2").replaceAll("_", " ").toLowerCase();
  for (const [unit, written] of UNITS) words = words.replace(unit, written);
  return words.replace(/^./, (first) => first.toUpperCase());
}

const written = (bound) => (bound === undefined || isLarge(bound) || Math.abs(bound) >= 2 ** 53 ? undefined : bound);

export function limitsOf(schema) {
  const each = plain(schema);
  const least = written(each.minimum ?? each.exclusiveMinimum);
  const most = written(each.maximum ?? each.exclusiveMaximum);
  const said = [];
  if (least !== undefined && most !== undefined) said.push(each.exclusiveMinimum !== undefined ? t("more than {least}, at most {most}", { least, most }) : t("{least} to {most}", { least, most }));
  else if (least !== undefined) said.push(each.exclusiveMinimum !== undefined ? t("more than {least}", { least }) : t("{least} or more", { least }));
  else if (most !== undefined) said.push(t("at most {most}", { most }));
  if (each.multipleOf) said.push(t("in steps of {step}", { step: each.multipleOf }));
  if (each.maxLength > 4000) said.push(t("at most {most} characters", { most: each.maxLength.toLocaleString() }));
  if (each.maxItems && kindOf(each) !== "ticks") said.push(t("at most {most}", { most: each.maxItems.toLocaleString() }));
  return said.join(", ");
}

export const propertiesOf = (schema) => Object.entries(plain(schema).properties ?? {});
export const isRequired = (schema, name) => (plain(schema).required ?? []).includes(name);

// What a field holds for a value.
export function typedOf(schema, value, beside = {}) {
  if (value === undefined || value === null) return undefined;
  const each = plain(schema);
  const kind = kindOf(each);
  if (kind === "json") return JSON.stringify(value, null, 1);
  if (kind === "filemap") return Object.entries(value).map(([name, file]) => ({ name, file }));
  if (kind === "files" && !Array.isArray(value)) return [value];
  if (kind === "places") return placed(each["x-places"], value, beside);
  if (kind === "list" || kind === "rows") return Array.isArray(value) ? value.map((item) => objectTyped(each.items, item)) : undefined;
  if (kind === "object") return objectTyped(each, value);
  return value;
}

// What tells one file from another.
export const nameOfFile = (reference) => (isLocal(reference) ? `local/${reference.local}` : `${reference.bucket}/${reference.key}`);

// The places of a list as names of files: a file may go, and the others stay with theirs.
function placed({ of, in: among }, value, beside) {
  const name = (place) => (place === null || !beside[among]?.[place] ? "" : nameOfFile(beside[among][place]));
  return Object.fromEntries((beside[of] ?? []).slice(0, value.length).map((file, index) => [nameOfFile(file), name(value[index])]));
}

function objectTyped(schema, value) {
  const typed = {};
  for (const [name, each] of propertiesOf(schema)) {
    const held = typedOf(each, value?.[name] ?? each.default, value ?? {});
    if (held !== undefined) typed[name] = held;
  }
  return typed;
}

// The fields of a whole form with the given parameters, or with its defaults.
export const formOf = (schema, params = {}) => objectTyped(schema, params);

// { params, wrong: {pointer: sentence} }: what is sent, and what cannot even be sent. What is as it is by default is left out.
export function valuesOf(schema, typed) {
  const wrong = {};
  const params = readObject(schema, typed, "", wrong) ?? {};
  return { params, wrong };
}

function readObject(schema, typed, pointer, wrong) {
  const made = {};
  for (const [name, each] of propertiesOf(schema)) {
    const at = `${pointer}/${name}`;
    const value = read(each, typed?.[name], at, wrong, typed);
    const required = isRequired(schema, name);
    if (value === undefined) {
      if (required && !wrong[at]) wrong[at] = t("Required.");
    } else if (required || !("default" in each) || JSON.stringify(value) !== JSON.stringify(each.default)) made[name] = value;
  }
  return Object.keys(made).length ? made : undefined;
}

function read(schema, value, pointer, wrong, beside) {
  const each = plain(schema);
  const kind = kindOf(each);
  if (value === undefined || value === null || value === "" || (Array.isArray(value) && !value.length && !each.default?.length)) return undefined;
  if (kind === "number") return readNumber(value, pointer, wrong);
  if (kind === "json") return readJson(value, pointer, wrong);
  if (kind === "lines") return value.filter((line) => line.trim());
  if (kind === "filemap") return readMap(value, pointer, wrong);
  if (kind === "files" && each.one && value.length === 1 && isLocal(value[0])) return value[0];
  if (kind === "places") return readPlaces(each["x-places"], value, beside, pointer, wrong);
  if (kind === "list" || kind === "rows") return value.map((item, index) => readObject(each.items, item, `${pointer}/${index}`, wrong) ?? {});
  if (kind === "object" || kind === "sliders") return readObject(each, value, pointer, wrong);
  return value;
}

function readMap(rows, pointer, wrong) {
  const names = rows.map((row) => row.name.trim());
  const twice = names.find((name, index) => names.indexOf(name) < index);
  if (names.includes("")) wrong[pointer] = t("Every file needs a name.");
  else if (twice !== undefined) wrong[pointer] = t("Two files are called {name}.", { name: twice });
  return Object.fromEntries(rows.map((row, index) => [names[index], row.file]));
}

function readPlaces({ of, in: among }, value, beside, pointer, wrong) {
  const files = (beside?.[of] ?? []).map(nameOfFile);
  const choices = (beside?.[among] ?? []).map(nameOfFile);
  const told = files.filter((name) => Object.hasOwn(value, name) && (value[name] === "" || choices.includes(value[name])));
  if (!told.length) return undefined;
  if (told.length < files.length) wrong[pointer] = t("Choose for every one of them, or for none.");
  return files.map((name) => (choices.includes(value[name]) ? choices.indexOf(value[name]) : null));
}

function readNumber(value, pointer, wrong) {
  if (isLarge(value) || !Number.isNaN(Number(value))) return typedNumber(value);
  wrong[pointer] = t("Enter a number.");
  return undefined;
}

function readJson(value, pointer, wrong) {
  try {
    return parse(value);
  } catch {
    wrong[pointer] = t("This is not JSON; text needs double quotes.");
    return undefined;
  }
}

// Which files a field takes -----------------------------------------------------------------------------------------------

const IMAGES = /\.(png|jpe?g|webp|gif|avif|bmp|tiff?)$/i;
const SOUNDS = /\.(wav|flac|mp3|ogg|m4a|opus|aac)$/i;
const VIDEOS = /\.(mp4|webm|mov|mkv)$/i;

// What a description says that it wants, where a schema has no media types: the first that fits.
const WORDS = [
  [/recording.*(trained|voice)|(trained|voice).*recording/i, ["audio/*", ".safetensors"]],
  [/safetensors|adapter|trained|\bweights|voice that|a voice of|model trained|checkpoint/i, [".safetensors"]],
  [/tokenizer|config/i, [".json"]],
  [/jsonl|dataset/i, [".txt", ".jsonl", ".json", ".csv"]],
  [/picture|image|photo|portrait|drawing/i, ["image/*"]],
  [/recording|narration|speech|speaker|sound|wav|flac|audio/i, ["audio/*"]],
  [/video|film|mp4/i, ["video/*"]],
];

// { accept: [type or suffix], bucket, format }; an empty `accept` takes every file.
export function wantedOf(schema, name = "") {
  const each = plain(schema);
  const mark = each["x-artifact"] ?? plain(each.items)["x-artifact"];
  if (mark && typeof mark === "object") {
    const accept = typeof mark.accept === "string" ? mark.accept.split(",").map((part) => part.trim()) : mark.accept ?? [];
    return { accept: accept.filter(Boolean), bucket: mark.bucket, format: mark.format };
  }
  const said = `${name} ${each.description ?? ""} ${each.items?.description ?? ""}`;
  return { accept: WORDS.find(([words]) => words.test(said))?.[1] ?? [] };
}

const isExampleOfOther = (format, key) => /^examples\//.test(key) && !key.startsWith(`examples/${format}.`) && /\.(safetensors|json|jsonl)$/i.test(key);

export function takes(wanted, { name, type = "", bucket }) {
  if (wanted.format && /\.safetensors$/i.test(name) && bucket && bucket !== wanted.bucket && bucket !== "inputs") return false; // a look is no voice, though both are tensors
  if (wanted.format && isExampleOfOther(wanted.format, name)) return false;
  if (!wanted.accept.length) return true;
  const main = IMAGES.test(name) ? "image" : SOUNDS.test(name) ? "audio" : VIDEOS.test(name) ? "video" : type.split("/")[0];
  return wanted.accept.some((each) => {
    if (each.startsWith(".")) return name.toLowerCase().endsWith(each);
    return each.endsWith("/*") ? main === each.slice(0, -2) : type === each;
  });
}
