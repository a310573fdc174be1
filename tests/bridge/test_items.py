"""The items of the transitions have the bytes that they had as plain lists (recorded at 87bc08a)."""

import json
from pathlib import Path
from typing import Any

import pytest

from dihedral.bridge.fabric.items import Cancel, Change, JobRead, Release, Renewal, Retry, Submission, Take, Takeover
from dihedral.bridge.fabric.scripts import encode_item
from dihedral.bridge.fabric.steps import EntrySpec

pytestmark = pytest.mark.quick
RECORDED = json.loads((Path(__file__).parent / "item_bytes.json").read_text())
STREAM = "stream:process:data"
PLAIN = EntrySpec(STREAM, "python/default", ["b", "c"], ["a"], True, "nonce")
ITEMS: dict[str, Any] = {
    "submission": Submission(
        "job", "digest", 3, [PLAIN], 0, 10000, ("alice", 60, 5), False, ["graph", "{}", "owner", "alice"]
    ).values(),
    "submission with a webhook": Submission(
        "job", "digest", 1, [], 1700000000000, 0, (), '{"url":"https://x"}', []
    ).values(),
    "take": Take("w1", "nonce", 64, 16, 2, [STREAM], [(STREAM, "1-0")], "", True),
    "renewal": Renewal("job", STREAM, "1-0", "w1 nonce", "w1"),
    "takeover": Takeover(STREAM, "1-0", "w1", 1700000000000, "w2", "nonce"),
    "release": Release("job", STREAM, "1-0", "w1 nonce", [PLAIN], ["b", "c"]),
    "cancel": Cancel("job", ["a", "b"]),
    "change": Change("job", "high", [("1-0@" + STREAM, f"{STREAM}:high", ""), ("delay:n", STREAM, False)], "", "{}"),
    "retry": Retry("job", "failed", 1, ["a"], [PLAIN], [("b", "broken", 250000000)], (), 0),
    "read": JobRead("job", -1, 2),
}


def test_every_item_is_recorded() -> None:
    assert RECORDED.keys() == ITEMS.keys()


@pytest.mark.parametrize("name", ITEMS)
def test_an_item_has_the_bytes_that_were_recorded(name: str) -> None:
    assert encode_item(ITEMS[name]).hex() == RECORDED[name]
