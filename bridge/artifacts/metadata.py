"""One text under the key `dihedral` in the metadata of a file: where each format keeps it, how it is put there, how it is found.

| format | place | why there |
|---|---|---|
| PNG | an iTXt chunk behind the header | readers that stop at the pixels have seen it |
| WAV | a LIST INFO chunk at the end, as ICMT (comment) | no byte of the sound moves |
| MP4, MOV, M4A | a `meta` box at the end of the file, as `©cmt` (comment); ISO 14496-12 allows one there | an index that comes first names places in the file, and none moves |
| safetensors | the first entry of `__metadata__` | places of tensors count from the header's end |

Nothing is decoded or encoded again. A file that has not exactly the expected form (a WAV of unknown length, a film with boxes up to the end of the file) stays
as it is. Readers get the beginning and the end of a file, believe no length in it, and answer None for whatever they do not know.
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

KEY = "dihedral"
MARK = b'{"dihedral":'
MAX_BYTES = 16 * 1024
"""Most bytes of the text."""
HEAD_BYTES, TAIL_BYTES = 256 * 1024, 64 * 1024
"""How much of a file's beginning and end a reader looks at."""
HEADER_BYTES = 8 << 20
"""Of a safetensors file's header; larger ones are left alone."""
MAX_PARTS = 1000
"""Chunks or boxes that are looked at."""
MAX_TRIES = 16
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = 33
"""Of the signature and the header chunk of a PNG, whose length is fixed."""

Read = Callable[[int, int], bytes]
"""Returns up to so many bytes (second) from a place (first)."""
Piece = bytes | tuple[int, int]
"""Bytes, or those of the file from a place (first) up to another (second)."""


def pieces(read: Read, size: int) -> Callable[[bytes], list[Piece]] | None:
    """Returns what makes the pieces of the file with a text in it; None where the format has no place for one. `size`: the file's."""
    head = read(0, HEADER_END)
    if head[:8] == SIGNATURE and head[8:16] == b"\0\0\0\x0dIHDR" and size > HEADER_END:
        return lambda text: [(0, HEADER_END), _text_chunk(text), (HEADER_END, size)]
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE" and _u32(head, 4, "<") in (size - 8, size - 9 - size % 2):
        return lambda text: _with_comment(size, text)
    if head[4:8] == b"ftyp":
        return _with_box(read, size)
    if head[8:9] == b"{":
        return _with_entry(read, size)
    return None


def find(head: bytes, tail: bytes, size: int) -> str | None:
    """Returns the text that a file has; None where there is none. `head`, `tail`: its first and last bytes, which may overlap."""
    if head[:8] == SIGNATURE:
        return _find_chunk(head)
    if head[8:9] == b"{" and head[4:8] == b"\0\0\0\0":
        notes = _notes(head[8 : 8 + _u32(head, 0, "<")])
        text = notes[0].get(KEY) if notes is not None else None
        return text if isinstance(text, str) and len(text) <= MAX_BYTES else None
    found = _last_object(tail)
    return found if found is not None or size <= len(tail) else _last_object(head)


# PNG ------------------------------------------------------------------------------------------------------------------


def _text_chunk(text: bytes) -> bytes:
    body = b"iTXt" + KEY.encode() + b"\0\0\0\0\0" + text
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _find_chunk(head: bytes) -> str | None:
    at = 8
    for _ in range(MAX_PARTS):
        length, kind = _u32(head, at, ">"), head[at + 4 : at + 8]
        data = head[at + 8 : at + 8 + min(length, MAX_BYTES + 64)]
        if kind in (b"tEXt", b"iTXt") and data.startswith(KEY.encode() + b"\0") and len(data) == length:
            text = data[len(KEY) + 1 :]
            if kind == b"iTXt":
                if text[:1] != b"\0":  # it is compressed
                    return None
                text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
            return text.decode("utf-8", "replace")
        if len(kind) < 4 or kind == b"IEND":
            return None
        at += 12 + length
    return None


# WAV ------------------------------------------------------------------------------------------------------------------


def _with_comment(size: int, text: bytes) -> list[Piece]:
    """Adds the comment; the length may leave out the byte that makes the last chunk even."""
    comment = text + b"\0" * (2 - len(text) % 2)
    info = b"INFOICMT" + struct.pack("<I", len(comment)) + comment
    more = b"\0" * (size % 2) + b"LIST" + struct.pack("<I", len(info)) + info
    total = size + len(more) - 8
    return [b"RIFF" + struct.pack("<I", total), (8, size), more] if total < 1 << 32 else [(0, size)]


# MP4 ------------------------------------------------------------------------------------------------------------------


def _boxes(read: Read, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields (kind, start, end) of the boxes of a file; ends early where one of them has no proper length."""
    at = 0
    for _ in range(MAX_PARTS):
        head = read(at, 16)
        length, kind = _u32(head, 0, ">"), head[4:8]
        if length == 1 and len(head) == 16:
            length = int(struct.unpack(">Q", head[8:])[0])
        if length < 8 or at + length > size:
            return
        yield kind, at, at + length
        at += length
        if at == size:
            return


def _with_box(read: Read, size: int) -> Callable[[bytes], list[Piece]] | None:
    boxes = list(_boxes(read, size))
    kinds = [kind for kind, _, _ in boxes]
    if not boxes or boxes[-1][2] != size or b"moov" not in kinds:
        return None
    end = size
    if kinds[-1] == b"mfra":  # the index of fragments has to be the last box
        end = boxes[-1][1]
    before, start, stop = boxes[kinds.index(b"mfra") - 1] if end < size else boxes[-1]
    cut = end
    if before == b"meta" and stop == end and MARK in read(start, min(stop - start, MAX_BYTES + 1024)):
        cut = start  # of the file that this one is a copy of
    if any(kind == b"meta" and at != cut for kind, at, _ in boxes):
        return None
    return lambda text: [(0, cut), _meta_box(text), *([(end, size)] if end < size else [])]


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def _meta_box(text: bytes) -> bytes:
    handler = _box(b"hdlr", b"\0" * 8 + b"mdirappl" + b"\0" * 9)
    comment = _box(b"\xa9cmt", _box(b"data", b"\0\0\0\1\0\0\0\0" + text))
    return _box(b"meta", b"\0" * 4 + handler + _box(b"ilst", comment))


# safetensors ----------------------------------------------------------------------------------------------------------


def _notes(header: bytes) -> tuple[dict[str, Any], int] | None:
    """Returns the metadata, and where they end in the header, of a header that begins with them; None otherwise."""
    opening = b'{"__metadata__":'
    if not header.startswith(opening):
        return None
    text = header[len(opening) : len(opening) + HEAD_BYTES].decode("utf-8", "replace")
    try:
        notes, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(notes, dict):
        return None
    size = len(text[:end].encode())  # others where the bytes are no UTF-8
    return (notes, len(opening) + size) if header.startswith(text[:end].encode(), len(opening)) else None


def _with_entry(read: Read, size: int) -> Callable[[bytes], list[Piece]] | None:
    start = read(0, 8)
    length = _u32(start, 0, "<")
    if start[4:] != b"\0\0\0\0" or not 2 <= length <= min(HEADER_BYTES, size - 8):
        return None
    header = read(8, length).rstrip(b" ")
    if not header.endswith(b"}") or b'"data_offsets"' not in header:
        return None
    found = _notes(header)
    if found is None and b'"__metadata__"' in header:
        return None
    notes, rest = (
        ({}, header[1:]) if found is None else (found[0], header[found[1] :].lstrip(b" \t\r\n").removeprefix(b","))
    )
    try:
        json.loads(b'{"":0,' + rest)
    except (ValueError, RecursionError):  # with the notes before it, it would be no JSON either
        return None

    def made(text: bytes) -> list[Piece]:
        entries = json.dumps({KEY: text.decode(), **{name: each for name, each in notes.items() if name != KEY}})
        whole = b'{"__metadata__":' + entries.encode() + b"," + rest
        whole += b" " * (-len(whole) % 8)
        return [struct.pack("<Q", len(whole)), whole, (8 + length, size)]

    return made


# Text among bytes -----------------------------------------------------------------------------------------------------


def _last_object(data: bytes) -> str | None:
    """Returns the last object that begins with the mark and stands in no other one."""
    found, at = None, 0
    for _ in range(MAX_TRIES):
        at = data.find(MARK, at)
        if at < 0:
            break
        text = data[at : at + MAX_BYTES].decode("utf-8", "replace")
        try:
            end = json.JSONDecoder().raw_decode(text)[1]
        except (ValueError, RecursionError):
            at += len(MARK)
            continue
        found = text[:end]
        at += max(len(MARK), len(found.encode()))
    return found


def _u32(data: bytes, at: int, order: str) -> int:
    """Returns 0 where there are no four bytes."""
    return int(struct.unpack_from(f"{order}I", data, at)[0]) if len(data) >= at + 4 else 0
