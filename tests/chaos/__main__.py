"""`python -m tests.chaos --seed N --minutes M`: round after round, until the time is over or an invariant breaks."""

import argparse
import asyncio
import shutil
import statistics
import sys
import time
from collections import Counter

from tests.chaos.faults import KINDS
from tests.chaos.rounds import Plan, Round, play


def main() -> int:
    options = _parser().parse_args()
    return asyncio.run(_rounds(options))


async def _rounds(options: argparse.Namespace) -> int:
    until = time.monotonic() + options.minutes * 60
    number, jobs, failed = options.round, 0, 0
    counts: Counter[str] = Counter()
    again: list[float] = []
    done: list[float] = []
    while True:
        plan = Plan(
            seconds=options.seconds,
            kinds=tuple(options.fault or KINDS),
            gap_seconds=options.gap_seconds,
            controls=options.controls,
            workers=options.workers,
            lease_ms=options.lease_ms,
            jobs_per_second=options.jobs_per_second,
        )
        made = await play(f"{options.seed}.{number}", plan)
        _tell(made)
        counts += made.faults
        again += made.again_seconds
        done += made.done_seconds
        jobs += made.jobs
        if made.broken:
            asked = " ".join(sys.argv[1:])
            print(f"BROKEN: {asked} --seed {options.seed} --round {number} --minutes 0; its files: {made.directory}")
            failed += 1
            if not options.keep_going:
                return 1
        else:
            shutil.rmtree(made.directory, ignore_errors=True)
        number += 1
        if time.monotonic() > until:
            break
    print(f"{number - options.round} rounds, {failed} broken, {jobs} jobs, faults: {dict(counts)}")
    print(f"after the kill of a worker: running again {_spread(again)}; job ended {_spread(done)}")
    if missing := set(options.fault or KINDS) - set(counts):
        print(f"BROKEN: never injected: {sorted(missing)}")
        return 1
    return 1 if failed else 0


def _tell(made: Round) -> None:
    print(f"round {made.seed}: {made.jobs} jobs {dict(made.statuses)}, {made.events} events, {made.marks} marks, "
          f"{made.reruns} reruns, {made.resyncs} resyncs, unanswered {made.unanswered}, settled in {made.settled_seconds:.1f} s, harness late by {made.late_seconds:.2f} s")  # fmt: skip
    print(f"  faults: {dict(made.faults)}")
    if made.again_seconds:
        print(
            f"  killed workers' nodes: again after {_spread(made.again_seconds)}; job ended {_spread(made.done_seconds)}"
        )
    for line in made.troubles[:5]:
        print(f"  trouble: {line}")
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
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--round", type=int, default=0, help="the first round; a broken one is named by seed and round")
    parser.add_argument("--minutes", type=float, default=0.0, help="0: one round")
    parser.add_argument("--seconds", type=float, default=20.0, help="of faults in a round")
    parser.add_argument("--fault", action="append", choices=sorted(KINDS), help="only these kinds; repeatable")
    parser.add_argument("--gap-seconds", type=float, default=0.9, help="between faults, on the average")
    parser.add_argument("--keep-going", action="store_true", help="after a broken round too")
    parser.add_argument("--controls", type=int, default=2)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--lease-ms", type=int, default=1000)
    parser.add_argument("--jobs-per-second", type=float, default=5.0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
