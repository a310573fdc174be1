"""The memory ledger: which node may have how much of which device, so that reserved memory is always there.

A node is admitted to a device when its need is at most

    free as measured − what admitted nodes may still take − the headroom

Measured, because other programs take memory without asking. What an admitted node may still take is its need minus what its process
holds already; both numbers come from one look at the device, so it does not matter what it has taken or freed since: the sum is the
same. For that reason a reservation that has ended still counts until a look that began later: an older look does not show what the node took at
last. An idle slot holds a context, and perhaps a model; that counts as taken for every node except one that runs in that very process.

A device never has all of its total free: the driver keeps some, and so does what it names no process for. So no node is held to more than was
ever seen to be free or in named hands (`most`). A node that has the device to itself begins with nine tenths of that: what has gone since
then has no known owner that could free it.

A node that waits is not overtaken by what would keep it waiting: a younger one gets memory of the device that the older one waits for only
if both fit beside all that came behind the older one (`leaves_room`). So small nodes use what a large one cannot, and
the large one runs when those before it have ended.

Other workers of the machine reserve memory of the same devices (reservations.py); their reservations count like those made here.

Pure: readings come in, decisions go out. What a node takes beyond its need cannot be prevented, only measured and learnt (usage_history.py).
"""

from collections.abc import Sequence

import msgspec

from dihedral.data_plane.gpu_memory.readings import SILENT_SECONDS, Reading

GIB = 2**30
NAMED_HOLDERS = 3
ALONE_SHARE = 0.9  # of its need, for a node that has a device to itself


class Reservation(msgspec.Struct, eq=False):
    """Memory of a device for one node in one process. order: of arrival. peak: the most that its process was seen to hold.

    ended: the moment (`time.monotonic`) from which on the node takes no more; None while it may.
    """

    device: int
    pid: int
    need: int
    order: int
    peak: int = 0
    ended: float | None = None


class Ledger:
    def __init__(self, headroom: int, readings: Sequence[Reading]) -> None:
        """`headroom`: bytes that are never reserved, unless a node needs them to fit a device at all."""
        self._cushion = headroom
        self._readings = list(readings)
        self._most = [_to_be_had(reading) for reading in readings]
        self._begun = 0.0  # the look that the readings are of
        self._reservations: list[Reservation] = []
        self.others: list[list[Reservation]] = [[] for _ in readings]
        """Reservations of other workers, a list for each device."""

    @property
    def reservations(self) -> list[Reservation]:
        """The reservations of this worker that count."""
        return [each for each in self._reservations if self._counts(each)]

    def all_of(self, device: int) -> list[Reservation]:
        """Returns also the reservations that count only for a worker that decides on an older look."""
        return [each for each in self._reservations if each.device == device]

    def poll(self, readings: Sequence[Reading], begun: float) -> None:
        """Stores the readings of a look that began at that moment."""
        self._readings, self._begun = list(readings), begun
        self._reservations = [
            each for each in self._reservations if each.ended is None or each.ended >= begun - SILENT_SECONDS
        ]
        self._most = [max(seen, _to_be_had(reading)) for seen, reading in zip(self._most, readings, strict=True)]
        for reservation in (each for each in self._reservations if each.ended is None):
            reservation.peak = max(reservation.peak, self.held(reservation.device, reservation.pid))

    def held(self, device: int, pid: int) -> int:
        return self._readings[device].holders.get(pid, 0)

    def capacity(self, device: int) -> int:
        return self._readings[device].total

    def could_fit(self, device: int, need: int) -> bool:
        """Returns True when the need fits a device that the node has for itself."""
        return need <= self.capacity(device)

    def need_here(self, device: int, need: int) -> int:
        """The need, or what the device has at the most where that is less."""
        return min(need, self._most[device])

    def is_promised(self, device: int) -> bool:
        """Returns True when any worker has admitted a node to the device."""
        return bool(self._counted(device))

    def foreign(self, device: int, ours: Sequence[int]) -> int:
        """Bytes in use that are not known to belong to these processes."""
        reading = self._readings[device]
        return reading.total - reading.free - sum(reading.holders.get(pid, 0) for pid in ours)

    def unnamed(self, device: int) -> int:
        """Bytes in use that the driver names no process for."""
        reading = self._readings[device]
        return max(0, reading.total - reading.free - sum(reading.holders.values()))

    def room(self, device: int, pid: int, need: int) -> int:
        """Bytes that a node of this need may have now, in this process; may be below 0."""
        free = self._readings[device].free + self.held(device, pid)
        return free - self._not_taken(device, self._counted(device)) - self._cushion_for(device, need)

    def leaves_room(self, device: int, need: int, older_need: int, older_order: int, ours: Sequence[int]) -> bool:
        """Returns True when the older node still fits after those before it have ended. `ours`: processes of this worker, whose memory comes back."""
        foreign = self.foreign(device, ours) + self._not_taken(device, self.others[device])
        younger = sum(each.need for each in self.reservations if each.device == device and each.order > older_order)
        headroom = self._cushion_for(device, older_need)
        return foreign + younger + need + self.need_here(device, older_need) + headroom <= self.capacity(device)

    def reservation(
        self, device: int, pid: int, need: int, order: int, *, unreclaimable: int = 0, alone: bool = False
    ) -> Reservation | None:
        """Returns None when the device has too little room. `unreclaimable`: bytes that the process holds and the node cannot use; `alone`: no other process of this worker holds any."""
        if not self.could_fit(device, need):
            return None
        room = self.room(device, pid, need) - unreclaimable
        alone = alone and not self.is_promised(device) and self._readings[device].holders.keys() <= {pid}
        need = self.need_here(device, need)
        if room < (need * ALONE_SHARE if alone else need):
            return None
        need += unreclaimable
        made = Reservation(device, pid, need, order, self.held(device, pid))
        self._reservations.append(made)
        return made

    def release(self, reservation: Reservation, now: float) -> None:
        """Ends a reservation; may be called twice. The memory can be given to others from the next look on."""
        if reservation.ended is None:
            reservation.ended = now

    def why(self, device: int, pid: int, need: int) -> str:
        """Returns a text such as `needs 14.2 GiB, 9.8 free, 6.1 held by pid 812`."""
        reading = self._readings[device]
        parts = [f"needs {in_gib(need)} GiB", f"{in_gib(max(0, self.room(device, pid, need)))} free"]
        holders = sorted(((held, one) for one, held in reading.holders.items() if one != pid), reverse=True)
        parts += [f"{in_gib(held)} held by pid {one}" for held, one in holders[:NAMED_HOLDERS]]
        if promised := self._not_taken(device, self._counted(device)):
            parts.append(f"{in_gib(promised)} promised to running nodes")
        return ", ".join(parts)

    def kept_for(self, need: int, older_need: int) -> str:
        """The reason for a node that would fit if an older node did not wait."""
        return f"needs {in_gib(need)} GiB, which are kept for an older node that needs {in_gib(older_need)}"

    def never(self, need: int, largest: int) -> str:
        """The reason for a node that fits no device of this worker."""
        return f"needs {in_gib(need)} GiB, more than any device of this worker has ({in_gib(largest)})"

    def _counts(self, reservation: Reservation) -> bool:
        return reservation.ended is None or reservation.ended >= self._begun

    def _counted(self, device: int) -> list[Reservation]:
        return [each for each in [*self.all_of(device), *self.others[device]] if self._counts(each)]

    def _not_taken(self, device: int, reservations: Sequence[Reservation]) -> int:
        """Bytes of these reservations that their processes did not hold at the last look."""
        return sum(max(0, each.need - self.held(device, each.pid)) for each in reservations if self._counts(each))

    def _cushion_for(self, device: int, need: int) -> int:
        return max(0, min(self._cushion, self._most[device] - need))


def _to_be_had(reading: Reading) -> int:
    """Bytes that are free, or would be if every process that is named ended."""
    return min(reading.total, reading.free + sum(reading.holders.values()))


def in_gib(size: int) -> str:
    return f"{size / GIB:.1f}"
