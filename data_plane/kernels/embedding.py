"""Rows of a table by number, and the sum of their gradients.

ids: (rows,) int64, table: (vocabulary, width) -> (rows, width) in the type of the table. Exact.
"""

from dihedral.data_plane.device import Array, ArrayModule


def forward(ids: Array, table: Array) -> Array:
    return table[ids]


def add_gradient(dx: Array, ids: Array, d_table: Array, xp: ArrayModule) -> None:
    """d_table: (vocabulary, width) float32, added to in place; an id that stands twice counts twice."""
    xp.add.at(d_table, ids, dx.astype(xp.float32, copy=False))
