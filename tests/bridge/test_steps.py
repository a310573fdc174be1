"""The steps of a report have the bytes that they had as plain tuples (recorded at 43c17f6), so old and new workers serve one server."""

import json
from pathlib import Path

import pytest

from dihedral.bridge.fabric.scripts import Report, encode_item
from dihedral.bridge.fabric.steps import (
    Dispatch,
    End,
    EndGivenUp,
    EntrySpec,
    Event,
    Progress,
    Redispatch,
    Requeue,
    Skip,
    Start,
    Step,
)

RECORDED = json.loads((Path(__file__).parent / "report_bytes.json").read_text())
PLAIN = EntrySpec("stream:process:data", "python/default", ["b", "c"], ["a"], True, "nonce")
DECLINED = EntrySpec(
    "stream:process:data:high", "python/default", ["b"], [], False, "nonce", 2000, "worker", True, "low", True
)
STEPS: dict[str, Step] = {
    "end": End("a", 1, "completed", "", '{"output":1}', 500000000, False, "", ""),
    "end given up": EndGivenUp(
        "a", 2, "failed", "", '{"error":{}}', -1, True, '{"code":"worker_lost"}', "", "its worker was lost"
    ),
    "requeue": Requeue("a", 1, 2, '{"code":"boom"}', DECLINED),
    "start": Start("b", "w1"),
    "skip": Skip("c", "branch", 250000000),
    "dispatch": Dispatch(PLAIN),
    "redispatch": Redispatch("1-0@stream:process:data", DECLINED),
    "event": Event("data", '"type":"log"', 3),
    "progress": Progress("a", 123, "0.5"),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_has_the_bytes_that_were_recorded(name: str) -> None:
    report = Report("job", "stream:process:data", "1-0", "w1 nonce", [STEPS[name]], ["a"], True)
    assert encode_item(report).hex() == RECORDED[name]


def test_a_report_of_all_steps_has_the_bytes_that_were_recorded() -> None:
    assert RECORDED.keys() == {*STEPS, "all"}
    assert encode_item(Report("job", "", "", "", list(STEPS.values()), [], False)).hex() == RECORDED["all"]
