"""The errors of the bridge, in one tree.

DihedralError
├── SettingsError          a setting is unknown or out of range; names file or variable, path and reason
├── ServerUnavailable      Redis cannot be reached, or answers that it cannot serve
├── LayoutMismatch         this process and the server disagree on partitions or protocol
├── IllegalTransition      a state machine was asked for a move that its table does not have
├── ReferenceNotFound      a `$from` names an output that is not there
├── InputTooLarge          what `$from` and the parents add to a node's params exceeds jobs.nodeInputBytes
└── StoreError             the artifact store; see bridge/artifacts/store.py for its leaves
"""


class DihedralError(Exception):
    """The base of every error that Dihedral raises on purpose."""


class SettingsError(DihedralError):
    pass


class ServerUnavailable(DihedralError):
    pass


class LayoutMismatch(DihedralError):
    pass


class IllegalTransition(DihedralError):
    pass


class ReferenceNotFound(DihedralError):
    code = "reference_not_found"


class InputTooLarge(DihedralError):
    code = "input_too_large"


class StoreError(DihedralError):
    code = "artifact_store_error"
