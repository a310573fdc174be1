"""The version that this code announces."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("dihedral")
except PackageNotFoundError:  # a source tree that was never installed
    VERSION = "0.0.0"
