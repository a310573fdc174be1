"""Every text that people read has a translation in every language, and no file keeps one that is used no more."""

import json
import re
from pathlib import Path

import pytest

CONSOLE = Path(__file__).parents[2] / "control_plane" / "console"
STRING = r'"((?:[^"\\]|\\.)*)"'
SERVED = "What the server writes"


def used() -> set[str]:
    """The texts given to `t` and `tn`, which have to be literals."""
    found = set()
    for path in CONSOLE.glob("*.js"):
        source = path.read_text()
        found |= set(re.findall(r"\bt\(" + STRING, source))
        for one, many in re.findall(r"\btn\([^\"]*?" + STRING + r",\s*" + STRING, source):
            found |= {one, many}
        loose = re.findall(r"(?<![\w.])tn?\((?!text|count === 1)[^\"\n)]{0,60}\)", source)
        assert not loose, f"{path.name}: {loose}"
    return {json.loads(f'"{text}"') for text in found}


def translated(path: Path) -> dict[str, str]:
    entries = re.findall(rf"^  (?:{STRING}|(\w+)): {STRING},$", path.read_text().partition(SERVED)[0], re.MULTILINE)
    return {json.loads(f'"{quoted}"') if quoted else bare: json.loads(f'"{text}"') for quoted, bare, text in entries}


@pytest.mark.quick
@pytest.mark.parametrize("language", sorted(path.name for path in (CONSOLE / "messages").glob("*.js")))
def test_a_language_has_every_text_once(language: str) -> None:
    found = translated(CONSOLE / "messages" / language)
    assert sorted(used() - found.keys()) == []
    assert sorted(found.keys() - used()) == []


@pytest.mark.quick
@pytest.mark.parametrize("language", sorted(path.name for path in (CONSOLE / "messages").glob("*.js")))
def test_a_translation_names_what_its_text_names(language: str) -> None:
    for text, other in translated(CONSOLE / "messages" / language).items():
        assert sorted(re.findall(r"{(\w+)}", text)) == sorted(re.findall(r"{(\w+)}", other)), text
