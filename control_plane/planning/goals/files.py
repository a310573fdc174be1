"""Files that a goal may work with, and what each of them may be."""

from typing import Any

import msgspec

from dihedral.control_plane.planning.goals.words import KINDS, OF_MEDIA, stem, stems


class File(msgspec.Struct, frozen=True, eq=False):
    """A file that was given. `exists`: whether the store has it. `text`, `document`: its content where it is small."""

    ref: dict[str, str]
    name: str
    kinds: frozenset[str]
    exists: bool
    index: int
    around: tuple[str, ...] = ()
    before: str = ""
    text: str | None = None
    document: Any = None


def file_kinds(name: str, content_type: str, bucket: str) -> frozenset[str]:
    """Returns what a file may be, by its type, its suffix and, for tensors, where it lies."""
    lower = name.lower()
    media = content_type.partition("/")[0]
    words = set(stems(name))
    if media in OF_MEDIA:
        named = {KINDS[word] for word in words if KINDS.get(word) == "portrait" and media == "image"}
        return OF_MEDIA[media] | named | {"file"}
    suffix = lower.rpartition(".")[2]
    if suffix == "safetensors":
        if "voic" in words or bucket == "voices":
            return frozenset({"voice", "file"})
        if "adapt" in words or stem("lora") in words or bucket == "loras":
            return frozenset({"look", "file"})
        return frozenset(
            {"weights", "voice", "look", "file"} if not words & {"model", stem("weights")} else {"weights", "file"}
        )
    if suffix == "json":
        for kind in ("tokenizer", "config", "workflow"):
            if stem(kind) in words:
                return frozenset({kind, "file"})
        return frozenset({"workflow", "dataset", "file"})
    if suffix == "jsonl":
        return frozenset({"dataset", "file"})
    if suffix in ("vtt", "srt"):
        return frozenset({"captions", "file"})
    if media == "text" or suffix in ("txt", "md"):
        return frozenset({"text", "dataset", "file"})
    return frozenset({"file"}) | ({KINDS[stem(suffix)]} if stem(suffix) in KINDS else set())
