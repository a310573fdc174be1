"""The control plane's own tasks, one module each."""

from msgspec import Struct

BUILTIN: tuple[str, ...] = (
    "dihedral.control_plane.tasks.generate_script",
    "dihedral.control_plane.tasks.prepare_assets",
    "dihedral.control_plane.tasks.upload_artifact",
    "dihedral.control_plane.tasks.merge_capabilities",
    "dihedral.control_plane.tasks.evaluate_results",
)


class Shape(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The base of the params and outputs here."""
