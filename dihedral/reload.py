"""`dihedral up --reload`: what is watched, and whether the new state of it can be loaded.

Files are looked at twice a second, which needs no package and works on every file system. The modules of `--tasks` are watched with the Python files
beside them (a package with all below it; tests are left out), and the folder of `--pipelines`. What has changed is loaded in a process of its own
first (`python -m dihedral.reload`), so a mistake costs no running worker.
"""

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from dihedral.bridge.errors import DihedralError

LOOK_SECONDS = 0.5
CHECK_SECONDS = 60.0
Seen = Mapping[Path, tuple[int, int]]


class Checked(msgspec.Struct):
    """The answer of the process that loads what has changed. `error`: why it cannot be loaded; `has_light_control_tasks`: the control plane runs some of it."""

    error: str = ""
    has_light_control_tasks: bool = False


def sources(modules: Iterable[str], directory: Path) -> list[Path]:
    """Returns the folders and files to watch for these modules, given by name or by path."""
    found = []
    for name in modules:
        if name.endswith(".py") or "/" in name:
            found.append((directory / name).resolve())
            continue
        parts = Path(*name.split("."))
        for folder in (directory, *map(Path, sys.path)):
            if (folder / parts).with_suffix(".py").is_file():
                found.append((folder / parts).with_suffix(".py").resolve())
                break
            if (folder / parts / "__init__.py").is_file():
                found.append((folder / parts).resolve())
                break
    return found


def look(paths: Iterable[Path], pipelines: Path | None) -> Seen:
    """Returns time and size of each watched file."""
    files: set[Path] = set()
    for path in paths:
        files.update(path.rglob("*.py") if path.is_dir() else path.parent.glob("*.py"))
    files = {file for file in files if not file.name.startswith("test_")}
    if pipelines is not None:
        files.update(pipelines.glob("*.json"))
    seen = {}
    for file in files:
        try:
            found = file.stat()
        except OSError:  # deleted since it was listed
            continue
        seen[file] = found.st_mtime_ns, found.st_size
    return seen


async def changes(modules: Sequence[str], pipelines: Path | None, directory: Path) -> AsyncIterator[list[Path]]:
    """Yields the files that were changed, added or deleted, once they are left alone: an editor writes in several steps."""
    paths = sources(modules, directory)
    seen = await asyncio.to_thread(look, paths, pipelines)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = await asyncio.to_thread(look, paths, pipelines)
        if now == seen:
            continue
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            later = await asyncio.to_thread(look, paths, pipelines)
            if later == now:
                break
            now = later
        changed = sorted(path for path in {*seen, *now} if seen.get(path) != now.get(path))
        seen = now
        if changed:
            yield changed


async def check(modules: Sequence[str], pipelines: str, environment: Mapping[str, str]) -> Checked:
    """Loads the modules and pipelines in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "dihedral.reload", pipelines, *modules,
        env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            answer, _ = await process.communicate()
        return msgspec.json.decode(answer.splitlines()[-1], type=Checked)
    except TimeoutError:
        return Checked(error=f"it was not loaded in {CHECK_SECONDS:g} s")
    except (IndexError, msgspec.DecodeError):
        return Checked(error=f"the process that loads it ended with code {process.returncode}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main(pipelines: str, *modules: str) -> None:
    from dihedral.bridge.tasks import registry
    from dihedral.control_plane.planning import pipelines as templates

    checked = Checked()
    try:
        found = registry.collect(modules, plugins=False, directory=Path.cwd())
        checked.has_light_control_tasks = any(each.capability.plane == "node" for each in found.values())
        templates.load(pipelines)
    except DihedralError as error:
        checked.error = f"{error}{_line(error.__cause__)}"
    print("\n" + msgspec.json.encode(checked).decode())  # behind what the modules print


def _line(cause: BaseException | None) -> str:
    """Returns the place in the user's file; a SyntaxError names it itself."""
    if cause is None or isinstance(cause, SyntaxError):
        return ""
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if not frame.filename.startswith("<")]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


if __name__ == "__main__":
    main(*sys.argv[1:])
