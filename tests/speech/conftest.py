from tests.support.in_process import place

__all__ = ["place"]
