"""The pipelines that come along, and what filling one in may say."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dihedral.bridge.tasks import registry as tasks
from dihedral.control_plane.planning.plan import expand, normalise, problems
from dihedral.control_plane.tasks import BUILTIN
from dihedral.schemas.structs.pipeline import Pipeline
from dihedral.schemas.structs.submission import GraphSubmission
from tests.graphs.making import closed

PICTURE = {"bucket": "inputs", "key": "dusk.png"}
SOUND = {"bucket": "inputs", "key": "speaker-low.wav"}
VOICE = {"bucket": "voices", "key": "low/voice.safetensors"}
GIVEN: dict[str, dict[str, Any]] = {
    "simulate": {},
    "train_lora": dict.fromkeys(("config", "weights", "tokenizer", "dataset"), SOUND),
    "train_image_lora": {"pictures": [PICTURE]},
    "train_voice": {"recording": SOUND},
    "compare_voice": {"recordings": [SOUND], "voices": [VOICE, VOICE]},
    "speak": {"text": "Good evening."},
    "narrated_pictures": {"pictures": [PICTURE, PICTURE], "text": "Good evening. Good night."},
    "look": {"from": PICTURE, "onto": PICTURE},
    "lora_picture": {"base": VOICE, "pictures": [PICTURE], "checkpoint": "sd15.safetensors", "prompt": "a fox"},
    "my_voice": {"recording": SOUND, "text": "Good evening."},
    "talking_picture": {"picture": PICTURE, "voice": SOUND},
    "render_video": {
        "scenes": [{"picture": PICTURE, "lines": ["Here."], "from": {"zoom": 2}}, {"picture": PICTURE, "fade": 1}],
        "narration": [SOUND],
        "background": SOUND,
    },
}


def load(name: str) -> Pipeline:
    text = (files("dihedral.control_plane") / "pipelines" / f"{name}.json").read_bytes()
    return msgspec.json.decode(text, type=Pipeline)


def make(template: Any, **properties: Any) -> Pipeline:
    node = {"id": "a", "task": "t", "plane": "python", "params": template}
    graph = {"schema": "langgraph.v1", "nodes": [node], "edges": []}
    return Pipeline(id="p", label="p", description="", params=closed(["need"], **properties), graph=graph)


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_a_pipeline_that_comes_along_makes_a_plan_without_problems(name: str) -> None:
    control = list(BUILTIN)
    registry = tasks.collect(["dihedral.data_plane.tasks." + each for each in DATA_TASKS] + control, plugins=False)
    capabilities = {id: made.capability for id, made in registry.items()}
    submission, wrong = expand(load(name), GIVEN[name])
    assert submission is not None
    assert wrong == []
    found = problems(normalise(submission, "job"), capabilities)
    missing = {node.task for node in submission.nodes} - capabilities.keys()
    assert [problem for problem in found if problem.code != "unknown_task" or not missing] == []


DATA_TASKS = (
    "simulate",
    "train_lora",
    "train_image_lora",
    "train_voice",
    "compare_voice",
    "render_video",
    "speak",
    "lip_sync",
    "run_comfyui",
    "train_diffusion_lora",
)


def test_talking_picture_is_a_script_that_is_spoken_by_a_face() -> None:
    for given in ({}, GIVEN["talking_picture"]):
        submission, _ = expand(load("talking_picture"), given)
        assert submission is not None
        assert [(edge.from_, edge.to) for edge in submission.edges] == [
            ("generate_script", "speak"),
            ("speak", "lip_sync"),
            ("lip_sync", "render_video"),
        ]


def test_parameters_take_their_places_and_absent_ones_take_theirs_along() -> None:
    need, opt = {"type": "integer"}, {"type": "string"}
    template = {"x": [{"$param": "need"}, {"$param": "opt"}], "y": {"$param": "opt"}, "z": {"$param": "filled"}}
    pipeline = make(template, need=need, opt=opt, filled={"type": "array", "default": [1]})
    submission, wrong = expand(pipeline, {"need": 3})
    assert wrong == []
    assert submission is not None
    assert submission.nodes[0].params == {"x": [3], "z": [1]}


def test_every_wrong_parameter_is_named() -> None:
    pipeline = make({}, need={"type": "integer"}, other={"type": "string"})
    submission, wrong = expand(pipeline, {"other": 3, "more": 1})
    assert submission is None
    assert {(problem.pointer, problem.code) for problem in wrong} == {
        ("/params", "missing_param"),
        ("/params/other", "invalid_param"),
        ("/params/more", "unknown_param"),
    }


def test_a_template_that_makes_no_graph_is_the_pipelines_problem() -> None:
    pipeline = make({}, need={"type": "integer"})
    pipeline.graph["nodes"] = {"$param": "need"}
    submission, wrong = expand(pipeline, {"need": 1})
    assert submission is None
    assert [(problem.pointer, problem.code) for problem in wrong] == [("/pipeline", "bad_pipeline")]


def test_the_voices_of_the_recipe_are_trained_side_by_side_and_then_compared() -> None:
    text = (Path(__file__).parents[2] / "docs/recipes.md").read_text().split("## Who is speaking")[1]
    graph = msgspec.json.decode(text.split("```json")[1].split("```")[0], type=GraphSubmission)
    registry = tasks.collect(["dihedral.data_plane.tasks." + each for each in DATA_TASKS], plugins=False)
    planned = normalise(graph, "job")
    assert problems(planned, {id: made.capability for id, made in registry.items()}) == []
    assert {(edge.from_, edge.to) for edge in planned.edges} == {("ann", "who"), ("bob", "who")}
