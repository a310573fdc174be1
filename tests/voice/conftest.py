from tests.support.in_process import place, xp

__all__ = ["place", "xp"]
