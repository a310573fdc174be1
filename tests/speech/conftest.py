from tests.place import place

__all__ = ["place"]
