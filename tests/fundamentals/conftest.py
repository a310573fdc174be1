"""One running house for the whole manual: a control plane and a worker as real processes, on a real server."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dihedral import Client
from tests.support.stack import Stack

TASKS = '''
from msgspec import Struct
from dihedral import TaskContext, TaskError, task


class Word(Struct, forbid_unknown_fields=True):
    word: str


class Shout(Struct):
    word: str


@task
async def shout(params: Word, ctx: TaskContext) -> Shout:
    """Says it louder."""
    ctx.data("heard", {"word": params.word})
    ctx.log(f"somebody said {params.word}")
    return Shout(word=params.word.upper() + "!")


@task(retry_on=[OSError])
async def flaky(params: Word, ctx: TaskContext) -> Shout:
    """Fails at its first attempt."""
    if ctx.attempt == 1:
        raise OSError("the line was dead")
    return Shout(word=params.word)


@task
def heavy(params: Word, ctx: TaskContext) -> Shout:
    """A plain function: it runs in a slot, a process of its own, and may take it down."""
    import os, signal
    if params.word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("this was printed")
    return Shout(word=str(os.getpid()))


@task
def count_bytes(params: Word, ctx: TaskContext) -> Shout:
    """Stores a file; its key carries job and node."""
    ctx.store("inputs", "word.txt", params.word.encode(), "text/plain")
    return Shout(word=str(len(params.word.encode())))
'''


@pytest.fixture(scope="package")
def house() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        (Path(folder) / "words.py").write_text(TASKS)
        made = Stack(Path(folder))
        made.worker("--slots", "2", "--tasks", "words")
        yield made
        made.close()


@pytest.fixture
def client(house: Any) -> Iterator[Any]:
    with Client(house.url) as made:
        yield made
