"""`dihedral new-task NAME`: a working task and its test, to be changed into one's own."""

import re
from pathlib import Path

from dihedral.bridge.errors import DihedralError

TASK = '''"""Task `{name}`: counts the words of a text. Run a worker with it: dihedral up --tasks {name}"""

from typing import Annotated

from msgspec import Meta, Struct

from dihedral import TaskContext, task


class Params(Struct, forbid_unknown_fields=True):
    text: Annotated[str, Meta(min_length=1, description="What to count in")]


class Output(Struct):
    words: int

{kind}
@task(label="{label}", description="Counts the words of a text.", examples=[{{"text": "one two"}}])
{function} {name}(params: Params, ctx: TaskContext) -> Output:
    words = params.text.split()
    for number, word in enumerate(words, 1):
        ctx.check_cancelled()
        ctx.progress(number / len(words))
        ctx.data("word", {{"number": number, "word": word}})
    return Output(words=len(words))
'''

SLOT = """
# A plain function runs in a slot: a process of its own, where it may block, compute, use a GPU, and be killed."""

LIGHT = """
# An async function runs in the worker's own event loop, beside others, which saves the process: right for a task that mostly waits
# (for an API, for a store). It must not block, and nothing can kill it. For anything else, write a plain `def`."""

TEST = """from {name} import {name}

from dihedral import testing


def test_{name}_counts_words():
    run = testing.run({name}, {{"text": "one two three"}})
    assert run.output == {{"words": 3}}
    assert run.data("word")[-1] == {{"number": 3, "word": "three"}}
    assert run.progress == 1
"""


class CannotWrite(DihedralError):
    pass


def write(name: str, directory: Path, *, light: bool = False) -> list[Path]:
    """The two paths. Raises CannotWrite where the name is no module name or a file is there already."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", name):
        raise CannotWrite(f"{name!r} is no task name: lower case letters, digits and _, a letter first")
    texts = {directory / f"{name}.py": TASK, directory / f"test_{name}.py": TEST}
    for path in texts:
        if path.exists():
            raise CannotWrite(f"{path} is there already; nothing was written")
    kind, function = (LIGHT, "async def") if light else (SLOT, "def")
    for path, text in texts.items():
        path.write_text(text.format(name=name, label=name.replace("_", " ").capitalize(), kind=kind, function=function))
    return list(texts)
