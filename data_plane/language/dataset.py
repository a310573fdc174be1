"""The conversion of a text or JSONL file to rows of tokens.

Documents are joined to one stream, each with the model's end token behind it, and the stream is cut into rows of one length: no
token is lost to padding but in the last row. A text file is one document. Each line of a JSONL file is one, or each item of a JSON list: `{"text"}`,
or `{"prompt", "completion"}`, Alpaca's `{"instruction", "input", "output"}` or a chat's `{"messages"}`, of which only the answers are learnt. Other
columns are left alone. TaskError codes: `invalid_dataset`, `tokenizer_mismatch`.
"""

import re
from array import array
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from tokenizers import Tokenizer

from dihedral.bridge.tasks.registry import TaskCancelled, TaskError
from dihedral.data_plane.device import Array
from dihedral.data_plane.kernels.cross_entropy import IGNORED

FEWEST_TO_SPLIT = 20  # rows
MOST_HELD_OUT = 64  # rows: each look at them costs as much as learning from them
LARGEST_BYTES = 256 << 20
LINE_BYTES = 4 << 20  # of one document: as messages of no words it takes 100 times as much
LIST_BYTES = 32 << 20  # of one JSON list, which is read whole
MOST_TOKENS = 1 << 25  # which take 1.3 GiB as rows
PIECE = 1 << 18  # characters that the tokenizer is given at once: it needs some 260 bytes for each
_LIST = re.compile(r"\[\s*(\{|$)")
_NAMED_LINES = re.compile(r"\.?(jsonl|ndjson)\b", re.IGNORECASE)


class Document(msgspec.Struct):
    """The content of one line; of several forms the first of these counts: messages, prompt and completion, instruction and output, text."""

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    messages: list["Message"] | None = None
    conversations: list["Message"] | None = None

    @property
    def parts(self) -> list[tuple[str, bool]]:
        """(text, whether it is learnt) in their order; empty: this is no document."""
        if turns := self.messages or self.conversations:
            return [part for turn in turns for part in turn.parts]
        if self.prompt is not None and self.completion is not None:
            return [(self.prompt, False), (self.completion, True)]
        if self.instruction is not None and self.output is not None:
            return [(_alpaca(self.instruction, self.input or ""), False), (self.output, True)]
        return [(self.text, True)] if self.text is not None and self.prompt is self.completion is None else []


class Message(msgspec.Struct, gc=False):
    """A turn, as OpenAI (`role`, `content`) or ShareGPT (`from`, `value`) name it."""

    role: str = ""
    content: str = ""
    from_: str = msgspec.field(name="from", default="")
    value: str = ""

    @property
    def parts(self) -> list[tuple[str, bool]]:
        """The pieces of the text, with True for the model's answers: only those are learnt. The tokenizer's file has no template, so the roles are plain words."""
        role, said = self.role or self.from_, self.content or self.value
        return [(f"{_ROLES.get(role, role.capitalize())}: ", False), (f"{said}\n", role in ("assistant", "gpt"))]


_ROLES = {"human": "User", "gpt": "Assistant"}


def _alpaca(instruction: str, input: str) -> str:
    more = f"### Input:\n{input}\n\n" if input else ""
    return f"### Instruction:\n{instruction}\n\n{more}### Response:\n"


class Rows(NamedTuple):
    """ids, labels: (rows, length) int64 on the host; every row has a label that counts."""

    ids: Array
    labels: Array

    def split(self, share: float, seed: int) -> "tuple[Rows, Rows]":
        """Splits the rows into those to learn from and those to judge by: the second empty where there are too few rows for both."""
        count = min(MOST_HELD_OUT, round(share * len(self.ids))) if len(self.ids) >= FEWEST_TO_SPLIT else 0
        order = np.random.default_rng([seed, len(self.ids)]).permutation(len(self.ids))
        first, second = np.sort(order[count:]), np.sort(order[:count])
        return Rows(self.ids[first], self.labels[first]), Rows(self.ids[second], self.labels[second])

    @property
    def asked(self) -> int:
        return int((self.labels != IGNORED).sum())


def read(file: Path, name: str) -> Iterator[Document]:
    """`name`: as it was uploaded; where it has no known suffix, a first line that is a JSON object or list decides.

    Lines are read one by one: all documents of a file in memory would be up to 100 times as large as the file.

    Raises: TaskError where it is not UTF-8, a line is no document or too long, the file is too large, or there is nothing in it.
    """
    size = file.stat().st_size
    if size > LARGEST_BYTES:
        raise _invalid(file, f"it has {size >> 20} MiB; {LARGEST_BYTES >> 20} are possible")
    found = False
    for document in _documents(file, name, size):
        found = True
        yield document
    if not found:
        raise _invalid(file, "it is empty")


def _documents(file: Path, name: str, size: int) -> Iterator[Document]:
    first = next(_lines(file, stops=False), (1, ""))[1].lstrip()
    if first.startswith("[") and size <= LIST_BYTES:
        yield from _listed(file, _text(file))
    elif first.startswith("[") and (name.lower().endswith(".json") or _LIST.match(first)):
        raise _invalid(
            file,
            f"it is a JSON list of {size >> 20} MiB; {LIST_BYTES >> 20} are possible. Write one object a line (.jsonl)",
        )
    elif _NAMED_LINES.search(name) or _is_object(first.rstrip("\n")):
        for number, line in _lines(file):
            yield _document(file, f"line {number}", line)
    elif first:
        yield Document(text=_text(file))


def _text(file: Path) -> str:
    return _decoded(file, file.read_bytes(), 0)


def _decoded(file: Path, content: bytes, at: int) -> str:
    try:
        return content.decode("utf-8-sig" if at == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(file, f"not UTF-8: {error.reason} at byte {at + error.start}") from error


def _lines(file: Path, *, stops: bool = True) -> Iterator[tuple[int, str]]:
    """Yields (number, line) of the lines that are not blank. `stops`: whether one that is too long is an error; a text may have such."""
    with file.open("rb") as opened:
        at = 0
        for number, content in enumerate(iter(partial(opened.readline, LINE_BYTES + 1), b""), start=1):
            if len(content) > LINE_BYTES:
                if stops:
                    raise _invalid(file, f"line {number} has more than {LINE_BYTES >> 20} MiB")
                content = content[:LINE_BYTES].decode("utf-8", "ignore").encode()
            line = _decoded(file, content, at)
            at += len(content)
            if line.strip():
                yield number, line


def _is_object(line: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return line.strip() == "{"  # of a document that is written over several lines


def _listed(file: Path, text: str) -> list[Document]:
    """Reads the documents of one JSON list; a plain text may begin with a bracket too."""
    try:
        items = msgspec.json.decode(text, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeEncodeError):
        return [Document(text=text)]
    return [_document(file, f"item {number}", bytes(item)) for number, item in enumerate(items, start=1)]


def _document(file: Path, where: str, line: str | bytes) -> Document:
    try:
        document = msgspec.json.decode(line, type=Document)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise _invalid(file, f"{where}: {error}") from error
    if not document.parts:
        raise _invalid(
            file, f"{where}: it must have text, or prompt and completion, or instruction and output, or messages"
        )
    return document


def rows(
    file: Path, documents: Iterable[Document], tokenizer: Tokenizer, end_ids: tuple[int, ...], length: int
) -> Rows:
    """Raises: TaskError where the tokenizer has no tokens for a text, there are too many, or no label is left that counts."""
    stream, asked = array("i"), bytearray()
    for document in documents:
        begun = len(stream)
        for number, (text, learnt) in enumerate(document.parts):
            for at, piece in enumerate(_pieces(text)):
                found = _tokens(file, tokenizer, piece, begins=number == at == 0)
                stream.extend(found)
                asked += bytes([learnt]) * len(found)
                if len(stream) > MOST_TOKENS:
                    raise _invalid(file, f"it has more than {MOST_TOKENS:,} tokens")
        if len(stream) == begun or stream[-1] not in end_ids:  # some tokenizers put it there themselves
            stream.extend(end_ids[:1])
            asked += b"\1" * (len(stream) - len(asked))
        asked[begun : begun + 1] = b"\0" * len(
            asked[begun : begun + 1]
        )  # nothing of the document predicts its first token
    count = max(0, -(-(len(stream) - 1) // length))
    ids, labels = np.zeros((count, length), np.int64), np.full((count, length), IGNORED, np.int64)
    ids.reshape(-1)[: len(stream) - 1] = stream[:-1]
    labels.reshape(-1)[: len(stream) - 1] = np.where(np.frombuffer(asked, bool)[1:], stream[1:], IGNORED)
    useful = (labels != IGNORED).any(axis=1)
    if not useful.any():
        raise _invalid(file, "there is no token to learn in it")
    return Rows(ids[useful], labels[useful])


def _pieces(text: str) -> Iterator[str]:
    """Cuts a long text where a line or word ends; the empty text is one piece."""
    at = 0
    while len(text) - at > PIECE:
        end = max(text.rfind("\n", at, at + PIECE), text.rfind(" ", at + PIECE // 2, at + PIECE)) + 1 or at + PIECE
        yield text[at:end]
        at = end
    yield text[at:]


def _tokens(file: Path, tokenizer: Tokenizer, text: str, *, begins: bool) -> list[int]:
    try:
        found: list[int] = tokenizer.encode(text, add_special_tokens=begins).ids
    except BaseException as error:  # the library raises bare Exception, and what its Rust panics with is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | TaskCancelled):
            raise
        raise TaskError(f"the tokenizer cannot read {file.name}: {error}", code="tokenizer_mismatch") from error
    return found


def batches(data: Rows, batch: int, seed: int, first: int) -> Iterator[Rows]:
    """Yields batches without end, from batch number `first`: each epoch in a separate order, which depends on seed and epoch alone."""
    total, position, epoch, order = len(data.ids), first * batch, -1, np.empty(0, np.int64)
    while True:
        chosen = []
        for place in range(position, position + batch):
            if place // total != epoch:
                epoch = place // total
                order = np.random.default_rng([seed, epoch]).permutation(total)
            chosen.append(order[place % total])
        position += batch
        yield Rows(data.ids[chosen], data.labels[chosen])


def _invalid(file: Path, reason: str) -> TaskError:
    return TaskError(f"{file.name} is no data set: {reason}", code="invalid_dataset")
