"""`dihedral.testing.run`: a task by itself behaves as it does in a worker."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dihedral import ArtifactRef, TaskCancelled, TaskContext, TaskError, task, testing
from dihedral.bridge.tasks.registry import InvalidTask


class Texts(msgspec.Struct, forbid_unknown_fields=True):
    texts: list[ArtifactRef] = []
    steps: int = 4
    fail: bool = False


class Counted(msgspec.Struct):
    words: int
    begun_at: int = 0


@task(description="Counts words in files.")
def count(params: Texts, ctx: TaskContext) -> Counted:
    words = sum(len(ctx.fetch(ref).read_text().split()) for ref in params.texts)
    if params.fail:
        raise TaskError("no words", code="no_words", details={"words": words})
    ctx.store("texts", "count.txt", str(words).encode(), "text/plain")
    ctx.log("counted")
    return Counted(words=words)


@task(description="The same, async.")
async def count_light(params: Texts, ctx: TaskContext) -> Counted:
    words = 0
    for ref in params.texts:
        words += len((await ctx.fetch_async(ref)).read_text().split())
    if params.fail:
        raise TaskError("no words", code="no_words", details={"words": words})
    await ctx.store_async("texts", "count.txt", str(words).encode(), "text/plain")
    ctx.log("counted")
    return Counted(words=words)


@task(description="Goes on where it was.", resumable=True)
def step(params: Texts, ctx: TaskContext) -> Counted:
    before = ctx.checkpoint("texts")
    begun = int(before.read_text()) if before else 0
    done = begun
    try:
        for done in range(begun + 1, params.steps + 1):
            ctx.progress(done / params.steps)
            if ctx.finish_early:
                break
            ctx.check_cancelled()
    except TaskCancelled:
        ctx.keep_checkpoint("texts", str(done).encode())
        raise
    ctx.drop_checkpoint("texts")
    return Counted(words=done, begun_at=begun)


@task(description="Breaks its word.")
def lies(params: Texts, ctx: TaskContext) -> Counted:
    return "none"  # type: ignore[return-value]


class Tuning(msgspec.Struct, forbid_unknown_fields=True):
    factor: int = 1


@task(description="Reads its settings.")
def tuned(params: Texts, ctx: TaskContext) -> Counted:
    return Counted(words=ctx.settings(Tuning).factor)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    paths = [tmp_path / "one" / "text.txt", tmp_path / "two" / "text.txt"]
    for path in paths:
        path.parent.mkdir()
        path.write_text("a b")
    return {"texts": paths}


@pytest.mark.parametrize("counting", [count, count_light])
def test_output_events_and_artifacts_come_back(counting: Any, files: Any) -> None:
    run = testing.run(counting, {}, files=files)
    assert (run.status, run.output) == ("completed", {"words": 4, "begun_at": 0})
    assert run.log() == ["counted"]
    assert run.artifact("count.txt").read() == b"4"
    assert run.artifact("count.txt").content_type == "text/plain"
    with pytest.raises(KeyError, match=r"count\.txt"):
        run.artifact("other.txt")


@pytest.mark.parametrize("counting", [count, count_light])
async def test_it_works_inside_an_event_loop_and_takes_a_struct(counting: Any) -> None:
    assert testing.run(counting, Texts()).output["words"] == 0


@pytest.mark.parametrize("counting", [count, count_light])
def test_a_failure_carries_the_code_the_details_and_the_traceback(counting: Any) -> None:
    with pytest.raises(testing.TaskFailed, match="no words") as failed:
        testing.run(counting, {"fail": True})
    assert failed.value.code == "no_words"
    assert failed.value.details["words"] == 0
    assert 'raise TaskError("no words"' in str(failed.value)
    assert failed.value.run.status == "failed"


def test_params_and_output_are_checked_as_in_a_worker() -> None:
    with pytest.raises(testing.TaskFailed) as failed:
        testing.run(count, {"textz": []})
    assert failed.value.code == "invalid_params"
    with pytest.raises(testing.TaskFailed) as failed:
        testing.run(lies, {})
    assert failed.value.code == "invalid_output"
    with pytest.raises(InvalidTask, match="not marked"):
        testing.run(lambda params, ctx: None, {})


def test_a_cancelled_run_leaves_a_checkpoint_for_the_next_in_the_same_folder(tmp_path: Path) -> None:
    assert testing.run(step, {}, folder=tmp_path, cancel_at=0.5).status == "cancelled"
    assert testing.run(step, {}, folder=tmp_path).output == {"words": 4, "begun_at": 2}
    assert testing.run(step, {}, folder=tmp_path).output["begun_at"] == 0, "it was dropped"


def test_a_run_that_is_asked_to_finish_completes_with_what_it_has() -> None:
    run = testing.run(step, {}, finish_at=0.75)
    assert (run.status, run.output["words"], run.progress) == ("completed", 3, 0.75)


def test_settings_of_a_task_are_given_by_the_test() -> None:
    assert testing.run(tuned, {}, settings={"factor": 3}).output["words"] == 3
    assert testing.run(tuned, {}).output["words"] == 1


def test_files_of_a_run_go_with_it(files: Any) -> None:
    run = testing.run(count, {}, files=files)
    path = run.artifact("count.txt").path
    assert path.exists()
    del run
    assert not path.exists()
