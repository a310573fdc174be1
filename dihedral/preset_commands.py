"""Commands on presets: params of a task or a pipeline that are kept under a name."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from dihedral.job_commands import kinds_with, named, read_params, schemas_of
from dihedral.terminal import OK, answer, client_for, usage
from dihedral.typed_params import meant

COMMANDS = ("list", "save", "delete")


def declare(add: Callable[..., argparse.ArgumentParser], commands: Any) -> None:
    """Adds the parsers of these commands."""
    group = commands.add_parser(
        "presets",
        help="list, save or delete params that are kept under a name",
        description="Params of a task or a pipeline, kept under a name; `run TARGET --preset PRESET` uses them. Without a command: list.",
    ).add_subparsers(required=True, metavar="COMMAND")
    one = add("list", listed, "list presets", client=True, within=group)
    one.add_argument("what", nargs="?", metavar="TARGET", help="of this task or pipeline alone")
    one = add(
        "save", save, "keep params under a name; a preset of the same name is replaced", client=True, within=group
    )
    _names_one(one)
    one.add_argument("values", nargs="*", metavar="KEY=VALUE", help="params, read by their schema; a file is uploaded")
    one.add_argument(
        "--file", action="append", metavar="K=PATH", help="a param that is a file; repeatable, also for one list"
    )
    one = add("delete", delete, "delete a preset", client=True, within=group)
    _names_one(one)


def _names_one(one: argparse.ArgumentParser) -> None:
    one.add_argument("name", metavar="PRESET")
    one.add_argument("what", metavar="TARGET", help="a task or a pipeline")
    one.add_argument("--of", choices=["task", "pipeline"], help="which, where both have this name")


def with_command(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with `list` where `presets` has no command. Of two words the first is meant as one, so a mistyped one is refused."""
    given = list(arguments)
    words = [each for each in given[1:3] if not each.startswith("-")]
    if (
        given[:1] == ["presets"]
        and len(words) < 2
        and given[1:2] not in ([each] for each in (*COMMANDS, "-h", "--help"))
    ):
        given.insert(1, "list")
    return given


def listed(options: argparse.Namespace) -> int:
    from dihedral.tables import cell, listing

    with client_for(options) as client:
        if options.what is not None:
            named(client, options.what)  # a mistyped name is refused
        found = client.presets()
    if options.what is not None:  # a task and a pipeline may have one name
        own = [each for each in found["presets"] if options.what in (each["pipeline"], each["task"])]
        found = {**found, "presets": own}
    rows = [
        [
            each["name"],
            "task " + each["task"] if each["task"] else f"pipeline {each['pipeline']}",
            " ".join(f"{name}={cell(value)}" for name, value in each["params"].items()),
        ]
        for each in found["presets"]
    ]
    answer(options, found, "\n".join(listing(("PRESET", "OF", "PARAMS"), rows, flexible=(2, 0))) or "no presets")
    return OK


def save(options: argparse.Namespace) -> int:
    from dihedral.client import Refused

    if not options.values and not options.file:
        raise usage("give the params to keep: KEY=VALUE …")
    uploaded = []
    with client_for(options) as client:
        schemas = schemas_of(client, options.what)
        kind = options.of or next(iter(schemas))
        if kind not in schemas:
            raise usage(f"there is no {kind} {options.what!r}, but a {next(iter(schemas))}")
        params, files = read_params(options.values, options.file or [], schemas[kind], options.what)
        try:
            for name, given in files.items():
                paths = given if isinstance(given, list) else [given]
                refs = []
                for path in paths:
                    meta = client.upload(path)
                    refs.append({"bucket": meta["bucket"], "key": meta["key"]})
                    uploaded.append(refs[-1])
                params[name] = refs if isinstance(given, list) else refs[0]
            preset = client.save_preset(options.name, params, **{kind: options.what})
        except Refused:
            client.discard(uploaded)
            raise
    run = f"dihedral run {options.what} --preset {shlex.quote(preset['name'])}"
    answer(options, preset, f"saved {preset['name']} of the {kind} {options.what}   ({run})")
    return OK


def delete(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        schemas_of(client, options.what)  # a mistyped name is refused
        kinds = [kind for kind in kinds_with(client, options.what, options.name) if options.of in (None, kind)]
        if not kinds:
            of = [each for each in client.presets()["presets"] if options.what in (each["task"], each["pipeline"])]
            names = sorted({each["name"] for each in of if options.of is None or each[options.of] is not None})
            raise usage(f"{options.what} has no preset {options.name!r}{meant(options.name, names)}")
        if len(kinds) > 1:
            raise usage(f"the task and the pipeline {options.what} have a preset {options.name!r} each: add --of task or --of pipeline")  # fmt: skip
        client.delete_preset(options.name, **{kinds[0]: options.what})
    answer(options, {"name": options.name, "pipeline": None, "task": None, kinds[0]: options.what}, f"deleted {options.name} of the {kinds[0]} {options.what}")  # fmt: skip
    return OK
