"""Decides which files of users a browser may show, and the headers for them.

A content type is what an uploader wrote. Browsers read some spellings otherwise than a check does: of `text/plain;a=, text/html` they take the
last. So only what has the form of a bare type, at most with a charset, is repeated, and a file is shown only under a type from the list below.
"""

import re
from urllib.parse import quote

INERT = frozenset(
    [
        "text/plain",
        "application/json",
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/avif",
        "image/bmp",
        "audio/wav",
        "audio/x-wav",
        "audio/wave",
        "audio/mpeg",
        "audio/mp4",
        "audio/ogg",
        "audio/flac",
        "audio/x-flac",
        "audio/aac",
        "audio/webm",
        "audio/opus",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "video/x-matroska",
    ]
)
"""The types that a browser may show; none of them can carry a script: no HTML, SVG, XML or PDF."""
UNKNOWN = "application/octet-stream"
_TOKEN = "[A-Za-z0-9!#$&^_.+-]+"
_PARSED = re.compile(rf"({_TOKEN}/{_TOKEN})(?: *; *charset={_TOKEN})?")


def shown_as(content_type: str) -> tuple[str, str]:
    """Returns ("inline" or "attachment", the Content-Type of the answer)."""
    parsed = _PARSED.fullmatch(content_type.strip())
    if parsed is None:
        return "attachment", UNKNOWN
    return ("inline" if parsed[1].lower() in INERT else "attachment"), parsed[0]


def disposition(how: str, plain: str, name: str) -> str:
    """Returns a Content-Disposition with a name of plain characters for old clients, and the whole name for the others (RFC 6266)."""
    whole = f"; filename*=UTF-8''{quote(name, safe='')}" if name != plain else ""
    return f'{how}; filename="{plain}"{whole}'


def plain_name(name: str) -> str:
    """Returns a file name of plain characters that keeps its ending, never empty, never starting with a dot."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    ending = re.search(r"(?<=.)\.[A-Za-z0-9]{1,16}\Z", name)
    suffix = ending[0] if ending else ""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name[: len(name) - len(suffix)]).lstrip(".-_")
    return (stem[-(128 - len(suffix)) :].lstrip(".-_") or "file") + suffix


def display_name(name: str) -> str:
    """Returns a file name to show: no path, no control or direction characters, at most 200 characters, its ending kept."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(char for char in name if char.isprintable()).strip()
    if len(name) > 200:
        ending = re.search(r"\.[A-Za-z0-9]{1,16}\Z", name)
        suffix = ending[0] if ending else ""
        name = name[: 200 - len(suffix)] + suffix
    return name or "file"
