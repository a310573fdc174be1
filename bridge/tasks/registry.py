"""Tasks: a decorator that only marks, and a registry that turns what was marked into manifest entries.

    @task(description="Counts words.")
    async def count_words(params: Text, ctx: TaskContext) -> Count: ...

`@task` changes nothing about the function, so it can be called and tested as a plain function. `collect` imports modules and the plugins of the
entry-point group `dihedral.tasks`, reads the types of the functions marked there, and derives each capability (its manifest entry).
A function that cannot be a task is refused then, with file and line, not when its first job arrives.

Light tasks (`async def`, kind cpu) run in the worker itself; plain functions and everything of kind gpu run in a slot.

Large because the options of `@task` stand four times (twice typed for overloads), and what they mean is checked beside them.
"""

import importlib
import inspect
import math
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar, overload

import msgspec

from dihedral.bridge.errors import DihedralError, SettingsError
from dihedral.bridge.pools import RESERVED_POOLS
from dihedral.bridge.tasks.context import NAME, TaskCancelled, TaskContext, TaskError, invalid_input
from dihedral.bridge.tasks.params import grouped, marked, titled, wrong_artifacts
from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef
from dihedral.schemas.structs.capability import Capability, Check, Contracts, Io, Parameter, Runtime, TaskKind, Voice
from dihedral.schemas.structs.graph import Plane

__all__ = [
    "InvalidTask",
    "Registry",
    "Task",
    "TaskCancelled",
    "TaskContext",
    "TaskError",
    "collect",
    "invalid_input",
    "task",
]

ENTRY_POINTS = "dihedral.tasks"
MARK = "__dihedral_task__"

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)
S = TypeVar("S", bound=msgspec.Struct)
Schema = dict[str, Any]


class InvalidTask(DihedralError):
    """A module cannot be loaded, or a function that it marks cannot be a task; names file, line and reason."""


class Declaration(msgspec.Struct, kw_only=True, frozen=True):
    """The options given to `@task`."""

    id: str | None
    label: str | None
    description: str | None
    version: str
    plane: Literal["node", "python"]
    kind: Literal["cpu", "gpu"]
    pool: str
    timeout_seconds: float
    concurrency: int
    needs_device: bool
    memory_mib: int
    memory_param: str
    memory_by: tuple[str, ...]
    time_by: tuple[str, ...]
    memory_of: Callable[[Any, Mapping[str, Any]], int] | None
    warm: tuple[str, ...]
    smaller: Callable[[Any], Any] | None
    rehearses: Callable[[Any], bool] | None
    idempotent: bool
    resumable: bool
    side_effects: tuple[str, ...]
    retry_on: tuple[type[BaseException], ...]
    settings: type[msgspec.Struct] | None
    unavailable: Callable[[], str] | None
    voices: Callable[[Any], list[Voice]] | None
    examples: tuple[dict[str, Any], ...]
    groups: dict[str, tuple[str, ...]]
    keywords: tuple[str, ...]
    checks: tuple[Check, ...]


class Task:
    """A task function and everything derived from its types."""

    def __init__(
        self, function: Function, params_type: Any, output_type: Any, capability: Capability, declared: Declaration
    ) -> None:
        self.function = function
        self.params_type = params_type
        self.output_type = output_type
        self.capability = capability
        self.light = _is_light(function, declared)
        self.retry_on = declared.retry_on
        self.resumable = declared.resumable
        self._declared = declared
        self.model_roots: Sequence[str] = ()
        self._table: Mapping[str, Any] = {}
        self._output = msgspec.json.Decoder(output_type)

    @cached_property
    def manifest(self) -> Capability:
        """The capability with what this worker finds on its machine. Asks programs once, so a slot should not need it."""
        declared = self._declared
        found: dict[str, Any] = {}
        if declared.unavailable is not None and (reason := declared.unavailable()):
            found["unavailable"] = reason
        if declared.voices is not None and declared.settings is not None:
            found["voices"] = declared.voices(self.settings(declared.settings))
        return msgspec.structs.replace(self.capability, **found)

    def params(self, values: Mapping[str, Any]) -> Any:
        """Decodes params. Raises msgspec.ValidationError where they do not have the declared type."""
        return msgspec.convert(values, self.params_type)

    def configure(self, table: Mapping[str, Any]) -> None:
        """Takes its table of the settings file.

        Raises:
            SettingsError: it is not what the task declared.
        """
        self._table = table
        if self._declared.settings is not None:
            self.settings(self._declared.settings)

    def settings(self, kind: type[S]) -> S:
        """Converts the task's table to this type; missing settings have the type's defaults.

        Raises:
            SettingsError: "tasks.ID.path: reason", without the value, which may be a secret.
        """
        where = f"tasks.{self.capability.id}"
        known = {field.encode_name for field in msgspec.structs.fields(kind)}
        for name in self._table:
            if name not in known:
                raise SettingsError(f"{where}.{name}: there is no such setting")
        try:
            return msgspec.convert(self._table, kind)
        except msgspec.ValidationError as error:
            reason, _, path = str(error).partition(" - at `$")
            raise SettingsError(f"{where}{path.rstrip('`')}: {reason}") from None

    def memory_mib(self, params: Mapping[str, Any]) -> int:
        """Returns the device memory that a run with these params is declared to need, by the task or by the operator, MiB."""
        declared, of = declared_mib(self.capability, params), self._declared
        if of.memory_of is None or of.settings is None:
            return declared
        return max(declared, of.memory_of(self.settings(of.settings), params))

    def warm_key(self, params: Mapping[str, Any]) -> str:
        """Returns the key of the object that a run may keep loaded for the next one; empty: no object."""
        named = self._declared.warm
        return f"{self.capability.id} {_values(params, named)}" if named else ""

    def size_bucket(self, params: Mapping[str, Any]) -> str:
        """Returns a key that runs of about the same memory need share: numbers count by their product, in steps of a fifth, other values as they are."""
        named = self._declared.memory_by
        numbers = [params[name] for name in named if isinstance(params.get(name), int | float)]
        product = math.prod(numbers)
        size = round(4 * math.log2(product)) if product > 0 else 0
        rest = _values(params, [name for name in named if not isinstance(params.get(name), int | float)])
        return f"{self.capability.id} {self.capability.version} {size} {rest}"

    def smaller(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the declared variant that needs less memory; None where there is none, or none smaller than this one."""
        if self._declared.smaller is None:
            return None
        found = self._declared.smaller(self.params(params))
        return None if found is None else msgspec.to_builtins(found)

    def rehearses(self, params: Mapping[str, Any]) -> bool:
        """Returns whether these params ask for a fault. Params that are invalid for the task ask for none; the run refuses them."""
        try:
            return self._declared.rehearses is not None and self._declared.rehearses(self.params(params))
        except msgspec.ValidationError:
            return False

    def output(self, result: Any) -> bytes:
        """Encodes the result as JSON and checks it: structs can be built with any values, and clients rely on the schema.

        Raises:
            msgspec.ValidationError: it is not of the declared type.
            TypeError, ValueError, OverflowError: it has no JSON form.
        """
        encoded = msgspec.json.encode(result)
        if self.output_type is not Any:
            self._output.decode(encoded)
        return encoded


Registry = dict[str, Task]
MIB = 2**20


def declared_mib(capability: Capability, params: Mapping[str, Any]) -> int:
    """Returns the device memory that a run with these params is declared to need, MiB; a parameter not known yet counts as absent."""
    runtime = capability.runtime
    if not isinstance(runtime.memory_param, str):
        return runtime.memory_mib
    default = capability.io.input["properties"][runtime.memory_param].get("default")
    asked = params.get(runtime.memory_param, default)
    return max(runtime.memory_mib, asked) if isinstance(asked, int) else runtime.memory_mib


@overload
def task(function: F, /) -> F: ...


@overload
def task(
    *,
    id: str | None = None,
    label: str | None = None,
    description: str | None = None,
    version: str = "1",
    plane: Literal["node", "python"] = "python",
    kind: Literal["cpu", "gpu"] = "cpu",
    pool: str = "default",
    timeout_seconds: float = 3600,
    concurrency: int = 0,
    needs_device: bool = False,
    memory_mib: int = 0,
    memory_param: str = "",
    memory_by: Sequence[str] = (),
    time_by: Sequence[str] = (),
    memory_of: Callable[[Any, Mapping[str, Any]], int] | None = None,
    warm: Sequence[str] = (),
    smaller: Callable[[Any], Any] | None = None,
    rehearses: Callable[[Any], bool] | None = None,
    idempotent: bool = True,
    resumable: bool = False,
    side_effects: Sequence[str] = (),
    retry_on: Sequence[type[BaseException]] = (),
    settings: type[msgspec.Struct] | None = None,
    unavailable: Callable[[], str] | None = None,
    voices: Callable[[Any], list[Voice]] | None = None,
    examples: Sequence[dict[str, Any]] = (),
    groups: Mapping[str, Sequence[str]] = {},
    keywords: Sequence[str] = (),
    checks: Sequence[Check] = (),
) -> Callable[[F], F]: ...


def task(
    function: Function | None = None,
    /,
    *,
    id: str | None = None,
    label: str | None = None,
    description: str | None = None,
    version: str = "1",
    plane: Literal["node", "python"] = "python",
    kind: Literal["cpu", "gpu"] = "cpu",
    pool: str = "default",
    timeout_seconds: float = 3600,
    concurrency: int = 0,
    needs_device: bool = False,
    memory_mib: int = 0,
    memory_param: str = "",
    memory_by: Sequence[str] = (),
    time_by: Sequence[str] = (),
    memory_of: Callable[[Any, Mapping[str, Any]], int] | None = None,
    warm: Sequence[str] = (),
    smaller: Callable[[Any], Any] | None = None,
    rehearses: Callable[[Any], bool] | None = None,
    idempotent: bool = True,
    resumable: bool = False,
    side_effects: Sequence[str] = (),
    retry_on: Sequence[type[BaseException]] = (),
    settings: type[msgspec.Struct] | None = None,
    unavailable: Callable[[], str] | None = None,
    voices: Callable[[Any], list[Voice]] | None = None,
    examples: Sequence[dict[str, Any]] = (),
    groups: Mapping[str, Sequence[str]] = {},
    keywords: Sequence[str] = (),
    checks: Sequence[Check] = (),
) -> Any:
    """Marks `def f(params: P, ctx: TaskContext) -> O`, plain or async, as a task.

    `id` defaults to the function's name, `description` to its docstring. `concurrency`: at most so many at once in one worker, 0 = no limit of
    its own. `idempotent=False`: not run again after its worker was lost. `resumable=True`: stops soon when it is asked to, keeps a checkpoint
    then and goes on from it, so it may be interrupted for a job of higher priority. `retry_on`: exceptions after which another attempt may
    succeed. `settings`: the struct that the task reads by `ctx.settings`; with it an error in the file refuses the start. `groups`: the params of
    each group of the form, by the group's title. `keywords`: words and phrases by which people ask for it,
    beside those of label and description; the planner of goals matches them. `checks`: what a result is held against where a goal asks for it
    (`evaluate`).

    What the manifest of a worker also has, found when the worker starts: `unavailable()`: what is missing here for the task to run, a sentence,
    empty where nothing is; the task itself refuses its runs. `voices(settings)`: those that it can speak with.

    `needs_device`: waits for a worker with a device; other tasks of kind gpu compute on a CPU while no worker of their pool has one.

    Of the device (kind gpu), in names of parameters as JSON has them: `memory_mib`: what a run needs, or more where the parameter
    `memory_param` or `memory_of(settings, params)` says so; `memory_by`: on what it depends, so that what runs have used is learnt for each size; `warm`: what decides
    which object `ctx.warm` keeps. `smaller(params)`: the variant to try once when memory runs out, None where there is none.

    `time_by`: the parameters on which its duration depends, so that durations are learnt for each size; without it, those of `memory_by`.

    `rehearses(params)`: whether a run is to hurt its process on purpose: it has a slot then, and needs `worker.rehearsals`.
    """
    declared = Declaration(
        id=id,
        label=label,
        description=description,
        version=version,
        plane=plane,
        kind=kind,
        pool=pool,
        timeout_seconds=timeout_seconds,
        concurrency=concurrency,
        needs_device=needs_device,
        memory_mib=memory_mib,
        memory_param=memory_param,
        memory_by=tuple(memory_by),
        time_by=tuple(time_by),
        memory_of=memory_of,
        warm=tuple(warm),
        smaller=smaller,
        rehearses=rehearses,
        idempotent=idempotent,
        resumable=resumable,
        side_effects=tuple(side_effects),
        retry_on=tuple(retry_on),
        settings=settings,
        unavailable=unavailable,
        voices=voices,
        examples=tuple(examples),
        groups={group: tuple(names) for group, names in groups.items()},
        keywords=tuple(keywords),
        checks=tuple(checks),
    )

    def mark(marked: F) -> F:
        setattr(marked, MARK, declared)
        return marked

    return mark if function is None else mark(function)


def collect(
    modules: Iterable[str],
    *,
    plane: str | None = None,
    directory: Path | None = None,
    plugins: bool = True,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    model_roots: Sequence[str] = (),
) -> Registry:
    """Returns the tasks of modules and plugins by id; only those of `plane`, if given.

    `directory` goes on the module search path behind the installed packages, so that nothing in it can shadow one.
    `settings`: the tables of the settings file by task. `model_roots`: where tasks find local models.

    Raises:
        SettingsError: a task's table is not what the task declared.
        InvalidTask: a module cannot be imported, a marked function cannot be a task, or an id is taken twice.
    """
    if directory is not None:
        _search(str(directory))
    registry: Registry = {}
    for source in _sources(modules, plugins):
        for function in source:
            made = task_of(function)
            known = registry.setdefault(made.capability.id, made)
            if known.function is not function:
                raise InvalidTask(
                    f"{_where(function)}: task id {made.capability.id!r} is taken by {_where(known.function)}"
                )
    for id, table in (settings or {}).items():
        if id in registry:
            registry[id].configure(table)
    for made in registry.values():
        made.model_roots = model_roots
    return {id: made for id, made in registry.items() if plane is None or made.capability.plane == plane}


def _search(directory: str) -> None:
    """Appends a directory to the module search path. The checkout of an editable installation goes behind it, for that is no installed
    package: it has folders called `bridge` and `schemas`, as modules of the user may be."""
    if directory not in sys.path:
        sys.path.append(directory)
    checkout = Path(__file__).parents[3]
    if str(checkout) in sys.path and (checkout / "pyproject.toml").exists():
        sys.path.remove(str(checkout))
        sys.path.append(str(checkout))


def _sources(modules: Iterable[str], plugins: bool) -> Iterator[list[Function]]:
    for name in modules:
        yield _marked(_load(partial(_imported, name), f"task module {name!r}"), name)
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name) if plugins else ():
        loaded = _load(point.load, f"plugin {point.name!r} ({point.value})")
        yield [loaded] if hasattr(loaded, MARK) else _marked(loaded, point.value)


def _imported(name: str) -> ModuleType:
    """Imports a module by its name, or by the path of its file."""
    if not (name.endswith(".py") or "/" in name):
        return importlib.import_module(name)
    path = Path(name).resolve()
    if not path.is_file() or path.suffix != ".py":
        raise ImportError("there is no such Python file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.import_module(path.stem)
    if Path(module.__file__ or "").resolve() != path:
        raise ImportError(f"the name {path.stem} is taken by {module.__file__}; rename the file")
    return module


def _load(load: Callable[[], Any], what: str) -> Any:
    try:
        return load()
    except (Exception, SystemExit) as error:  # a script that calls sys.exit() must not end the worker without a message
        raise InvalidTask(f"{what} cannot be loaded: {type(error).__name__}: {error}") from error


def _marked(module: Any, name: str) -> list[Function]:
    if not isinstance(module, ModuleType):
        raise InvalidTask(f"{name}: neither a module nor a task")
    found = [value for value in vars(module).values() if isinstance(getattr(value, MARK, None), Declaration)]
    if not found:
        raise InvalidTask(f"task module {name!r} marks no function with @task")
    return found


# One task ------------------------------------------------------------------------------------------------------------


def task_of(function: Function) -> Task:
    """Builds the task of a marked function. Raises InvalidTask where the function cannot be one."""
    if not isinstance(getattr(function, MARK, None), Declaration):
        raise InvalidTask(f"{_where(function)} is not marked with @task")
    declared: Declaration = getattr(function, MARK)
    where = _where(function)
    id = declared.id if declared.id is not None else function.__name__
    if not NAME.fullmatch(id):
        raise InvalidTask(f"{where}: {id!r} cannot be a task id")
    for ok, reason in (
        (declared.plane in ("node", "python"), f"plane is node or python, not {declared.plane!r}"),
        (declared.kind in ("cpu", "gpu"), f"kind is cpu or gpu, not {declared.kind!r}"),
        (declared.timeout_seconds > 0, "timeout_seconds must be above 0"),
        (declared.concurrency >= 0 and declared.memory_mib >= 0, "concurrency and memory_mib cannot be negative"),
        (NAME.fullmatch(declared.pool), f"{declared.pool!r} cannot be a pool"),
        (declared.pool not in RESERVED_POOLS, f"pool {declared.pool!r} is reserved: it is the name of a priority"),
        (declared.plane == "python" or inspect.iscoroutinefunction(function), "on plane node a task must be async"),
        (declared.plane == "python" or declared.kind == "cpu", "plane node has no GPU"),
        (declared.kind == "gpu" or not declared.needs_device, "only a task of kind gpu can need a device"),
        (
            not (declared.resumable and inspect.iscoroutinefunction(function)),
            "resumable must be a plain function: an async one is not asked to stop but cancelled",
        ),
    ):
        if not ok:
            raise InvalidTask(f"{where}: task {id!r}: {reason}")
    try:
        params_type, output_type = _types(function)
        input_schema, output_schema = _schemas(params_type, output_type)
        marked(msgspec.inspect.type_info(params_type), input_schema)
        input_schema = grouped(titled(input_schema), declared.groups)
    except (InvalidTask, TypeError, NameError, ValueError) as error:
        raise InvalidTask(f"{where}: task {id!r}: {error}") from error
    if wrong := wrong_artifacts(input_schema):
        raise InvalidTask(f"{where}: task {id!r}: params{wrong}")
    named = [
        *declared.memory_by,
        *declared.time_by,
        *declared.warm,
        *([declared.memory_param] if declared.memory_param else []),
    ]
    for name in named:
        if name not in input_schema.get("properties", {}):
            raise InvalidTask(
                f"{where}: task {id!r}: it has no parameter {name!r} that its memory or time could depend on"
            )
    capability = _capability(function, id, declared, input_schema, output_schema)
    return Task(function, params_type, output_type, capability, declared)


def _types(function: Function) -> tuple[Any, Any]:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidTask("a task returns its output; it cannot yield")
    if not inspect.isfunction(function):
        raise InvalidTask("only a function can be a task")
    parameters = list(inspect.signature(function).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 2 or any(parameter.kind not in positional for parameter in parameters):
        raise InvalidTask("the signature must be (params: Params, ctx: TaskContext) -> Output")
    hints = typing.get_type_hints(function, include_extras=True)
    params, context = parameters
    if "return" not in hints:
        raise InvalidTask("the return type is missing")
    if hints.get(context.name) is not TaskContext:
        raise InvalidTask(f"the second parameter, {context.name!r}, must be annotated as TaskContext")
    params_type = hints.get(params.name)
    if not (isinstance(params_type, type) and issubclass(params_type, msgspec.Struct)):
        raise InvalidTask(f"the first parameter, {params.name!r}, must be annotated with a msgspec.Struct")
    return params_type, hints["return"]


def _capability(
    function: Function, id: str, declared: Declaration, input_schema: Schema, output_schema: Schema
) -> Capability:
    return Capability(
        id=id,
        label=declared.label or re.sub(r"[._-]+", " ", id).capitalize(),
        description=declared.description or _first_paragraph(function),
        version=declared.version,
        plane=Plane(declared.plane),
        runtime=Runtime(
            kind=TaskKind(declared.kind),
            pool=declared.pool,
            timeout_seconds=declared.timeout_seconds,
            concurrency=declared.concurrency,
            memory_mib=declared.memory_mib,
            light=_is_light(function, declared),
            memory_param=declared.memory_param or msgspec.UNSET,
            needs_device=declared.needs_device or msgspec.UNSET,
            sized_by=list(declared.time_by or declared.memory_by) or msgspec.UNSET,
        ),
        io=Io(input=input_schema, output=output_schema),
        parameters=_parameters(input_schema),
        examples=list(declared.examples),
        telemetry={},
        security={},
        contracts=Contracts(
            idempotent=declared.idempotent,
            side_effects=list(declared.side_effects),
            resumable=declared.resumable or msgspec.UNSET,
        ),
        keywords=list(declared.keywords) or msgspec.UNSET,
        checks=list(declared.checks) or msgspec.UNSET,
    )


def _is_light(function: Function, declared: Declaration) -> bool:
    return inspect.iscoroutinefunction(function) and declared.kind == "cpu"


def _first_paragraph(function: Function) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def _values(params: Mapping[str, Any], names: Sequence[str]) -> str:
    return msgspec.json.encode([params.get(name) for name in names], order="deterministic").decode() if names else ""


def _where(function: Function) -> str:
    code = getattr(function, "__code__", None)
    if code is None:
        return repr(function)
    return f"{code.co_filename}:{code.co_firstlineno}"


# Schemas -------------------------------------------------------------------------------------------------------------


def _schemas(params_type: Any, output_type: Any) -> tuple[Schema, Schema]:
    """JSON Schemas without references, with closed objects; artifact references are marked `x-artifact`, models also `x-local`."""
    (params, output, artifact, model), named = msgspec.json.schema_components(
        [params_type, output_type, ArtifactRef, ModelRef], ref_template="{name}"
    )
    artifact_name = artifact["$ref"]
    members = named[model["$ref"]]["properties"]
    named[model["$ref"]] = {
        "anyOf": [
            named[artifact_name],
            {"type": "object", "properties": {"local": members["local"]}, "required": ["local"]},
        ],
        "x-artifact": True,
        "x-local": True,
    }

    def inline(value: Any, within: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [inline(item, within) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            name = value["$ref"]
            if name in within:
                raise InvalidTask(f"the type {name} contains itself, so it has no closed schema")
            found = inline({key: each for key, each in named[name].items() if key != "title"}, (*within, name))
            marked = {"x-artifact": True} if name == artifact_name else {}
            return found | marked | {key: inline(item, within) for key, item in value.items() if key != "$ref"}
        result = {key: item if key in ("default", "enum") else inline(item, within) for key, item in value.items()}
        if result.get("type") == "object" and isinstance(result.get("properties"), dict):
            result.setdefault("additionalProperties", False)
        return result

    return inline(params, ()), inline(output, ())


def _parameters(schema: Schema) -> list[Parameter]:
    required = schema.get("required", [])
    found = []
    for name, field in schema.get("properties", {}).items():
        default = {"default": field["default"]} if "default" in field else {}
        found.append(
            Parameter(
                name=name,
                type=_type_name(field),
                required=name in required,
                description=field.get("description", ""),
                **default,
            )
        )
    return found


def _type_name(schema: Schema) -> str:
    """Returns a readable type name: `integer`, `artifact`, `string | null`, `array of artifact`."""
    if schema.get("x-artifact"):
        return "model" if schema.get("x-local") else "artifact"
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_type_name(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(msgspec.json.encode(value).decode() for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"array of {_type_name(schema['items'])}"
    return kind if isinstance(kind, str) else " | ".join(kind)
