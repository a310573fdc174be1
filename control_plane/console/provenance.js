// Which request made a file: read in the browser from what the file itself says, so that an output dropped on the page restores its form.
import { parse } from "./numbers.js";

const HEAD_BYTES = 8e6;
const MOST_BYTES = 16 * 1024;
const KEY = "dihedral";
const MARK = '{"dihedral":';

// { pipeline | task | graph, params, jobId, leftOut } or null. Anyone can write it into a file, so it has to have the types that its readers expect.
export async function readProvenance(file) {
  const bytes = new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer());
  const tail = file.size > HEAD_BYTES ? new Uint8Array(await file.slice(Math.max(HEAD_BYTES, file.size - HEAD_BYTES)).arrayBuffer()) : null;
  const text = readPng(bytes) ?? readSafetensors(bytes) ?? (tail && readAround(tail)) ?? readAround(bytes);
  if (!text || text.length > MOST_BYTES) return null;
  const said = parse(text);
  const types = { pipeline: "string", task: "string", jobId: "string", params: "object", graph: "object", leftOut: "object" };
  if (!Object.entries(types).every(([name, type]) => said[name] === undefined || (said[name] !== null && typeof said[name] === type))) return null;
  return said.pipeline || said.task || said.graph ? said : null;
}

const ascii = new TextDecoder("latin1");
const utf8 = new TextDecoder();

// A text chunk of that name.
function readPng(bytes) {
  if (ascii.decode(bytes.subarray(1, 4)) !== "PNG") return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 8; at + 8 < bytes.length; ) {
    const length = view.getUint32(at);
    const kind = ascii.decode(bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    const end = data.indexOf(0);
    if ((kind === "tEXt" || kind === "iTXt") && ascii.decode(data.subarray(0, end)) === KEY) {
      const skip = kind === "tEXt" ? end + 1 : data.indexOf(0, data.indexOf(0, end + 3) + 1) + 1;
      return utf8.decode(data.subarray(skip));
    }
    if (kind === "IEND") return null;
    at += 12 + length;
  }
  return null;
}

function readSafetensors(bytes) {
  if (bytes.length < 10 || bytes[8] !== 0x7b) return null;
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true));
  if (length > bytes.length - 8) return null;
  try {
    const notes = JSON.parse(utf8.decode(bytes.subarray(8, 8 + length))).__metadata__;
    return notes && Object.hasOwn(notes, KEY) ? notes[KEY] : null;
  } catch {
    return null;
  }
}

// MP4 and WAV keep it as a comment: the JSON that follows the mark, up to its closing brace. The last one counts: a file may be a copy of another.
function readAround(bytes) {
  const text = ascii.decode(bytes);
  let found = null;
  for (let at = text.indexOf(MARK), tries = 0; at >= 0 && tries < 16; tries += 1) {
    const end = endOf(text, at);
    if (end) found = utf8.decode(bytes.subarray(at, end));
    at = text.indexOf(MARK, end || at + MARK.length);
  }
  return found;
}

// Behind the closing brace of the object that begins there; 0 where it has none.
function endOf(text, start) {
  let [depth, quoted] = [0, false];
  for (let at = start; at < Math.min(text.length, start + MOST_BYTES); at += 1) {
    const sign = text[at];
    if (sign === "\\" && quoted) at += 1;
    else if (sign === '"') quoted = !quoted;
    else if (!quoted && sign === "{") depth += 1;
    else if (!quoted && sign === "}" && --depth === 0) return at + 1;
  }
  return 0;
}
