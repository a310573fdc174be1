"""`python -m tests.benchmarks NAME [--jobs N] [--rounds R] [--out FILE]`: measures, prints tables, writes JSON."""

import argparse
from importlib import import_module
from pathlib import Path

from tests.benchmarks.bench import OUT, machine, say

NAMES = (
    "noop",
    "submit",
    "through",
    "forks",
    "latency",
    "chains",
    "websockets",
    "growth",
    "metrics",
    "console",
    "lora",
    "kernels",
    "voice",
    "video",
    "films",
    "tools",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--jobs", type=int, metavar="N", help="jobs of a turn; each benchmark has a default")
    parser.add_argument("--rounds", type=int, default=3, metavar="R", help="turns of each contender (3)")
    parser.add_argument("--only", metavar="NAMES", help="noop: of the contenders these, comma separated")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the JSON file (build/benchmarks/NAME.json)")
    options = parser.parse_args()
    if options.only and options.name != "noop":
        parser.error("--only is for noop")
    OUT.mkdir(parents=True, exist_ok=True)
    before = machine()
    benchmark = import_module(f"tests.benchmarks.{options.name}")
    more = {"only": options.only.split(",")} if options.only else {}
    tables, raw = benchmark.run(options.jobs or benchmark.JOBS, options.rounds, **more)
    say(options.name, tables, raw, before, options.out)


if __name__ == "__main__":
    main()
