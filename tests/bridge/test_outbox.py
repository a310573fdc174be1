"""What one node may emit: as much as a report can carry, the rest counted."""

from typing import Any

import msgspec

from dihedral.bridge.tasks.runs import EVENT_BYTES
from dihedral.bridge.worker.outbox import BURST_EVENTS, CHUNK_BYTES, CHUNK_EVENTS, EVENTS_PER_SECOND, Outbox


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def data(number: int, name: str = "step", size: int = 0) -> dict[str, object]:
    return {"type": "data", "nodeId": "a", "name": name, "data": {"number": number, "pad": "x" * size}}


def all_of(outbox: Outbox) -> list[dict[str, Any]]:
    found = []
    while outbox:
        found += outbox.take(last=True)
    return [msgspec.json.decode("{" + body + "}") for body in found]


def numbers(events: list[dict[str, Any]], name: str = "step") -> list[int]:
    return [each["data"]["number"] for each in events if each.get("name") == name]


def test_what_a_task_usually_emits_passes_as_it_is() -> None:
    outbox = Outbox("a", Clock())
    for number in range(BURST_EVENTS):
        outbox.put(data(number), "step")
    assert numbers(all_of(outbox)) == list(range(BURST_EVENTS))


def test_of_a_million_events_the_last_one_is_kept_and_the_others_are_counted() -> None:
    outbox = Outbox("a", Clock())
    for number in range(1_000_000):
        outbox.put(data(number), "step")
    events = all_of(outbox)
    assert numbers(events) == [*range(BURST_EVENTS), 999_999]
    assert [each["message"] for each in events if each["type"] == "log"] == [
        f"{1_000_000 - BURST_EVENTS - 1} events were dropped: a node may emit 100 a second and 1000 at once"
    ]


def test_the_rate_is_given_back_with_time_and_the_latest_value_is_written_without_another_word() -> None:
    clock = Clock()
    outbox = Outbox("a", clock)
    for number in range(BURST_EVENTS + 5):
        outbox.put(data(number), "step")
    for _ in range(BURST_EVENTS // CHUNK_EVENTS):
        assert len(outbox.take()) == CHUNK_EVENTS
    assert outbox.take() == []
    assert outbox, "the latest value is still to come"
    clock.now = 1.0
    assert len(outbox.take()) == 2, "the value, and how many were left out"
    assert not outbox
    clock.now = 2.0
    for number in range(1000):
        outbox.put(data(number), "step")
    assert EVENTS_PER_SECOND <= len(all_of(outbox)) <= 2 * EVENTS_PER_SECOND + 2


def test_large_events_and_many_names_are_bounded_by_their_bytes() -> None:
    outbox = Outbox("a", Clock())
    for number in range(10_000):
        outbox.put(data(number, f"name {number}", EVENT_BYTES - 200), f"name {number}")
    sizes = []
    while outbox:
        sizes.append(sum(map(len, outbox.take(last=True))))
    assert max(sizes) <= CHUNK_BYTES + EVENT_BYTES
    assert sum(sizes) < 2 << 20


def test_logs_are_dropped_with_a_count_and_nothing_comes_after_the_end() -> None:
    outbox = Outbox("a", Clock())
    for _ in range(BURST_EVENTS + 7):
        outbox.put({"type": "log", "message": "hello"})
    outbox.close()
    outbox.put({"type": "log", "message": "too late"})
    events = all_of(outbox)
    assert len(events) == BURST_EVENTS + 1
    assert events[-1]["message"].startswith("7 events were dropped")
