"""Settings: dihedral.toml, then DIHEDRAL_SECTION__KEY, then flags. The only place that reads the environment.

Keys are camelCase in the file (`[jobs] leaseMs = 5000`), upper snake case in variables (`DIHEDRAL_JOBS__LEASE_MS=5000`); with
`_FILE` behind it a variable names a file that has the value (a mounted secret). An unknown key or a value out of range stops the start
with the file or variable, the path and the reason.
"""

import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dihedral.bridge.errors import SettingsError
from dihedral.schemas.structs.settings import Settings

PREFIX = "DIHEDRAL_"
FILE = "dihedral.toml"
NOT_SETTINGS = frozenset({"DIHEDRAL_URL", "DIHEDRAL_API_KEY", "DIHEDRAL_CA", "DIHEDRAL_REQUIRE"})
SCHEMES = ("redis://", "rediss://", "unix://", "redis+cluster://", "rediss+cluster://")
FOREIGN = ("DIHEDRAL_CONTROL__KEYS", "DIHEDRAL_LLM__API_KEY", "DIHEDRAL_API_KEY")
OF_FILE = "_file"
SECRETS = frozenset({"secretKey", "accessKey", "apiKey", "url", "keys"})
TASKS = "tasks"
OF_TASKS = {"comfyui": ("run_comfyui", "servers"), "tools": ("run_tool", "tools")}
"""Short names of tables: [comfyui.NAME] and [tools.NAME] mean [tasks.run_comfyui.servers.NAME] and [tasks.run_tool.tools.NAME]."""
SECRET_NAME = re.compile(r"key|token|secret|passw|pwd|auth(?!ors?$)|credential|cookie", re.IGNORECASE)


def load(file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]) -> Settings:
    """Loads the settings. `file` None means ./dihedral.toml where it exists. `overrides`: "section.snake_case_key" → value (flags).

    Raises:
        SettingsError: "<file, variable or flag>: <path>: <reason>".
    """
    tree: dict[str, dict[str, Any]] = {}
    origin: dict[str, str] = {}
    for source, section, key, value in [*_from_file(file), *_from_environment(environ), *_from_flags(overrides)]:
        tree.setdefault(section, {})[key] = value
        origin[f"{section}.{key}"] = source
        _check(section, key, value, source)
    return msgspec.convert(tree, Settings)


def given(file: Path | None, environ: Mapping[str, str]) -> frozenset[str]:
    """Returns the settings that file and environment set, as "section.snake_case_key": a launcher's own defaults must not replace them.

    Raises:
        SettingsError: as `load`.
    """
    rows = [*_from_file(file), *_from_environment(environ)]
    for source, section, key, value in rows:
        _check(section, key, value, source)
    names = {
        (section, field.encode_name): field.name
        for section in {row[1] for row in rows} - {TASKS}
        for field in _fields(section, "")
    }
    return frozenset(f"{section}.{names.get((section, key), key)}" for _, section, key, _ in rows)


def secrets(loaded: Settings) -> frozenset[str]:
    """Returns the texts that no log may contain: keys, and the password within an address."""
    found = set(_secrets_of_tasks(loaded.tasks))
    for section in _sections():
        for field in msgspec.structs.fields(section.type):
            if field.encode_name in SECRETS:
                value = getattr(getattr(loaded, section.name), field.name)
                if field.encode_name == "keys":  # one key per line; only the key itself is secret
                    found |= {line.split()[-1] for line in value.splitlines() if line.split()}
                else:
                    found.add(urlsplit(value).password or "" if field.encode_name == "url" else value)
    return frozenset(found - {""})


def _secrets_of_tasks(value: Any, name: str = "") -> Iterator[str]:
    """Finds secrets in the tables below [tasks.ID] by their names, since only the tasks know the types."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _secrets_of_tasks(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _secrets_of_tasks(item, name)
    elif isinstance(value, str) and SECRET_NAME.search(name):
        yield value


def environment(decided: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment of a child process with these settings ("section.snake_case_key" → value)."""
    made = dict(os.environ if environ is None else environ)
    for path, value in decided.items():
        section, _, key = path.partition(".")
        text = ",".join(value) if isinstance(value, list | tuple) else str(value)
        made[f"{PREFIX}{section.upper()}__{key.upper()}"] = text
    return made


def forget_foreign(environ: MutableMapping[str, str]) -> None:
    """Removes the settings that a worker does not need and a task must not see: the control plane's secrets and a client's key."""
    for name in list(environ):
        if name.upper().startswith(FOREIGN):
            del environ[name]


def server_url(environ: Mapping[str, str] | None = None) -> str:
    """Returns the address at which clients find the control plane."""
    return (os.environ if environ is None else environ).get("DIHEDRAL_URL", "http://127.0.0.1:8000")


def client_key(environ: Mapping[str, str] | None = None) -> str | None:
    """Returns the API key of clients; None where no key is set."""
    return (os.environ if environ is None else environ).get("DIHEDRAL_API_KEY") or None


def client_ca(environ: Mapping[str, str] | None = None) -> str | None:
    """Returns the file of certificates that clients trust instead of the usual ones."""
    return (os.environ if environ is None else environ).get("DIHEDRAL_CA") or None


Row = tuple[str, str, str, Any]


def _from_file(file: Path | None) -> list[Row]:
    path = file or Path(FILE)
    if file is None and not path.exists():
        return []
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from error
    rows: list[Row] = []
    _join_tasks(document)
    for section, keys in document.items():
        if not isinstance(keys, dict):
            raise SettingsError(f"{path}: {section}: is no section; settings are in sections such as [redis]")
        rows += [(str(path), section, key, value) for key, value in keys.items()]
    return rows


def _join_tasks(document: dict[str, Any]) -> None:
    for section, (task, name) in OF_TASKS.items():
        table, tasks = document.get(section), document.setdefault(TASKS, {})
        if isinstance(table, dict) and isinstance(tasks, dict) and isinstance(tasks.setdefault(task, {}), dict):
            tasks[task][name] = {**tasks[task].get(name, {}), **document.pop(section)}


def _from_environment(environ: Mapping[str, str]) -> list[Row]:
    rows: list[Row] = []
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in NOT_SETTINGS:
            continue
        section, divider, key = name.removeprefix(PREFIX).lower().partition("__")
        if not divider:
            raise SettingsError(f"{name}: is no setting; variables are named {PREFIX}SECTION__KEY")
        if key.endswith(OF_FILE) and key not in {field.name for field in _fields(section, name)}:
            key, text = key.removesuffix(OF_FILE), _content(name, text)
        field = _field(section, key, name)
        rows.append((name, section, field.encode_name, _parsed(text, field.type)))
    return rows


def _content(name: str, path: str) -> str:
    try:
        return Path(path).read_text().removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}: {path} cannot be read: {error}") from error


def _from_flags(overrides: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for path, value in overrides.items():
        section, _, key = path.partition(".")
        flag = "redis-url" if path == "redis.url" else key.replace("_", "-")
        rows.append((f"--{flag}", section, _field(section, key, path).encode_name, value))
    return rows


def _field(section: str, key: str, source: str) -> Any:
    """Returns the field of a section by its snake_case name."""
    for field in _fields(section, source):
        if field.name == key:
            return field
    raise SettingsError(f"{source}: {section}.{key}: there is no such setting")


def _sections() -> list[Any]:
    """Returns the sections with known settings; the contents of [tasks.ID] are checked by the task."""
    return [field for field in msgspec.structs.fields(Settings) if field.name != TASKS]


def _fields(section: str, source: str) -> tuple[Any, ...]:
    for field in _sections():
        if field.name == section:
            return msgspec.structs.fields(field.type)
    if section == TASKS:
        raise SettingsError(f"{source}: {TASKS}: settings of tasks are read from the file alone")
    raise SettingsError(f"{source}: {section}: there is no such section")


def _check(section: str, key: str, value: Any, source: str) -> None:
    if section == TASKS and isinstance(value, dict):
        return
    if section == TASKS:
        raise SettingsError(
            f"{source}: {TASKS}.{key}: is no table; settings of a task are in a table such as [tasks.{key}]"
        )
    for field in _fields(section, source):
        if field.encode_name == key:
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                shown = "" if key in SECRETS else f" (it is {value!r})"
                raise SettingsError(f"{source}: {section}.{key}: {error}{shown}") from error
            if isinstance(value, float) and not math.isfinite(value):  # TOML has nan and inf, which no limit refuses
                raise SettingsError(f"{source}: {section}.{key}: Expected a finite number (it is {value!r})")
            if (section, key) == ("redis", "url") and not _is_server(
                value
            ):  # the value is not shown, since it may contain a password
                raise SettingsError(
                    f"{source}: redis.url: Expected an address that begins with one of {', '.join(SCHEMES)} (Sentinel is not supported); / ? # @ in a password are written %2F %3F %23 %40"
                )
            return
    raise SettingsError(f"{source}: {section}.{key}: there is no such setting")


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        ports = [urlsplit(f"//{host}").port for host in parts.netloc.rpartition("@")[2].split(",")]
    except ValueError:
        return False
    if parts.scheme != "unix" and "@" in f"{parts.path}{parts.query}{parts.fragment}":
        return False  # a password with / ? or # in it that is not escaped: what follows would be taken for the rest
    if f"{parts.scheme}://" not in SCHEMES or (len(ports) > 1 and not parts.scheme.endswith("+cluster")):
        return False
    return bool(parts.path if parts.scheme == "unix" else parts.hostname)


def _parsed(text: str, wanted: Any) -> Any:
    """Converts a variable's text to the type of its field; text that does not parse is left to the check."""
    info = msgspec.inspect.type_info(wanted)
    if isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    if isinstance(info, msgspec.inspect.BoolType):
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower(), text)
    if isinstance(info, msgspec.inspect.ListType):
        return [part for part in text.split(",") if part]
    if isinstance(info, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text
