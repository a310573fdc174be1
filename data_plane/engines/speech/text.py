"""Text before it is spoken: cleaned, split into sentences that an engine takes whole, and checked against what the voice can read."""

import re
import unicodedata
from collections.abc import Iterator

from dihedral.bridge.tasks.registry import TaskError

MARKUP = re.compile(
    r"<\s*/?\s*(?:speak|break|prosody|emphasis|voice|say-as|phoneme|audio|sub|lang|amazon:\w+|mstts:\w+)\b[^>]*>", re.I
)
_SENTENCE_END = re.compile(r"(?:(?<![.!?…])[.!?…]+[\"”’')\]]*(?=\s)|[。！？；]+[」』”]*|\n+)")
_CLAUSE_END = re.compile(r"(?<![,;:—–、，])[,;:—–、，]+[\"”’')\]]*(?:\s|(?<=[、，]))|\s[-–—]\s")
_SHORT_FORM = re.compile(
    r"(?:^|[\s(\"“'‘])(?:[A-Z]|[Mm]rs?|[Mm]s|[Dd]rs?|[Pp]rof|[Ss]t|[Ss]r|[Jj]r|[Cc]apt|[Gg]en|[Ss]en|[Rr]ev|vs|e\.g|i\.e|cf|No|Vol|Fig|approx)\.$"
)
_JOINERS = "\u200c\u200d"


def cleaned(text: str) -> str:
    """Composed (NFC), line breaks kept, other control characters as spaces, signs without a sound (emoji, arrows) left out.

    Raises: TaskError `markup_unsupported`: SSML, which would be read aloud.
    """
    if found := MARKUP.search(text):
        raise TaskError(
            f"the text holds markup ({found.group()[:40]}), which is not supported: send plain text; speed and voice are parameters",
            code="markup_unsupported",
        )
    lines = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(" ".join("".join(map(_kept, line)).split()) for line in lines).strip()


def has_speech(text: str) -> bool:
    return any(letter.isalnum() for letter in text)


def sentences(text: str, longest: int) -> Iterator[str]:
    """Yields the sentences of a cleaned text that hold a letter or a digit, none longer than `longest` letters: cut at clauses, else between words,
    else within a word.
    """
    start = 0
    for end in [*_ends(text), len(text)]:
        sentence = " ".join(text[start:end].split())
        start = end
        while sentence:
            part, sentence = _first_part(sentence, longest)
            if has_speech(part):
                yield part


def foreign_script(text: str, scripts: frozenset[str]) -> tuple[str, str] | None:
    """The first script among the letters that is none of `scripts`, and letters of it; None where the text holds no such letter."""
    found = {letter: script_of(letter) for letter in dict.fromkeys(text) if letter.isalpha()}
    for script in found.values():
        if script and script not in scripts:
            return script, "".join(letter for letter, its in found.items() if its == script)[:8]
    return None


def script_of(letter: str) -> str:
    """Returns the first word of the letter's Unicode name, such as LATIN or CJK; empty for the letters of all scripts, such as ª or ʰ."""
    first = unicodedata.name(letter, "").replace("-", " ").partition(" ")[0]
    return (
        ""
        if first in ("", "MODIFIER", "FEMININE", "MASCULINE", "MICRO", "SUPERSCRIPT", "SUBSCRIPT")
        else _FORMS.get(first, first)
    )


_FORMS = {"FULLWIDTH": "LATIN", "HALFWIDTH": "KATAKANA", "IDEOGRAPHIC": "CJK", "KANGXI": "CJK", "KELVIN": "LATIN",
          "ANGSTROM": "LATIN", "OHM": "GREEK", "DOUBLE": "LATIN", "MATHEMATICAL": "LATIN"}  # fmt: skip


def _kept(letter: str) -> str:
    kind = unicodedata.category(letter)
    if letter in _JOINERS:
        return letter
    if kind[0] in "CZ":
        return " "
    return "" if kind in ("So", "Sk") and letter not in "^`°©®" else letter


def _ends(text: str) -> Iterator[int]:
    for found in _SENTENCE_END.finditer(text):
        until = found.end()
        if found.group() == "." and _SHORT_FORM.search(text[max(0, found.start() - 8) : until]):
            continue
        if found.group().startswith(".") and text[until:].lstrip()[:1].islower():
            continue
        yield until


def _first_part(sentence: str, longest: int) -> tuple[str, str]:
    if len(sentence) <= longest:
        return sentence, ""
    clauses = [found.end() for found in _CLAUSE_END.finditer(sentence, 0, longest)]
    cut = (
        next((end for end in reversed(clauses) if end > longest // 4), 0) or sentence.rfind(" ", 0, longest) or longest
    )
    cut = cut if cut > 0 else longest
    return sentence[:cut].strip(), sentence[cut:].strip()
