"""Tools that the operator has named: their settings, their command lines, and the meaning of their output.

One parser reads what trainers print: tqdm bars (overwritten by `\\r`), the dicts of Hugging Face's Trainer, JSON lines, or the operator's
regular expression. A number of the bar counts only where the bar is the tool's: others come before and between, for loading and validation.
"""

import ast
import json
import math
import re
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from dihedral.bridge.tasks.registry import TaskError
from dihedral.schemas.strict import Strict

PRESETS = Path(__file__).with_name("tool_presets.toml")
BAR = re.compile(
    r"(?P<pct>\d{1,3})%\|[^|]*\|\s*(?P<n>[\d.]+)[kMG]?/(?P<total>[\d.]+)[kMG]?\s*"
    r"\[(?P<el>[\d:]+)<(?P<left>[\d:?]+|\?),\s*(?P<rate>[^,\[\]\s][^,\[\]]*)(?:,(?P<post>[^\[\]]*))?\]"
)
PAIR = re.compile(r"(?<!\w)(\w{1,64})[=:]\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)", re.IGNORECASE)
PLACEHOLDER = re.compile(r"\{([A-Za-z][A-Za-z0-9_.-]*)\}")
STEPS = ("step", "global_step", "steps", "iteration")
LINE_BYTES = 16 * 1024  # a line without an end is cut there
SAFETENSORS_HEADER_BYTES = 100 * 2**20


class ToolSettings(Strict, kw_only=True, rename="camel"):
    """[tools.NAME]. preset: whose values stand where this table has none. progress: the name before the bar that counts, or a regular
    expression with the groups step, total and any metric. Globs are relative to the scratch folder of the run. resume: added to argv where there
    is a checkpoint. quietSeconds: a tool that prints nothing for so long hangs (0: never). diskMib: most that a run may write (0: no limit but
    the disk's). image: of the preset `container`. memoryMib: device memory that is reserved for a run. keepCheckpoints: how many whole ones are kept.
    """

    preset: str = ""
    label: str = ""
    argv: list[str] = field(default_factory=list)
    resume: list[str] = field(default_factory=list)
    cwd: str = ""
    env: dict[str, str] = field(default_factory=dict)
    python: str = ""
    image: str = ""
    config_format: Literal["toml", "yaml", "json"] = "json"
    progress: str = ""
    samples: list[str] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    result: list[str] = field(default_factory=list)
    stop_signal: Literal["TERM", "INT"] = "TERM"
    grace_seconds: float = 10.0
    quiet_seconds: float = 0.0
    disk_mib: int = 0
    memory_mib: Annotated[int, Meta(ge=0)] = 0
    keep_checkpoints: Annotated[int, Meta(ge=1, le=100)] = 1


def memory_mib(settings: "ToolsSettings", params: Mapping[str, Any]) -> int:
    """Returns what the operator has declared for the tool that these params name; a tool that is named wrongly is refused by the run."""
    try:
        return named(settings.tools, str(params.get("tool"))).memory_mib
    except TaskError:
        return 0


class ToolsSettings(Strict, kw_only=True, rename="camel"):
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)


def presets() -> dict[str, dict[str, Any]]:
    return tomllib.loads(PRESETS.read_text())


def named(tables: Mapping[str, Mapping[str, Any]], name: str) -> ToolSettings:
    """Raises: TaskError `unknown_tool`, `invalid_settings`."""
    if name not in tables:
        known = ", ".join(sorted(tables)) or "none"
        raise TaskError(
            f"there is no tool {name!r}; the settings file names {known} (a table [tools.NAME])", code="unknown_tool"
        )
    table = tables[name]
    preset = table.get("preset", "")
    if preset and preset not in presets():
        raise TaskError(
            f"[tools.{name}] preset: there is no {preset!r}; there are {', '.join(presets())}", code="invalid_settings"
        )
    try:
        made = msgspec.convert({**presets().get(preset, {}), **table}, ToolSettings)
    except msgspec.ValidationError as error:
        raise TaskError(f"[tools.{name}]: {error}", code="invalid_settings") from None
    if not made.argv or not made.result:
        raise TaskError(f"[tools.{name}] needs argv and result, or a preset", code="invalid_settings")
    try:
        re.compile(made.progress)
    except re.error as error:
        raise TaskError(f"[tools.{name}] progress: {error}", code="invalid_settings") from None
    return made


def missing(settings: ToolSettings) -> list[str]:
    """Returns what the tool needs to run and this machine does not have."""
    found = []
    program = (
        settings.argv[0]
        .replace("{python}", interpreter(settings))
        .replace("{container}", container() or "podman or docker")
    )
    if settings.cwd and not Path(settings.cwd).expanduser().is_dir():
        found.append(f"the folder {settings.cwd} (cwd)")
    if not executable(program, settings):
        found.append(f"the program {program}")
    if "{image}" in settings.argv and not settings.image:
        found.append("the name of an image (image)")
    scripts = [each for each in settings.argv[1:] if each.endswith(".py") and "{" not in each]
    where = Path(settings.cwd or ".").expanduser()
    found += [f"{script}: set cwd to the tool's folder" for script in scripts[:1] if not (where / script).exists()]
    if "-m" in settings.argv and not settings.cwd and not settings.python:
        found.append(f"the package of {settings.argv[settings.argv.index('-m') + 1]}: set cwd to the tool's folder")
    return found


def executable(program: str, settings: ToolSettings) -> str | None:
    return shutil.which(program, path=settings.env.get("PATH"))


def interpreter(settings: ToolSettings) -> str:
    return str(Path(settings.python).expanduser()) if settings.python else sys.executable


def container() -> str:
    return shutil.which("podman") or shutil.which("docker") or ""


# Command lines ------------------------------------------------------------------------------------------------------


def command(argv: Iterable[str], values: Mapping[str, str], arguments: list[str]) -> list[str]:
    """Fills the placeholders; `{arguments}` becomes several arguments. Raises: TaskError `invalid_input`: a placeholder has no value."""
    made: list[str] = []
    for each in argv:
        if each == "{arguments}":
            made += arguments
        else:
            made.append(filled(each, values))
    return made


def filled(text: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            what = match[1].removeprefix("files.")
            raise TaskError(
                f"the tool's command line needs {match[0]}: give {'files.' + what if '.' in match[1] else what}",
                code="invalid_input",
            )
        return values[match[1]]

    return PLACEHOLDER.sub(value, text)


def arguments_of(config: Mapping[str, Any]) -> list[str]:
    """A config as flags: {"rank": 4, "gradient_checkpointing": true} → --rank 4 --gradient_checkpointing."""
    made: list[str] = []
    for name, value in config.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise TaskError(f"config: {name!r} cannot be a flag", code="invalid_input")
        if value is True:
            made.append(f"--{name}")
        elif isinstance(value, list):
            made += [f"--{name}", *map(str, value)]
        elif value is not None and value is not False:
            made += [f"--{name}", str(value)]
    return made


def placed(value: Any, values: Mapping[str, str]) -> Any:
    """The config with `{output}` and the like replaced where they stand for something."""
    if isinstance(value, dict):
        return {name: placed(each, values) for name, each in value.items()}
    if isinstance(value, list):
        return [placed(each, values) for each in value]
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), value)
    return value


def config_text(config: Mapping[str, Any], kind: str) -> str:
    """JSON is YAML too."""
    return "".join(_toml(config, [])) if kind == "toml" else json.dumps(config, indent=1, ensure_ascii=False)


def _toml(table: Mapping[str, Any], path: list[str]) -> Iterator[str]:
    tables = {name: value for name, value in table.items() if isinstance(value, dict)}
    for name, value in table.items():
        if name not in tables and value is not None:
            yield f"{json.dumps(name)} = {_toml_value(value)}\n"
    for name, value in tables.items():
        inner = [*path, json.dumps(name)]
        yield f"\n[{'.'.join(inner)}]\n"
        yield from _toml(value, inner)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(each) for each in value if each is not None) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


# Output -------------------------------------------------------------------------------------------------------------


class Output:
    """The output of a tool so far: lines, and the numbers in them."""

    def __init__(self, progress: str, total: int) -> None:
        """`total`: steps that were requested, 0 where the number is not known."""
        self.step = 0
        self.total = total
        self.metrics: dict[str, float] = {}
        self._regex = re.compile(progress) if "(?P<" in progress else None
        self._desc = "" if self._regex else progress
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[str, bool]]:
        """Yields (line, whether it is a bar) of each line that has an end, `\\r` included."""
        parts = re.split(rb"[\r\n]", self._rest + data)
        self._rest = parts.pop()
        if len(self._rest) > LINE_BYTES:
            parts.append(self._rest)
            self._rest = b""
        for part in parts:
            line = part[:LINE_BYTES].decode("utf-8", "replace").strip()
            if line:
                yield line, self._read(line)

    def end(self) -> Iterator[tuple[str, bool]]:
        yield from self.feed(b"\n")

    @property
    def fraction(self) -> float:
        return min(1.0, self.step / self.total) if self.total > 0 else 0.0

    def _read(self, line: str) -> bool:
        if self._regex is not None and (own := self._regex.search(line)):
            self._take({name: value for name, value in own.groupdict().items() if value is not None})
            return False
        if "%|" in line and (bar := BAR.search(line)):
            before, colon, _ = line[: bar.start()].rstrip().rpartition(":")
            desc = before.rpartition("|")[2].strip() if colon else ""
            if not self._desc or desc.lower().startswith(self._desc.lower()):
                self._take({"step": bar["n"], "total": bar["total"], **dict(PAIR.findall(bar["post"] or ""))})
            return True
        if line[0] == "{" and line[-1] == "}":
            self._take(_document(line))
        return False

    def _take(self, values: Mapping[str, Any]) -> None:
        numbers = {name: number for name, value in values.items() if (number := _number(value)) is not None}
        total = numbers.pop("total", numbers.pop("max_steps", 0.0))
        if total > 0:
            self.total = int(total)
        for name in STEPS:
            if name in numbers:
                self.step = int(numbers.pop(name))
        self.metrics |= {
            name[:64]: number for name, number in numbers.items() if len(self.metrics) < 64 or name in self.metrics
        }

    @property
    def loss(self) -> float | None:
        return next((self.metrics[name] for name in ("loss", "avr_loss", "train_loss") if name in self.metrics), None)


def _document(line: str) -> dict[str, Any]:
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(line)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _number(value: Any) -> float | None:
    """Numbers are texts in the dicts of transformers 5."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# Files --------------------------------------------------------------------------------------------------------------


def found(folder: Path, globs: Iterable[str]) -> list[Path]:
    """Matches below `folder`, the oldest first; what a link leads out of it to is none."""
    inside = folder.resolve()
    matches = {path for each in globs for path in folder.glob(each) if path.resolve().is_relative_to(inside)}
    return sorted(matches, key=lambda path: (changed(path), path.name))


def files_in(path: Path) -> list[Path]:
    return [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file() and not each.is_symlink()]


def changed(path: Path) -> float:
    try:
        return max([path.stat().st_mtime, *(each.stat().st_mtime for each in files_in(path))])
    except OSError:
        return 0.0


def signature(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Returns a value that changes as soon as a file in the path is written."""
    try:
        stats = [(str(each), each.stat()) for each in files_in(path)]
    except OSError:
        return ()
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


def is_whole(path: Path) -> bool:
    """Returns True when every file in it is complete, as far as its format shows."""
    files = files_in(path)
    try:
        return bool(files) and all(_is_whole(each) for each in files)
    except OSError:
        return False


def _is_whole(file: Path) -> bool:
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(8)
        if file.suffix == ".safetensors":
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > min(size, SAFETENSORS_HEADER_BYTES):
                return False
            try:
                tensors = json.loads(opened.read(length))
                ends = [each["data_offsets"][1] for name, each in tensors.items() if name != "__metadata__"]
            except (ValueError, KeyError, TypeError, IndexError, AttributeError):
                return False
            return size == 8 + length + max(ends, default=0)
        if head[:2] == b"PK":
            return zipfile.is_zipfile(opened)
    if file.suffix == ".json":
        try:
            json.loads(file.read_bytes())
        except ValueError:
            return False
    return True


def is_film(file: Path) -> bool:
    """Returns True when a film has a picture: some tools leave an empty one, and exit with 0."""
    import av

    from dihedral.data_plane.media.decode import in_one_thread

    try:
        with av.open(str(file)) as opened:
            some = opened.streams.video or opened.streams.audio
            return bool(some) and next(in_one_thread(opened).decode(some[0]), None) is not None
    except (av.FFmpegError, OSError, ValueError):
        return False
