"""Completion in bash, zsh and fish: a shell asks `dihedral complete WORDS…` at each Tab, so what it offers is what there is now.

Commands and options come from the parser; tasks, pipelines, params and jobs from the server, where it answers at once.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from dihedral.terminal import OK, url_for

SERVER_SECONDS = 1.0
JOBS = 20

SCRIPTS = {
    "bash": """_dihedral() {
  local IFS=$'\\n'
  COMPREPLY=($(dihedral complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _dihedral dihedral
""",
    "zsh": """#compdef dihedral
_dihedral() {
  local -a found
  found=("${(@f)$(dihedral complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "$found" ]]; then compadd -Q -S '' -a found; else _files; fi
}
compdef _dihedral dihedral
""",
    "fish": "complete -c dihedral -a '(dihedral complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'\n",
}


def answer_shell(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from dihedral.bridge.settings import client_ca, client_key
    from dihedral.client import Client, ClientError

    def ask() -> Client:
        key, ca = options.api_key or client_key(), options.ca or client_ca()
        return Client(url_for(options), api_key=key, ca=ca, timeout_seconds=SERVER_SECONDS)

    try:
        found = candidates(parser, options.words, ask)
    except (ClientError, OSError):
        return OK  # a shell shows nothing then
    print("\n".join(found))
    return OK


def candidates(parser: argparse.ArgumentParser, words: Sequence[str], ask: Any) -> list[str]:
    """Returns what the last word may become. `ask`: makes a client, or raises where no server answers."""
    *before, word = words or [""]
    path: list[str] = []
    positionals = 0
    waits_for = ""
    for each in before:
        commands = _commands(parser)
        if each.startswith("-"):
            waits_for = each if _takes_value(parser, each) else ""
        elif waits_for:
            waits_for = ""
        elif each in commands:
            parser = commands[each]
            path.append(each)
        else:
            positionals += 1
    if word.startswith("-") and not waits_for:
        found = [name for action in parser._actions for name in action.option_strings]
    elif commands := ({} if waits_for else _commands(parser)):
        found = list(commands)
    else:
        found = list(_values(parser, path, waits_for, positionals, before, word, ask))
    return sorted({each for each in found if each.startswith(word) and each != word})


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _action(parser: argparse.ArgumentParser, option: str) -> argparse.Action | None:
    return next((action for action in parser._actions if option in action.option_strings), None)


def _takes_value(parser: argparse.ArgumentParser, option: str) -> bool:
    action = _action(parser, option)
    return action is not None and action.nargs != 0


def _values(
    parser: argparse.ArgumentParser,
    path: list[str],
    option: str,
    positionals: int,
    before: Sequence[str],
    word: str,
    ask: Any,
) -> Iterator[str]:
    action = _action(parser, option) if option else None
    if action is not None and action.choices is not None:
        yield from map(str, action.choices)
        return
    places = [each for each in parser._actions if not each.option_strings]
    place = places[min(positionals, len(places) - 1)] if places and not option else None
    if place is not None and place.choices is not None:
        yield from map(str, place.choices)
        return
    wanted = str(action.metavar if action is not None else place.metavar if place is not None else "")
    if option == "--pipeline" or wanted == "PIPELINE":
        yield from (each["id"] for each in ask().pipelines()["pipelines"])
    elif wanted == "TASK":
        yield from (each["id"] for each in ask().capabilities()["capabilities"])
    elif option == "--preset" or (wanted == "PRESET" and path == ["presets", "delete"]):
        # A shell would take a name of two words for two.
        yield from (each["name"] for each in ask().presets()["presets"] if len(each["name"].split()) == 1)
    elif wanted == "TARGET":
        client = ask()
        yield from (each["id"] for each in client.capabilities()["capabilities"])
        yield from (each["id"] for each in client.pipelines()["pipelines"])
    elif wanted in ("KEY=VALUE", "K=V") and "=" not in word:
        yield from _params(ask(), path, before)
    elif wanted == "JOB":
        yield from (job["jobId"] for job in ask().jobs(limit=JOBS)["jobs"])


def _params(client: Any, path: list[str], before: Sequence[str]) -> Iterator[str]:
    known = {each["id"]: each["io"]["input"] for each in client.capabilities()["capabilities"]}
    pipelines = {each["id"]: each["params"] for each in client.pipelines()["pipelines"]}
    known = known | pipelines if path == ["submit"] else pipelines | known
    behind = 3 if path == ["presets", "save"] else 1  # a preset may have the name of a task
    name = next((word for word in before[behind:] if word in known), None)
    if name is not None:
        yield from (f"{param}=" for param in known[name].get("properties", {}))
