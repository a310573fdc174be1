"""Text of users as text: what would move a terminal's cursor, set its title or turn the direction of a line is written out instead."""

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""C0 but tab and newline, DEL, C1, what changes direction, line and paragraph separators, lone surrogates."""


def plain(text: str) -> str:
    """ESC becomes the four characters \\x1b, and so on; tab and newline stay."""
    return _UNSAFE.sub(lambda found: _spelled(found[0]), text)


def plain_line(text: str) -> str:
    """The same in one line, so that nothing can pretend to be the next one."""
    return plain(text).replace("\n", "\\n")


def _spelled(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
