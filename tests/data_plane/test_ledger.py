"""The memory ledger: whatever comes in whatever order, what was promised is there."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from dihedral.data_plane.gpu_memory.ledger import GIB, Ledger, Reservation
from dihedral.data_plane.gpu_memory.readings import Reading

TOTAL, CUSHION = 24, 1


def reading(total: int = 24 * GIB, **holders: int) -> Reading:
    held = {int(pid.removeprefix("pid")): size for pid, size in holders.items()}
    return Reading(total=total, free=total - sum(held.values()), holders=held)


def test_the_same_memory_is_not_promised_twice_before_it_is_taken() -> None:
    ledger = Ledger(0, [reading()])
    first = ledger.reservation(0, 1, 14 * GIB, 1)
    assert first is not None
    assert ledger.reservation(0, 2, 14 * GIB, 2) is None
    ledger.poll([reading(pid1=14 * GIB)], begun=1.0)
    assert ledger.reservation(0, 2, 14 * GIB, 2) is None
    assert ledger.reservation(0, 2, 10 * GIB, 2) is not None
    ledger.release(first, now=2.0)
    ledger.release(first, now=3.0)
    ledger.poll([reading()], begun=4.0)
    assert ledger.reservation(0, 1, 14 * GIB, 3) is not None


def test_what_a_node_took_since_the_last_look_is_not_given_away_at_its_end() -> None:
    """A look that began before the end shows the memory free that the process took, and keeps."""
    ledger = Ledger(0, [reading()])
    first = ledger.reservation(0, 1, 14 * GIB, 1)
    assert first is not None
    ledger.release(first, now=2.0)
    ledger.poll([reading()], begun=1.0)
    assert ledger.reservation(0, 2, 14 * GIB, 2) is None
    ledger.poll([reading(pid1=14 * GIB)], begun=3.0)
    assert ledger.reservation(0, 2, 10 * GIB, 2) is not None


def test_what_a_process_holds_already_is_its_nodes_to_use() -> None:
    ledger = Ledger(0, [reading(pid1=12 * GIB)])
    assert ledger.reservation(0, 2, 14 * GIB, 1) is None
    assert ledger.reservation(0, 1, 14 * GIB, 1) is not None
    assert ledger.reservation(0, 2, 11 * GIB, 2) is None
    assert ledger.reservation(0, 2, 10 * GIB, 2) is not None


def test_the_cushion_is_kept_unless_a_node_would_never_fit() -> None:
    ledger = Ledger(2 * GIB, [reading()])
    assert ledger.reservation(0, 1, 12 * GIB, 1) is not None
    assert ledger.reservation(0, 2, 11 * GIB, 2) is None
    alone = Ledger(2 * GIB, [reading()])
    assert alone.reservation(0, 1, 24 * GIB, 1) is not None
    assert not alone.could_fit(0, 24 * GIB + 1)


def test_what_the_driver_keeps_for_itself_keeps_no_node_waiting_for_ever() -> None:
    """No device has all of its total free: needs just below the total waited on an empty device."""
    rest = Reading(total=80 * GIB, free=int(78.9 * GIB), holders={1: GIB // 2})
    for need in (79.0, 79.3, 79.6, 80.0):
        ledger = Ledger(GIB // 2, [rest])
        assert ledger.reservation(0, 1, int(need * GIB), 1) is not None
    other = Ledger(GIB // 2, [rest])
    assert other.reservation(0, 2, 79 * GIB, 1) is None  # the idle process goes first
    assert not other.could_fit(0, 81 * GIB)


def test_a_device_that_is_too_small_is_promised_to_nobody() -> None:
    ledger = Ledger(0, [reading(), reading(80 * GIB)])
    assert ledger.reservation(0, 1, 30 * GIB, 1) is None
    assert ledger.reservation(0, 1, 30 * GIB, 1, alone=True) is None
    assert ledger.reservation(1, 2, 30 * GIB, 1) is not None


def test_a_node_that_is_alone_does_not_wait_for_what_nobody_can_give_back() -> None:
    ledger = Ledger(0, [Reading(total=24 * GIB, free=24 * GIB, holders={})])
    ledger.poll([Reading(total=24 * GIB, free=23 * GIB, holders={})], begun=1.0)
    assert ledger.reservation(0, 1, 24 * GIB, 1) is None
    ledger.poll([Reading(total=24 * GIB, free=23 * GIB, holders={812: 1})], begun=2.0)
    assert ledger.reservation(0, 1, 24 * GIB, 1, alone=True) is None
    ledger.poll([Reading(total=24 * GIB, free=12 * GIB, holders={})], begun=3.0)
    assert ledger.reservation(0, 1, 24 * GIB, 1, alone=True) is None  # too much: somebody works there
    ledger.poll([Reading(total=24 * GIB, free=23 * GIB, holders={})], begun=4.0)
    assert ledger.reservation(0, 1, 24 * GIB, 1, alone=True) is not None
    assert ledger.reservation(0, 2, 1, 2, alone=True) is None


def test_a_node_that_waits_is_told_why() -> None:
    ledger = Ledger(0, [reading(pid812=int(6.1 * GIB))])
    assert ledger.reservation(0, 1, 8 * GIB, 1) is not None
    assert (
        ledger.why(0, 2, int(14.2 * GIB))
        == "needs 14.2 GiB, 9.9 free, 6.1 held by pid 812, 8.0 promised to running nodes"
    )


def test_a_younger_node_passes_only_where_the_older_one_keeps_its_room() -> None:
    ledger = Ledger(0, [reading(pid812=2 * GIB)])
    before = ledger.reservation(0, 1, 10 * GIB, 1)
    assert before is not None
    assert ledger.reservation(0, 2, 14 * GIB, 2) is None  # the older one waits
    assert not ledger.leaves_room(0, 9 * GIB, 14 * GIB, 2, ours=[1, 2, 3])
    assert ledger.leaves_room(0, 8 * GIB, 14 * GIB, 2, ours=[1, 2, 3])
    assert ledger.reservation(0, 3, 8 * GIB, 3) is not None
    assert not ledger.leaves_room(0, 1 * GIB, 14 * GIB, 2, ours=[1, 2, 3])
    ledger.release(before, now=1.0)
    assert ledger.reservation(0, 2, 14 * GIB, 2) is None  # it may have taken all of it since the last look
    ledger.poll([reading(pid812=2 * GIB)], begun=2.0)
    assert ledger.reservation(0, 2, 14 * GIB, 2) is not None


class Device(RuleBasedStateMachine):
    """One device of 24 units: nodes are admitted, take what they were promised, give back, end, and die; others come and go.

    Others take only what is free and nobody was promised: what a stranger takes in the next moment cannot be promised to anybody.
    """

    nodes = Bundle("nodes")
    strangers = Bundle("strangers")

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.ledger = Ledger(CUSHION, [self.reading()])
        self.pids = 0
        self.stale = False
        self.now = 0.0

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def reading(self) -> Reading:
        holders = {pid: size for pid, size in self.held.items() if size}
        return Reading(total=TOTAL, free=TOTAL - sum(holders.values()), holders=holders)

    def free(self) -> int:
        return TOTAL - sum(self.held.values())

    def promised(self) -> int:
        return sum(max(0, each.need - self.held.get(each.pid, 0)) for each in self.ledger.reservations)

    @rule()
    def poll(self) -> None:
        self.ledger.poll([self.reading()], begun=self.tick())

    @rule(target=nodes, need=st.integers(0, TOTAL), poll=st.booleans())
    def admit(self, need: int, poll: bool) -> tuple[Reservation, int] | None:
        """Also with an old reading, as long as only our own processes have changed since."""
        if poll or self.stale:
            self.ledger.poll([self.reading()], begun=self.tick())
            self.stale = False
        self.pids += 1
        reservation = self.ledger.reservation(0, self.pids, need, self.pids)
        if reservation is None:
            assert need > self.free() - self.promised() - CUSHION
            return None
        return reservation, self.pids

    @rule(node=nodes, size=st.integers(1, TOTAL))
    def take(self, node: tuple[Reservation, int] | None, size: int) -> None:
        if node is None or node[0].ended is not None:
            return
        reservation, pid = node
        size = min(size, reservation.need - self.held.get(pid, 0))
        assert size <= self.free()  # an admitted node finds what it was promised
        self.held[pid] = self.held.get(pid, 0) + size

    @rule(node=nodes, size=st.integers(1, TOTAL))
    def give(self, node: tuple[Reservation, int] | None, size: int) -> None:
        if node is not None:
            self.held[node[1]] = max(0, self.held.get(node[1], 0) - size)

    @rule(node=consumes(nodes), crashes=st.booleans())
    def end(self, node: tuple[Reservation, int] | None, crashes: bool) -> None:
        """A process that lives on may go on holding memory: a model."""
        if node is None:
            return
        if crashes:
            self.held.pop(node[1], None)
        self.ledger.release(node[0], now=self.tick())

    @rule(target=strangers, size=st.integers(1, TOTAL))
    def stranger_comes(self, size: int) -> int | None:
        if size > self.free() - self.promised():
            return None
        self.pids += 1
        self.held[self.pids] = size
        self.stale = True
        return self.pids

    @precondition(lambda self: self.held)
    @rule(stranger=consumes(strangers))
    def stranger_goes(self, stranger: int | None) -> None:
        if stranger is not None:
            self.held.pop(stranger, None)
            self.stale = True

    @invariant()
    def never_over_committed(self) -> None:
        assert sum(self.held.values()) + self.promised() <= TOTAL


TestDevice = Device.TestCase
TestDevice.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
