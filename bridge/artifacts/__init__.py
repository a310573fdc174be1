"""The artifact store: `open_store` opens the store that the settings name."""

from pathlib import Path

from dihedral.bridge.artifacts.local import LocalStore
from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.schemas.structs.settings import ArtifactsSettings, StoreKind


def open_store(settings: ArtifactsSettings) -> ArtifactStore:
    """Opens the store that the settings name; nothing is contacted yet."""
    if settings.store == StoreKind.s3:
        from dihedral.bridge.artifacts.s3 import S3Store

        return S3Store(settings)
    return LocalStore(Path(settings.directory))
