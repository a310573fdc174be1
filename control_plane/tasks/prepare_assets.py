"""Checks that every artifact is there before anything expensive starts."""

from typing import Annotated

from msgspec import Meta

from dihedral.bridge.tasks.registry import TaskContext, task
from dihedral.control_plane.tasks import Shape
from dihedral.schemas.structs.artifact import ArtifactMeta, ArtifactRef


class AssetParams(Shape):
    assets: Annotated[list[ArtifactRef], Meta(min_length=1, max_length=1000, extra_json_schema={"x-kind": ["file"]})]


class Assets(Shape):
    assets: list[ArtifactMeta]
    total_bytes: int


@task(
    plane="node",
    label="Prepare assets",
    description="Makes sure that every artifact is there, before anything expensive starts, and says what it is.",
    timeout_seconds=300,
    keywords=[
        "check files",
        "check artifacts",
        "verify files",
        "files exist",
        "are there",
        "still there",
        "all there",
        "file sizes",
        "check that exist",
        "assets",
    ],
    examples=[{"assets": [{"bucket": "inputs", "key": "examples/picture.png"}]}],
)
async def prepare_assets(params: AssetParams, ctx: TaskContext) -> Assets:
    store = ctx._artifacts()
    found = []
    for number, asset in enumerate(params.assets, 1):
        found.append(await store.meta(asset.bucket, asset.key))
        ctx.progress(number / len(params.assets))
    return Assets(assets=found, total_bytes=sum(meta.size_bytes for meta in found))
