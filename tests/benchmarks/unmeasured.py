"""`python -m tests.benchmarks.unmeasured ...`: the control plane with everything taken out that measures, also in the scripts."""

import re
import sys
from importlib.resources import files

from prometheus_client import Counter, Gauge, Histogram


def take_out() -> None:
    for kind, names in ((Counter, ["inc"]), (Gauge, ["inc", "dec", "set"]), (Histogram, ["observe"])):
        for name in names:
            setattr(kind, name, lambda *_, **__: None)
    from bridge import scripts
    from control_plane import app as made

    made._measured = lambda app: app
    folder = files("bridge") / "lua"
    shared = (folder / "_state.lua").read_text()
    plain = re.sub(r"^.*\bcount\(.*\n", "", shared, flags=re.M)
    assert shared.count("\n") - plain.count("\n") >= 4, "the scripts count otherwise now"
    for name in scripts.NAMES:
        text = re.sub(r"^.*\bcount\(status, 1\)\n", "", (folder / f"{name}.lua").read_text(), flags=re.M)
        head = scripts.FIRST_LINES.get(name, "#!lua flags=allow-oom\n") + scripts.lua_prelude()
        scripts._sources[name] = head + plain + text


if __name__ == "__main__":
    take_out()
    from control_plane.__main__ import main

    sys.exit(main(sys.argv[1:]))
