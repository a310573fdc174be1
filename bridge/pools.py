"""The names of the priorities, which no pool may have: its stream would be the urgent one of the default pool."""

from typing import Final

PRIORITIES: Final = ("high", "normal", "low")
RESERVED_POOLS: Final = frozenset(PRIORITIES)
