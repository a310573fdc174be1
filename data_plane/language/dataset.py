"""From a text or JSONL file to rows of tokens.

Documents are joined to one stream, each with the model's end token behind it, and the stream is cut into rows of one length: no
token is lost to padding but in the last row. A text file is one document. Each line of a JSONL file is one: `{"text"}`, or
`{"prompt", "completion"}`, of which only the completion is asked for. TaskError codes: `invalid_dataset`, `tokenizer_mismatch`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from tokenizers import Tokenizer

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.device import Array
from dihedral.data_plane.kernels.cross_entropy import IGNORED


class Document(msgspec.Struct, forbid_unknown_fields=True):
    text: str | None = None
    prompt: str | None = None
    completion: str | None = None


class Rows(NamedTuple):
    """ids, labels: (rows, length) int64 on the host; every row has a label that is asked for."""

    ids: Array
    labels: Array

    @property
    def asked(self) -> int:
        return int((self.labels != IGNORED).sum())


def read(file: Path, *, jsonl: bool) -> list[Document]:
    """Raises: TaskError where it is not UTF-8, a line is no document, or there is nothing in it."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _invalid(file, f"not UTF-8: {error.reason} at byte {error.start}") from error
    if not jsonl:
        documents = [Document(text=text)] if text.strip() else []
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        documents = [_document(file, number, line) for number, line in lines]
    if not documents:
        raise _invalid(file, "it is empty")
    return documents


def _document(file: Path, number: int, line: str) -> Document:
    try:
        document = msgspec.json.decode(line.encode(), type=Document)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise _invalid(file, f"line {number}: {error}") from error
    given = (document.text is not None, document.prompt is not None, document.completion is not None)
    if given not in ((True, False, False), (False, True, True)):
        raise _invalid(file, f"line {number}: it must have text, or prompt and completion")
    return document


def rows(file: Path, documents: list[Document], tokenizer: Tokenizer, end_ids: tuple[int, ...], length: int) -> Rows:
    """Raises: TaskError where the tokenizer has no tokens for a text, or nothing is left that could be asked for."""
    stream, asked = [], []
    for document in documents:
        try:
            before = tokenizer.encode(document.prompt).ids if document.prompt is not None else []
            text = document.completion if document.completion is not None else document.text or ""
            after = tokenizer.encode(text, add_special_tokens=document.prompt is None).ids
        except Exception as error:  # the library raises bare Exception
            raise TaskError(f"the tokenizer cannot read {file.name}: {error}", code="tokenizer_mismatch") from error
        if not after or after[-1] not in end_ids:  # some tokenizers put it there themselves
            after += end_ids[:1]
        stream += before + after
        wanted = [False] * len(before) + [True] * len(after)
        wanted[:1] = [False][: len(wanted)]  # nothing of the document says what it begins with
        asked += wanted
    count = max(0, -(-(len(stream) - 1) // length))
    ids, labels = np.zeros((count, length), np.int64), np.full((count, length), IGNORED, np.int64)
    ids.reshape(-1)[: len(stream) - 1] = stream[:-1]
    labels.reshape(-1)[: len(stream) - 1] = np.where(asked[1:], stream[1:], IGNORED)
    useful = (labels != IGNORED).any(axis=1)
    if not useful.any():
        raise _invalid(file, "there is no token to learn in it")
    return Rows(ids[useful], labels[useful])


def batches(data: Rows, batch: int, seed: int, first: int) -> Iterator[Rows]:
    """Endless, from batch number `first`: each epoch in an order of its own, which depends on seed and epoch alone."""
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
