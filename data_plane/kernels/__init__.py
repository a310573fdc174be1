"""Numeric kernels: pure functions of arrays and of the array module `xp` (NumPy or CuPy) that they compute with."""
