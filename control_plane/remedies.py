"""What a person can do about an error: a class for programs, a sentence, and the param of the request that the error names.

Computed when a job is read, and never stored: an error keeps its code, and what is best done about it may be known better later. Codes of the tasks of others
have no entry; the form of their word decides, since codes about what was given read alike.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dihedral.schemas.structs.graph import NodeError, Remedy, RemedyClass
from dihedral.schemas.structs.job import JobError

CHANGE, RETRY, RESUME = RemedyClass.change_inputs, RemedyClass.retry, RemedyClass.resume
WAIT, SPACE, OPERATOR = RemedyClass.wait, RemedyClass.free_space, RemedyClass.ask_operator
MODEL = "The language model could not be reached. Look at llm.endpoint, then retry."
AWAY = "What it needs is busy or away. Retry it in a while."
SETTINGS = "The settings of this server do not allow it. When who runs it has changed them, resume."
ROOM = "There is no room for its files. Delete some or enlarge the store, then resume."
DOES_NOT_FIT = "What it was given does not fit. Change it and run the job again."
CAUSE = "Retry it when the cause is gone: what is finished is kept."
REMEDIES: dict[str, tuple[RemedyClass, str]] = {
    "invalid_input": (CHANGE, "The input does not fit this task. Change it and run the job again."),
    "invalid_params": (CHANGE, "The parameters do not fit this task. Change them and run the job again."),
    "invalid_model": (CHANGE, "A model file cannot be read. Choose another file and run the job again."),
    "invalid_output": (RETRY, "The task returned something else than it declares: a defect of the task."),
    "reference_not_found": (
        CHANGE,
        "It refers to the output of a node that was skipped or has no such field. Change the graph, or give the reference a default.",
    ),
    "timeout": (CHANGE, "It took longer than it may. Give the node a longer timeoutSeconds, or the task less to do."),
    "worker_lost": (
        RESUME,
        "The worker died or was cut off while it ran this, more than once. Look at the worker's log, then retry; its dead letter is under Workers.",
    ),
    "slot_crashed": (
        RESUME,
        "The process that ran it died; too little memory is the usual cause. The end of its stderr is below. Retry, or ask for less.",
    ),
    "out_of_memory": (
        CHANGE,
        "It needs more memory than there is. Ask for less: a smaller size, batch or number of frames.",
    ),
    "output_too_large": (
        CHANGE,
        "Its output is too large to be kept in the job. Have the task store it as an artifact.",
    ),
    "artifact_not_found": (
        CHANGE,
        "A file that it needs is not there any more. Choose another one and run the job again.",
    ),
    "artifact_store_unavailable": (
        WAIT,
        "The artifact store could not be reached. When it is back, retry: what is finished is kept.",
    ),
    "artifact_store_full": (SPACE, ROOM),
    "disk_full": (SPACE, ROOM),
    "no_artifact_store": (
        OPERATOR,
        "This worker has no artifact store it shares with the control plane. Set one up, then retry.",
    ),
    "llm_unavailable": (WAIT, MODEL),
    "llm_misconfigured": (
        OPERATOR,
        "The settings of the language model do not fit. Look at the section llm of dihedral.toml.",
    ),
    "llm_refused": (CHANGE, "The language model refused this. Change the prompt."),
    "speech_unavailable": (WAIT, AWAY),
    "comfyui_away": (WAIT, AWAY),
    "comfyui_lost": (WAIT, AWAY),
    "speech_misconfigured": (OPERATOR, SETTINGS),
    "invalid_settings": (OPERATOR, SETTINGS),
    "missing_package": (OPERATOR, SETTINGS),
    "tool_missing": (OPERATOR, SETTINGS),
    "comfyui_forbidden": (OPERATOR, SETTINGS),
    "rehearsals_off": (OPERATOR, SETTINGS),
    "diverged": (CHANGE, "The training diverged. Run it again with a smaller learning rate."),
    "simulated_failure": (CHANGE, "It was asked to fail, and did. A retry runs it again as it was asked."),
    "task_failed": (
        RETRY,
        "The task raised an error; the traceback below says where. When the cause is gone, retry: what is finished is kept.",
    ),
}
NOT_FITTING = (
    "bad_artifact_name bad_model clipped_audio comfyui_file_missing comfyui_upload_refused encoder_unavailable invalid_dataset invalid_workflow "
    "markup_unsupported model_not_found mouth_required no_result nothing_to_say script_unsupported speech_refused text_too_long tokenizer_mismatch "
    "too_many_files ui_workflow unknown_server unknown_tool voice_unavailable workflow_branch_dropped"
)
MAY_GO_BETTER = "comfyui_deleted comfyui_interrupted comfyui_node_failed comfyui_protocol llm_bad_answer speech_failed tool_failed tool_hangs"
REMEDIES |= {code: (CHANGE, DOES_NOT_FIT) for code in NOT_FITTING.split()}  # they would fail the same for ever
REMEDIES |= {code: (RETRY, CAUSE) for code in MAY_GO_BETTER.split()}
_ABOUT_INPUT = re.compile(
    r"(invalid|no|bad|unknown|unsupported|wrong|missing)_.*|.*_(invalid|missing|unsupported|refused|required|too_(large|long|many))"
)
_PATH = re.compile(r"at `\$\.([A-Za-z_][A-Za-z0-9_]*)")  # as msgspec names what does not fit
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def remedy_of(error: NodeError | JobError, params: Mapping[str, object], of_task: Mapping[str, str]) -> Remedy:
    """Returns the remedy. `params`: of the request; `of_task`: the request's param from which each param of the node's task comes."""
    known = REMEDIES.get(error.code)
    if known is None:
        known = (CHANGE, DOES_NOT_FIT) if _ABOUT_INPUT.fullmatch(error.code) else (RETRY, CAUSE)
    param = _named(error, params, of_task) if known[0] is CHANGE else None
    return Remedy(class_=known[0], advice=known[1], param=param or msgspec.UNSET)


def origins(template: Mapping[str, Any] | None, node_id: str | None) -> dict[str, str]:
    """Returns, of a node of a pipeline's template, the pipeline's param from which each of its params comes."""
    nodes = template.get("nodes", []) if template is not None else []
    params: Mapping[str, Any] = next((each.get("params", {}) for each in nodes if each.get("id") == node_id), {})
    found = {name: next(_references(value), None) for name, value in params.items()}
    return {name: param for name, param in found.items() if param is not None}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and isinstance(value.get("$param"), str):
        yield value["$param"]
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _references(each)


def _named(error: NodeError | JobError, params: Mapping[str, object], of_task: Mapping[str, str]) -> str | None:
    """Returns the param that an error names: by its details, by a path, by the file in it, or because it alone of all stands in the message."""
    names = {**{name: name for name in params}, **of_task}
    said = error.details.get("param")
    if isinstance(said, str) and said in names:
        return names[said]
    path = _PATH.search(error.message)
    if path is not None:
        return names.get(path[1])
    for name, value in params.items():
        if any(f"{bucket}/{key}" in error.message for bucket, key in _files(value)):
            return name
    first = error.message.partition(":")[0]
    if first in names:
        return names[first]
    found = {names[word] for word in _WORD.findall(error.message) if word in names}
    return found.pop() if len(found) == 1 else None


def _files(value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and isinstance(value.get("bucket"), str) and isinstance(value.get("key"), str):
        yield value["bucket"], value["key"]
    elif depth < 8 and isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _files(each, depth + 1)
