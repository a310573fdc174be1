"""Random input at every door. Short here; long by hand: `pytest -n0 --timeout 0 -o faulthandler_timeout=0 --hypothesis-profile long tests/fuzzing`."""

from hypothesis import HealthCheck, settings

from tests.control_plane.conftest import _open_gates, served

__all__ = ["_open_gates", "served"]

settings.register_profile("long", settings.get_profile("default"), max_examples=10_000)


def examples(count: int) -> settings:
    """So many of a test in the short profile, a hundred times that in the long one."""
    factor = max(1, settings.default.max_examples // 100) if settings.default is not None else 1
    return settings(
        max_examples=count * factor, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
