from tests.place import place, xp

__all__ = ["place", "xp"]
