// How large a picture is, read from the start of its file: a few kilobytes may hold a hundred megapixels, which no page should decode.
import { bytesPath } from "./api.js";
import { useEffect, useState } from "./view.js";

export const MOST_PIXELS = 40e6;
const HEAD = 4096;
const HEAD_JPEG = 65_536; // what a camera writes of itself comes before its size
const SMALL_JPEG = 400_000; // bytes; eight by eight pixels take six bits or more, so it has fewer than MOST_PIXELS
const JPEG = /\.jpe?g$/i;

const be16 = (view, at) => view.getUint16(at);
const le24 = (view, at) => view.getUint8(at) | (view.getUint8(at + 1) << 8) | (view.getUint8(at + 2) << 16);
const word = (view, at) => String.fromCharCode(...Array.from({ length: 4 }, (_, index) => view.getUint8(at + index)));

// {width, height}, or null where the bytes do not tell.
export function sizeIn(buffer) {
  const view = new DataView(buffer);
  try {
    if (view.getUint32(0) === 0x89504e47) return { width: view.getUint32(16), height: view.getUint32(20) };
    if (be16(view, 0) === 0xffd8) return ofJpeg(view);
    if (word(view, 0) === "GIF8") return { width: view.getUint16(6, true), height: view.getUint16(8, true) };
    if (word(view, 0).startsWith("BM")) return { width: view.getInt32(18, true), height: Math.abs(view.getInt32(22, true)) };
    if (word(view, 0) === "RIFF" && word(view, 8) === "WEBP") return ofWebp(view);
    return word(view, 4) === "ftyp" ? ofAvif(view) : null;
  } catch {
    return null; // the file is shorter than its kind has to be
  }
}

function ofJpeg(view) {
  for (let at = 2; ; at += 2 + be16(view, at + 2)) {
    const marker = view.getUint8(at + 1);
    if (view.getUint8(at) !== 0xff) return null;
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return { height: be16(view, at + 5), width: be16(view, at + 7) };
  }
}

function ofWebp(view) {
  const kind = word(view, 12);
  if (kind === "VP8X") return { width: 1 + le24(view, 24), height: 1 + le24(view, 27) };
  if (kind === "VP8L") {
    const bits = view.getUint32(21, true);
    return { width: 1 + (bits & 0x3fff), height: 1 + ((bits >> 14) & 0x3fff) };
  }
  return kind === "VP8 " ? { width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff } : null;
}

function ofAvif(view) {
  for (let at = 0; at + 16 <= view.byteLength; at += 1) if (view.getUint32(at) === 0x69737065) return { width: view.getUint32(at + 8), height: view.getUint32(at + 12) };
  return null;
}

const isJpeg = (meta) => JPEG.test(meta.key) || meta.content_type === "image/jpeg";
const measured = new Map(); // a key is written once, but for previews, which are small

async function measure(meta) {
  const answer = await fetch(bytesPath(meta), { headers: { Range: `bytes=0-${(isJpeg(meta) ? HEAD_JPEG : HEAD) - 1}` } });
  return answer.status === 206 ? sizeIn(await answer.arrayBuffer()) : null;
}

export const isHuge = (size) => Boolean(size) && size.width * size.height > MOST_PIXELS;

// {width, height}; null: it has not to be known, or cannot be; undefined: not yet.
export function usePixels(meta) {
  const needless = !meta || (isJpeg(meta) && meta.size_bytes <= SMALL_JPEG);
  const name = meta && `${meta.bucket}/${meta.key}`;
  const [known, setKnown] = useState({});
  useEffect(() => {
    if (needless) return undefined;
    let ended = false;
    if (!measured.has(name)) measured.set(name, measure(meta).catch(() => (measured.delete(name), null)));
    Promise.resolve(measured.get(name)).then((size) => {
      if (measured.has(name)) measured.set(name, size);
      return ended || setKnown({ name, size });
    });
    return () => (ended = true);
  }, [name, needless]);
  if (needless) return null;
  const held = measured.get(name);
  if (held !== undefined && !(held instanceof Promise)) return held;
  return known.name === name ? known.size : undefined;
}
