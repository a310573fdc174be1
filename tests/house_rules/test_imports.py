"""The arrows of the house: which package imports which, and what is imported only when it is needed."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
OURS = {"schemas", "bridge", "control_plane", "data_plane", "dihedral", "codegen", "tests"}
MAY_IMPORT = {
    "schemas": {"schemas"},
    "bridge": {"bridge", "schemas"},
    "control_plane": {"control_plane", "bridge", "schemas"},
    "data_plane": {"data_plane", "bridge", "schemas"},
    "dihedral": {"dihedral", "control_plane", "data_plane", "bridge", "schemas"},
    "codegen": {"codegen"},
}
ROOMS = {
    "bridge/fabric/": {"bridge/fabric/", "bridge/graphs.py", "bridge/"},
    "bridge/artifacts/prune.py": {"bridge/artifacts/", "bridge/fabric/", "bridge/"},  # it asks the jobs what they name
    "bridge/artifacts/agreement.py": {"bridge/artifacts/", "bridge/fabric/", "bridge/"},  # the planes agree by Redis
    "bridge/artifacts/": {"bridge/artifacts/", "bridge/"},
    "bridge/tasks/": {"bridge/tasks/", "bridge/artifacts/", "bridge/"},
    "bridge/worker/": {"bridge/worker/", "bridge/fabric/", "bridge/tasks/", "bridge/artifacts/", "bridge/"},
    "bridge/tracing.py": {"bridge/", "bridge/tasks/"},
    "bridge/": {"bridge/"},
}
"""Room -> the rooms that it may import from; "bridge/" is the furniture, the modules in no room. The first that fits counts."""
ONLY_IN = {
    "cupy": ("data_plane/device.py", "data_plane/kernels/"),
    "cupyx": ("data_plane/device.py", "data_plane/kernels/"),
    "litestar": ("control_plane/",),
    "langgraph": ("bridge/worker/branches.py", "control_plane/planning/goals/stages.py", "dihedral/langgraph.py"),
    "opentelemetry": ("bridge/tracing.py",),
    "pynvml": ("data_plane/gpu_memory/readings.py",),
    "torch": ("data_plane/diffusion/", "data_plane/tasks/train_diffusion_lora.py"),
    "diffusers": ("data_plane/diffusion/",),
    "peft": ("data_plane/diffusion/",),
    "transformers": ("data_plane/diffusion/",),
}
NEVER_AT_THE_TOP = {
    "cupy",
    "cupyx",
    "langgraph",
    "opentelemetry",
    "pynvml",
    "torch",
    "diffusers",
    "peft",
    "transformers",
}
READS_ENVIRONMENT = {
    "bridge/settings.py": "where all settings come from",
    "data_plane/slots/child.py": "prepares the process for CUDA and BLAS, which read nothing else",
    "data_plane/slots/leftovers.py": "puts back what a task has changed of it",
}
HANDS_ENVIRONMENT_ON = ("dihedral/", "control_plane/__main__.py", "data_plane/__main__.py")
LIGHT = {
    "dihedral/__init__.py",
    "dihedral/cli.py",
    "dihedral/completion.py",
    "dihedral/job_commands.py",
    "dihedral/tables.py",
    "dihedral/terminal.py",
    "dihedral/typed_params.py",
}
LIGHT_MODULES = tuple(path.removesuffix(".py").replace("/", ".") for path in LIGHT - {"dihedral/__init__.py"})
"""What every command and every import of a public name loads first."""


class Import(msgspec.Struct, frozen=True):
    module: str
    line: int
    lazy: bool  # inside a function
    typing: bool  # under `if TYPE_CHECKING`

    @property
    def top(self) -> str:
        """The folder of ours, or the package of others, that it names."""
        first, _, rest = self.module.partition(".")
        second = rest.partition(".")[0]
        return second if first == "dihedral" and second in OURS else first


def imports(tree: ast.AST, path: str, lazy: bool = False, typing: bool = False) -> Iterator[Import]:
    """Every import below, also `importlib.import_module("…")` and `__import__("…")` of a literal."""
    for child in ast.iter_child_nodes(tree):
        match child:
            case ast.Import(names=names):
                yield from (Import(name.name, child.lineno, lazy, typing) for name in names)
            case ast.ImportFrom(module=module, level=level, names=names):
                within = PurePosixPath("dihedral", path).parts[:-level] if level else ()
                start = ".".join([*within, *([module] if module else [])])
                yield from (Import(f"{start}.{name.name}", child.lineno, lazy, typing) for name in names)
            case ast.Call(func=func, args=[ast.Constant(value=str(module)), *_]) if ast.unparse(func) in (
                "importlib.import_module", "import_module", "__import__",
            ):  # fmt: skip
                yield Import(module, child.lineno, lazy, typing)
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checked = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        yield from imports(child, path, lazy or inside, typing or checked)


def environment_uses(tree: ast.AST) -> Iterator[tuple[int, bool]]:
    """(line, whether something is read from it or written to it here) of each use of the environment."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb"):
                yield node.lineno, isinstance(parents[node], ast.Subscript | ast.Attribute | ast.Compare)
            case ast.Attribute(value=ast.Name(id="os"), attr="getenv" | "getenvb" | "putenv" | "unsetenv"):
                yield node.lineno, True
            case ast.ImportFrom(module="os", names=names) if {"environ", "getenv", "putenv"} & {n.name for n in names}:
                yield node.lineno, True


def offences(path: str, text: str) -> list[str]:
    """What is wrong with a module, as lines; `path` is relative to the root."""
    tree = ast.parse(text)
    package = PurePosixPath(path).parts[0]
    found = []
    for each in imports(tree, path):
        where = f"{path}:{each.line}: {each.module}"
        if each.top in OURS - MAY_IMPORT[package]:
            found.append(f"{where}: {package} must not import {each.top}")
        if each.top in ONLY_IN and not path.startswith(ONLY_IN[each.top]):
            found.append(f"{where}: only in {' and '.join(ONLY_IN[each.top])}")
        if each.top in NEVER_AT_THE_TOP and not (each.lazy or each.typing):
            found.append(f"{where}: only inside a function")
        light = (
            each.top in sys.stdlib_module_names
            or each.module.rpartition(".")[0] in LIGHT_MODULES
            or each.module in LIGHT_MODULES
        )
        if path in LIGHT and not (each.lazy or each.typing or light):
            found.append(f"{where}: only inside a function, here")
    for line, touched in environment_uses(tree):
        if path in READS_ENVIRONMENT:
            continue
        if touched:
            found.append(f"{path}:{line}: the environment is read in bridge/settings.py only")
        elif not path.startswith(HANDS_ENVIRONMENT_ON):
            found.append(f"{path}:{line}: only an entry point hands the environment to bridge.settings")
    return found


def modules() -> dict[str, str]:
    """Path → text of everything that is installed, and of codegen."""
    paths = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def test_every_arrow_points_the_right_way() -> None:
    found = modules()
    assert {path.partition("/")[0] for path in found} == set(MAY_IMPORT)
    assert [offence for path, text in found.items() for offence in offences(path, text)] == []


def room_of(path: str) -> str:
    return next((room for room in ROOMS if path.startswith(room)), "")


def graph(found: dict[str, str]) -> dict[str, set[str]]:
    """Module path -> the paths of ours that it imports, lazily or for types too. A package is its `__init__.py`."""
    paths = {path.removesuffix("/__init__.py").removesuffix(".py").replace("/", "."): path for path in found}

    def target(module: str) -> str | None:
        name = (
            module.removeprefix("dihedral.") if module.removeprefix("dihedral.").partition(".")[0] in OURS else module
        )
        return paths.get(name) or paths.get(name.rpartition(".")[0])

    edges: dict[str, set[str]] = {}
    for path, text in found.items():
        named = [
            f"{node.module}.{name.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module
            for name in node.names
        ]
        named += [each.module for each in imports(ast.parse(text), path)]
        whole = {found_path for module in named if (found_path := target(module)) is not None}
        edges[path] = whole - {path}
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The modules that import each other, once for each way round that a walk meets."""
    found, done = [], set()
    for start in edges:
        stack: list[tuple[str, Iterator[str]]] = [(start, iter(sorted(edges[start])))] if start not in done else []
        way = [start]
        while stack:
            here, rest = stack[-1]
            step = next(rest, None)
            if step is None:
                done.add(here)
                stack.pop()
                way.pop()
            elif step in way:
                found.append([*way[way.index(step) :], step])
            elif step not in done:
                stack.append((step, iter(sorted(edges.get(step, ())))))
                way.append(step)
    return found


def test_no_modules_import_each_other() -> None:
    assert circles(graph(modules())) == []


def test_a_circle_is_found() -> None:
    text = {
        "bridge/a.py": "from dihedral.bridge import b",
        "bridge/b.py": "def f():\n    from dihedral.bridge.c import x",
        "bridge/c.py": "if TYPE_CHECKING:\n    from dihedral.bridge.a import y",
    }
    assert circles(graph(text)) == [["bridge/a.py", "bridge/b.py", "bridge/c.py", "bridge/a.py"]]


def wrong_rooms(edges: dict[str, set[str]]) -> list[str]:
    return [
        f"{path}: {room_of(path)} must not import {other}"
        for path, others in edges.items()
        if room_of(path)
        for other in sorted(others)
        if room_of(other) and room_of(other) not in ROOMS[room_of(path)] | {"bridge/tracing.py"}
    ]


def test_every_room_of_the_bridge_imports_only_what_lies_below_it() -> None:
    assert wrong_rooms(graph(modules())) == []


@pytest.mark.parametrize(
    ("path", "other"),
    [
        ("bridge/fabric/jobs.py", "bridge/tasks/runs.py"),
        ("bridge/fabric/leases.py", "bridge/worker/loop.py"),
        ("bridge/tasks/context.py", "bridge/fabric/keys.py"),
        ("bridge/artifacts/owned.py", "bridge/tasks/runs.py"),
        ("bridge/metrics.py", "bridge/artifacts/store.py"),
        ("bridge/graphs.py", "bridge/fabric/jobs.py"),
    ],
)
def test_an_arrow_between_rooms_that_points_back_is_found(path: str, other: str) -> None:
    module = other.removesuffix(".py").replace("/", ".")
    (found,) = wrong_rooms(graph({path: f"from dihedral.{module} import x", other: ""}))
    assert found.startswith(path)


def test_what_is_excepted_is_there_and_makes_use_of_it() -> None:
    """An exception that nobody needs any more would let in what it was not made for."""
    found = modules()
    for path in READS_ENVIRONMENT:
        assert any(environment_uses(ast.parse(found[path]))), path
    for path in LIGHT:
        assert path in found
    used = {each.top: path for path, text in found.items() for each in imports(ast.parse(text), path)}
    assert {"cupy", "litestar", "langgraph"} <= used.keys()


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("schemas/strict.py", "import dihedral.bridge.fabric.keys", "schemas must not import bridge"),
        ("schemas/structs/job.py", "from dihedral import task", "schemas must not import dihedral"),
        ("data_plane/tasks/simulate.py", "from ...bridge import keys\nfrom ...control_plane.hub import Hub", "must not import control_plane"),
        ("bridge/worker/loop.py", "from control_plane import hub", "bridge must not import control_plane"),
        ("bridge/worker/loop.py", "def f():\n    import data_plane.slots", "bridge must not import data_plane"),
        ("control_plane/app.py", "from data_plane.device import Device", "control_plane must not import data_plane"),
        ("control_plane/app.py", "import os, data_plane", "control_plane must not import data_plane"),
        ("data_plane/slots/pool.py", "if True:\n    from control_plane.tasks import llm", "data_plane must not import control_plane"),
        ("data_plane/slots/pool.py", "import importlib\nimportlib.import_module('control_plane.app')", "must not import control_plane"),
        ("data_plane/slots/pool.py", "if TYPE_CHECKING:\n    import dihedral.client", "data_plane must not import dihedral"),
        ("dihedral/up.py", "import codegen", "dihedral must not import codegen"),
        ("bridge/fabric/keys.py", "def f():\n    from tests.support.stack import Stack", "bridge must not import tests"),
        ("codegen/__main__.py", "import schemas", "codegen must not import schemas"),
        ("data_plane/tasks/train_voice.py", "def f():\n    import cupy as cp", "only in data_plane/device.py"),
        ("data_plane/device.py", "import cupy", "only inside a function"),
        ("data_plane/kernels/low_rank.py", "from cupyx.scipy import linalg", "only inside a function"),
        ("bridge/worker/loop.py", "from litestar import Litestar", "only in control_plane/"),
        ("dihedral/up.py", "def f():\n    import litestar.testing", "only in control_plane/"),
        ("bridge/worker/reporting.py", "def f():\n    from langgraph.func import task", "only in bridge/worker/branches.py and "),
        ("bridge/worker/branches.py", "from langgraph.func import task", "only inside a function"),
        ("bridge/worker/branches.py", "class A:\n    import langgraph", "only inside a function"),
        ("dihedral/__init__.py", "from dihedral.server import start", "only inside a function, here"),
        ("dihedral/cli.py", "import httpx", "only inside a function, here"),
        ("bridge/worker/loop.py", "import os\nos.environ['A']", "read in bridge/settings.py only"),
        ("bridge/worker/loop.py", "import os\nos.environ.get('A')", "read in bridge/settings.py only"),
        ("bridge/worker/loop.py", "import os\n'A' in os.environ", "read in bridge/settings.py only"),
        ("bridge/worker/loop.py", "import os\nx = os.getenv('A')", "read in bridge/settings.py only"),
        ("bridge/worker/loop.py", "from os import environ", "read in bridge/settings.py only"),
        ("dihedral/up.py", "import os\nos.environ['A'] = '1'", "read in bridge/settings.py only"),
        ("control_plane/app.py", "import os\nload(os.environ)", "only an entry point"),
    ],
)  # fmt: skip
def test_each_offence_is_found(path: str, text: str, said: str) -> None:
    (offence,) = offences(path, text)
    assert said in offence
    assert offence.startswith(f"{path}:")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("control_plane/app.py", "import litestar, dihedral.bridge.fabric.keys\nfrom schemas.structs import job"),
        ("schemas/structs/job.py", "from . import events\nfrom .graph import Plane\nfrom ..strict import Strict"),
        ("data_plane/device.py", "def f():\n    import cupy"),
        ("data_plane/device.py", "if TYPE_CHECKING:\n    import cupy"),
        ("bridge/worker/branches.py", "async def f():\n    from langgraph.func import task"),
        ("dihedral/__init__.py", "from typing import Any\nif TYPE_CHECKING:\n    from bridge.tasks import task"),
        ("dihedral/up.py", "import os, control_plane\nsettings.load(None, os.environ, {})"),
        ("bridge/settings.py", "import os\nos.environ['A']"),
    ],
)
def test_what_is_allowed_is_no_offence(path: str, text: str) -> None:
    assert offences(path, text) == []


# What happens -----------------------------------------------------------------------------------------------------------

HEAVY = {"av", "cupy", "langchain_core", "langgraph", "numpy", "soundfile", "torch"}
LOADED = "\nimport json, sys\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def loaded_by(program: str) -> set[str]:
    command = [sys.executable, "-P", "-c", program + LOADED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("program", "more"),
    [
        ("import dihedral", {"httpx", "litestar", "msgspec", "redis", "websockets"}),
        ("import dihedral\ndihedral.Client", {"litestar", "redis"}),
        ("import dihedral\ndihedral.task", {"httpx", "litestar", "redis"}),
        ("import dihedral.bridge.fabric.scripts", {"litestar"}),
        ("import dihedral.bridge.worker.loop", {"litestar"}),
        ("import dihedral.control_plane.app", set()),
        ("import dihedral.data_plane.service", {"litestar"}),
    ],
)
def test_an_import_loads_nothing_heavy(program: str, more: set[str]) -> None:
    assert loaded_by(program) & (HEAVY | more) == set()


@pytest.mark.parametrize("plane", ["control_plane", "data_plane"])
def test_the_help_of_a_plane_loads_nothing_heavy(plane: str) -> None:
    program = (
        f"import runpy, sys\nsys.argv = ['{plane}', '--help']\n"
        f"try: runpy.run_module('dihedral.{plane}', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code"
    )
    found = loaded_by(program)
    assert "argparse" in found
    assert found & (HEAVY | {"litestar", "redis", "uvicorn"}) == set()


def test_something_heavy_would_be_noticed() -> None:
    assert "numpy" in loaded_by("import numpy") & HEAVY
