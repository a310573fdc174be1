"""What one node may emit: as much as a report can carry, the rest counted."""

from typing import Any

import msgspec

from dihedral.bridge.tasks.runs import EVENT_BYTES
from dihedral.bridge.worker.outbox import BURST_EVENTS, CHUNK_BYTES, CHUNK_EVENTS, EVENTS_PER_SECOND, UNNUMBERED, Outbox
from dihedral.schemas.structs.events import DataEvent, LogEvent, LogLevel


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def data(number: int, name: str = "step", size: int = 0) -> DataEvent:
    return DataEvent(**UNNUMBERED, node_id="a", name=name, data={"number": number, "pad": "x" * size})


def log(message: str) -> LogEvent:
    return LogEvent(**UNNUMBERED, node_id="a", level=LogLevel.info, message=message)


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
        outbox.put(data(number))
    assert numbers(all_of(outbox)) == list(range(BURST_EVENTS))


def test_of_a_million_events_the_last_one_is_kept_and_the_others_are_counted() -> None:
    outbox = Outbox("a", Clock())
    for number in range(1_000_000):
        outbox.put(data(number))
    events = all_of(outbox)
    assert numbers(events) == [*range(BURST_EVENTS), 999_999]
    assert [each["message"] for each in events if each["type"] == "log"] == [
        f"{1_000_000 - BURST_EVENTS - 1} events were dropped: a node may emit 100 a second and 1000 at once"
    ]


def test_the_rate_is_given_back_with_time_and_the_latest_value_is_written_without_another_word() -> None:
    clock = Clock()
    outbox = Outbox("a", clock)
    for number in range(BURST_EVENTS + 5):
        outbox.put(data(number))
    for _ in range(BURST_EVENTS // CHUNK_EVENTS):
        assert len(outbox.take()) == CHUNK_EVENTS
    assert outbox.take() == []
    assert outbox, "the latest value is still to come"
    clock.now = 1.0
    assert len(outbox.take()) == 2, "the value, and how many were left out"
    assert not outbox
    clock.now = 2.0
    for number in range(1000):
        outbox.put(data(number))
    assert EVENTS_PER_SECOND <= len(all_of(outbox)) <= 2 * EVENTS_PER_SECOND + 2


def test_large_events_and_many_names_are_bounded_by_their_bytes() -> None:
    outbox = Outbox("a", Clock())
    for number in range(10_000):
        outbox.put(data(number, f"name {number}", EVENT_BYTES - 200))
    sizes = []
    while outbox:
        sizes.append(sum(map(len, outbox.take(last=True))))
    assert max(sizes) <= CHUNK_BYTES + EVENT_BYTES
    assert sum(sizes) < 2 << 20


def test_logs_are_dropped_with_a_count_and_nothing_comes_after_the_end() -> None:
    outbox = Outbox("a", Clock())
    for _ in range(BURST_EVENTS + 7):
        outbox.put(log("hello"))
    outbox.close()
    outbox.put(log("too late"))
    events = all_of(outbox)
    assert len(events) == BURST_EVENTS + 1
    assert events[-1]["message"].startswith("7 events were dropped")


def test_an_event_has_the_bytes_that_were_recorded_when_it_was_a_dictionary() -> None:
    """What Redis writes itself is cut out once, in front, also where a payload spells the same."""
    outbox = Outbox("a", Clock())
    payload = {"text": 'Zoë "\\\n', "x": 1e300, "seq": 1, "created": "", "none": None}
    outbox.put(DataEvent(**UNNUMBERED, node_id="a", name="point", data=payload))
    outbox.put(log("hi \x00"))
    outbox.put(data(1, size=EVENT_BYTES))
    assert outbox.take() == [
        '"type":"data","nodeId":"a","name":"point",'
        '"data":{"text":"Zoë \\"\\\\\\n","x":1e300,"seq":1,"created":"","none":null}',
        '"type":"log","nodeId":"a","level":"info","message":"hi \\u0000"',
        '"type":"log","nodeId":"a","level":"warning",'
        f'"message":"an event of {EVENT_BYTES + 71} bytes was dropped; the limit is {EVENT_BYTES}"',
    ]
