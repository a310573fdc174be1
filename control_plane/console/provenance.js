// Which request made a file: read in the browser from what the file itself says, so that an output dropped on the page restores its form.
import { parse } from "./numbers.js";

const HEAD_BYTES = 8e6;
const KEY = "dihedral";

// { pipeline | task | graph, params, name, jobId } or null.
export async function readProvenance(file) {
  const bytes = new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer());
  const tail = file.size > HEAD_BYTES ? new Uint8Array(await file.slice(Math.max(HEAD_BYTES, file.size - HEAD_BYTES)).arrayBuffer()) : null;
  const text = readPng(bytes) ?? readSafetensors(bytes) ?? readAround(bytes) ?? (tail && readAround(tail));
  if (!text) return null;
  const said = parse(text);
  return said !== null && typeof said === "object" && (said.pipeline || said.task || said.graph) ? said : null;
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

// MP4 and WAV keep it as a comment: the JSON that follows the mark, up to its closing brace.
function readAround(bytes) {
  const text = ascii.decode(bytes);
  const mark = text.indexOf('{"dihedral":');
  if (mark < 0) return null;
  let [depth, quoted] = [0, false];
  for (let at = mark; at < text.length; at += 1) {
    const sign = text[at];
    if (sign === "\\" && quoted) at += 1;
    else if (sign === '"') quoted = !quoted;
    else if (!quoted && sign === "{") depth += 1;
    else if (!quoted && sign === "}" && --depth === 0) {
      const whole = JSON.parse(utf8.decode(bytes.subarray(mark, at + 1)));
      return JSON.stringify(typeof whole.dihedral === "object" ? whole.dihedral : whole);
    }
  }
  return null;
}
