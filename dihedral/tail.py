"""`dihedral logs`: the ends of the log files, and what is added to them."""

import sys
import time
from pathlib import Path


def tail(directory: Path, name: str | None, *, follow: bool, lines: int) -> int:
    """0; 3 when there is no such log. With `follow` until Ctrl-C."""
    files = sorted(directory.glob(f"{name or '*'}.log"))
    if not files:
        print(
            f"dihedral: no log {name or ''} in {directory}; is this the data directory of `dihedral up`?",
            file=sys.stderr,
        )
        return 3
    places = {}
    for path in files:
        text = path.read_text(errors="replace")
        places[path] = path.stat().st_size
        for line in text.splitlines()[-lines:]:
            print(f"{path.stem:10} {line}")
    while follow:
        for path, place in places.items():
            with path.open("rb") as file:
                file.seek(place)
                for raw in file:
                    print(f"{path.stem:10} {raw.decode(errors='replace').rstrip()}", flush=True)
                places[path] = file.tell()
        time.sleep(0.2)
    return 0
