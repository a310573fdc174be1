"""From a decorated function to a manifest entry, and what is refused on the way; light runs in this process."""

import asyncio
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import msgspec
import pytest
from msgspec import Meta, Struct

from dihedral.bridge.errors import DihedralError, SettingsError
from dihedral.bridge.tasks.calling import run_light
from dihedral.bridge.tasks.registry import InvalidTask, Registry, TaskContext, collect, task
from dihedral.bridge.tasks.runs import NodeRun, RunControl
from dihedral.data_plane.tasks import BUILTIN
from dihedral.schemas.structs.artifact import ArtifactRef
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.graph import Plane
from tests.support.in_process import RecordedEvents
from tests.support.outcomes import Seen, ended

ROOT = Path(__file__).parents[2]


class Inner(Struct):
    weight: float = 1.0


class Params(Struct):
    picture: ArtifactRef
    steps: Annotated[int, Meta(ge=1, description="How often")] = 3
    inner: list[Inner] = []
    name: str | None = None


class Result(Struct):
    steps: int


class Loop(Struct):
    next: "Loop | None" = None


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Iterator[types.ModuleType]:
    """An empty module that collect() finds by its name."""
    made = types.ModuleType("made_for_a_test")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def collected(module: types.ModuleType, **functions: Callable[..., Any]) -> Registry:
    vars(module).update(functions)
    return collect([module.__name__], plugins=False)


def test_the_manifest_entry_comes_from_the_types(module: types.ModuleType) -> None:
    @task(kind="gpu", pool="a100", idempotent=False, side_effects=["sends a mail"])
    def train_it(params: Params, ctx: TaskContext) -> Result:
        """Trains it.

        At length.
        """
        raise NotImplementedError

    made = collected(module, train_it=train_it)["train_it"]
    entry = made.capability
    assert (entry.label, entry.description, entry.plane) == ("Train it", "Trains it.", Plane.python)
    assert entry.io.input["additionalProperties"] is False
    assert entry.io.input["properties"]["picture"]["x-artifact"]
    assert entry.io.input["properties"]["inner"]["items"]["additionalProperties"] is False
    assert "$ref" not in msgspec.json.encode(entry.io).decode()
    by_name = {parameter.name: parameter for parameter in entry.parameters}
    assert (by_name["picture"].type, by_name["picture"].required) == ("artifact", True)
    assert (by_name["steps"].type, by_name["steps"].default, by_name["steps"].description) == (
        "integer",
        3,
        "How often",
    )
    assert not made.light
    assert msgspec.json.decode(msgspec.json.encode(entry), type=Capability) == entry


def test_only_async_cpu_tasks_are_light(module: types.ModuleType) -> None:
    @task
    async def light(params: Inner, ctx: TaskContext) -> Result:
        raise NotImplementedError

    @task
    def plain(params: Inner, ctx: TaskContext) -> Result:
        raise NotImplementedError

    @task(kind="gpu")
    async def gpu(params: Inner, ctx: TaskContext) -> Result:
        raise NotImplementedError

    registry = collected(module, light=light, plain=plain, gpu=gpu)
    assert {id: made.light for id, made in registry.items()} == {"light": True, "plain": False, "gpu": False}


def no_context(params: Inner) -> Result:
    raise NotImplementedError


def no_return(params: Inner, ctx: TaskContext):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def untyped(params, ctx: TaskContext) -> Result:  # type: ignore[no-untyped-def]
    raise NotImplementedError


def wrong_context(params: Inner, ctx: int) -> Result:
    raise NotImplementedError


def a_dict(params: dict[str, int], ctx: TaskContext) -> Result:
    raise NotImplementedError


def a_generator(params: Inner, ctx: TaskContext) -> Iterator[int]:
    yield 1


def endless(params: Loop, ctx: TaskContext) -> Result:
    raise NotImplementedError


endless.__annotations__ = {"params": Loop, "ctx": TaskContext, "return": Result}


@pytest.mark.parametrize(
    ("function", "options", "reason"),
    [
        (no_context, {}, "signature must be"),
        (no_return, {}, "return type is missing"),
        (untyped, {}, "annotated with a msgspec.Struct"),
        (wrong_context, {}, "annotated as TaskContext"),
        (a_dict, {}, "annotated with a msgspec.Struct"),
        (a_generator, {}, "cannot yield"),
        (endless, {}, "contains itself"),
        (a_dict, {"id": "../x"}, "cannot be a task id"),
        (a_dict, {"timeout_seconds": 0}, "timeout_seconds"),
        (a_dict, {"kind": "tpu"}, "kind is cpu or gpu"),
        (a_dict, {"plane": "node"}, "must be async"),
        (a_dict, {"pool": "high"}, "pool 'high' is reserved"),
    ],
)
def test_what_cannot_be_a_task_is_refused_with_its_place(
    module: types.ModuleType, function: Callable[..., Any], options: dict[str, Any], reason: str
) -> None:
    def copy() -> Callable[..., Any]:
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__)
        made.__annotations__ = dict(function.__annotations__)
        return made

    with pytest.raises(InvalidTask, match=reason) as caught:
        collected(module, function=task(**options)(copy()))
    assert "test_tasks.py:" in str(caught.value)


def test_an_id_that_two_functions_claim_is_refused(module: types.ModuleType) -> None:
    @task(id="same")
    async def one(params: Inner, ctx: TaskContext) -> Result:
        raise NotImplementedError

    @task(id="same")
    async def two(params: Inner, ctx: TaskContext) -> Result:
        raise NotImplementedError

    with pytest.raises(InvalidTask, match="'same' is taken by"):
        collected(module, one=one, two=two)


@pytest.mark.parametrize(("name", "reason"), [("no_such_module", "No module named"), ("json", "marks no function")])
def test_a_module_without_tasks_is_refused(name: str, reason: str) -> None:
    with pytest.raises(InvalidTask, match=reason):
        collect([name], plugins=False)


def test_the_working_directory_is_searched_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')")
    (tmp_path / "tasks_of_mine.py").write_text(
        "import json\nfrom dihedral import task, TaskContext\nfrom msgspec import Struct\n"
        "class P(Struct): pass\n@task\nasync def mine(params: P, ctx: TaskContext) -> P: return params\n"
    )
    try:
        assert list(collect(["tasks_of_mine"], directory=tmp_path, plugins=False)) == ["mine"]
        assert sys.path[-2:] == [str(tmp_path), str(ROOT)], "our checkout is no installed package"
    finally:
        sys.modules.pop("tasks_of_mine", None)


def test_every_own_task_has_a_valid_schema_and_valid_examples() -> None:
    registry = collect(BUILTIN, plugins=False)
    assert set(registry) == (
        {
            "train_lora",
            "train_image_lora",
            "train_diffusion_lora",
            "train_voice",
            "compare_voice",
            "render_video",
            "lip_sync",
            "speak",
            "run_comfyui",
            "run_tool",
            "simulate",
            "simulate_gpu",
            "get_capabilities",
        }
    )
    for made in registry.values():
        for schema in (made.capability.io.input, made.capability.io.output):
            jsonschema.Draft202012Validator.check_schema(schema)
        for example in made.capability.examples:
            jsonschema.validate(example, made.capability.io.input, jsonschema.Draft202012Validator)


# Light runs ----------------------------------------------------------------------------------------------------------


async def simulate(cancel: RunControl | None = None, heard: RecordedEvents | None = None, **params: Any) -> Seen:
    run = NodeRun(job_id="j", node_id="n", task="simulate", attempt=1, nonce="x", params=params, timeout_seconds=0.5)
    registry = collect(BUILTIN, plugins=False)
    return await ended(run_light(registry, run, None, heard or RecordedEvents(), cancel or RunControl()))


async def test_simulate_reports_each_step_and_returns_its_steps() -> None:
    heard = RecordedEvents()
    outcome = await simulate(heard=heard, steps=4)
    assert outcome.output == b'{"steps":4}'
    assert heard.fractions == [0.25, 0.5, 0.75, 1.0]
    assert [payload["step"] for _, payload in heard.events] == [1, 2, 3, 4]


@pytest.mark.parametrize("wanted", [None, [1, {"a": "ä"}], "text", 12345678901234567890])
async def test_simulate_returns_any_json(wanted: Any) -> None:
    outcome = await simulate(steps=0, output=wanted, memoryMiB=8)
    assert outcome.output is not None
    assert msgspec.json.decode(outcome.output) == wanted


async def test_simulate_fails_where_it_was_asked_to() -> None:
    heard = RecordedEvents()
    outcome = await simulate(heard=heard, steps=4, failAt=2)
    assert outcome.error is not None
    assert outcome.error.code == "simulated_failure"
    assert outcome.retryable
    assert heard.fractions == [0.25, 0.5]


@pytest.mark.parametrize("params", [{"steps": -1}, {"steps": 1.5}, {"surplus": 1}, {"stepSeconds": -1}])
async def test_bad_params_never_reach_the_function(params: dict[str, Any]) -> None:
    outcome = await simulate(**params)
    assert outcome.error is not None
    assert outcome.error.code == "invalid_params"


async def test_a_light_task_is_cancelled_and_timed_out_without_harm_to_its_caller() -> None:
    cancel = RunControl()
    asyncio.get_running_loop().call_soon(cancel.cancel)
    assert (await simulate(cancel, steps=1, stepSeconds=60)).status == "cancelled"
    outcome = await simulate(steps=1, stepSeconds=60)
    assert outcome.error is not None
    assert outcome.error.code == "timeout"
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_a_light_task_that_swallows_cancellation_is_told_again(
    module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dihedral.bridge.tasks.calling.REPEAT_CANCEL_SECONDS", 0.01)

    @task
    async def swallows(params: Inner, ctx: TaskContext) -> Result:
        for _ in range(3):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
        await asyncio.Event().wait()
        raise NotImplementedError

    run = NodeRun(job_id="j", node_id="n", task="swallows", attempt=1, nonce="x", params={}, timeout_seconds=0.01)
    outcome = await ended(run_light(collected(module, swallows=swallows), run, None, RecordedEvents(), RunControl()))
    assert outcome.error is not None
    assert outcome.error.code == "timeout"


async def test_cancelling_the_caller_goes_through() -> None:
    running = asyncio.ensure_future(simulate(steps=1, stepSeconds=60))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_get_capabilities_lists_what_this_worker_can_run() -> None:
    registry = collect(BUILTIN, plugins=False)
    run = NodeRun(job_id="j", node_id="n", task="get_capabilities", attempt=1, nonce="x", params={}, timeout_seconds=5)
    outcome = await ended(run_light(registry, run, None, RecordedEvents(), RunControl()))
    assert outcome.output is not None
    assert {entry["id"] for entry in msgspec.json.decode(outcome.output)["capabilities"]} == set(registry)


def test_an_invalid_task_is_an_error_of_ours() -> None:
    assert issubclass(InvalidTask, DihedralError)


class Port(Struct, frozen=True):
    port: Annotated[int, Meta(ge=1)] = 1


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"port": 0}, "tasks.listens.port: Expected `int` >= 1"),
        ({"prot": 1}, "tasks.listens.prot: there is no such setting"),
    ],
)
def test_settings_that_a_task_declares_refuse_the_start(
    module: types.ModuleType, table: dict[str, Any], said: str
) -> None:
    @task(settings=Port)
    async def listens(params: Params, ctx: TaskContext) -> Result:
        raise NotImplementedError

    module.__dict__["listens"] = listens
    with pytest.raises(SettingsError) as caught:
        collect([module.__name__], plugins=False, settings={"listens": table})
    assert str(caught.value) == said


async def test_a_light_task_reads_its_settings_and_has_the_defaults_without_a_table(module: types.ModuleType) -> None:
    @task
    async def listens(params: Params, ctx: TaskContext) -> Result:
        return Result(ctx.settings(Port).port)

    module.__dict__["listens"] = listens
    for tables, port in (({}, 1), ({"listens": {"port": 8}}, 8)):
        registry = collect([module.__name__], plugins=False, settings=tables)
        run = NodeRun(
            job_id="j",
            node_id="n",
            task="listens",
            attempt=1,
            nonce="x",
            params={"picture": {"bucket": "inputs", "key": "a"}},
            timeout_seconds=5,
        )
        outcome = await ended(run_light(registry, run, None, RecordedEvents(), RunControl()))
        assert outcome.output == b'{"steps":%d}' % port


GOOD = """
from dihedral import TaskContext, task
from msgspec import Struct
class Empty(Struct): pass
@task
async def found(params: Empty, ctx: TaskContext) -> Empty: return params
"""


def test_a_task_module_may_be_given_as_the_path_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given_by_path.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("./given_by_path.py", str(tmp_path / "given_by_path.py"), "given_by_path.py"):
        assert "found" in collect([name], plugins=False)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ends_itself.py", "import sys; sys.exit(3)", "task module 'ends_itself.py' cannot be loaded: SystemExit: 3"),
        ("is_not_there.py", None, "task module 'is_not_there.py' cannot be loaded: ImportError: there is no such"),
        ("json.py", GOOD, "the name json is taken by"),
    ],
)
def test_a_task_module_that_cannot_be_loaded_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InvalidTask) as refused:
        collect([name], plugins=False)
    assert said in str(refused.value)
