"""Makes users' text safe to print: characters that would move a terminal's cursor, set its title or change the direction of a line are written as escapes."""

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""The escaped characters: C0 except tab and newline, DEL, C1, direction marks, line and paragraph separators, lone surrogates."""


def plain(text: str) -> str:
    """Escapes the text: ESC becomes the four characters \\x1b, and so on; tab and newline stay."""
    return _UNSAFE.sub(lambda found: _spelled(found[0]), text)


def plain_line(text: str) -> str:
    """Escapes the text into one line, so that no part of it looks like the next line."""
    return plain(text).replace("\n", "\\n")


def _spelled(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
