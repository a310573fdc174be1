"""Task `train_image_lora`: the look (colours and tones) of one or more pictures, as a low-rank adapter."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from dihedral.bridge.tasks.params import Picture
from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
from dihedral.data_plane.device import Array, ArrayModule, array_module
from dihedral.data_plane.kernels import low_rank
from dihedral.data_plane.kernels.patches import grid_patches
from dihedral.data_plane.media.decode import read_picture
from dihedral.data_plane.model_files import adapter_bytes
from dihedral.schemas.strict import Strict
from dihedral.schemas.structs.artifact import ArtifactRef
from dihedral.schemas.structs.capability import Check, CheckRepair

LONGEST_SIDE = 512  # pixels a picture is scaled down to: some thousands of patches are enough to learn from
BASE_SEED = 1  # of the frozen map: one for all adapters, as one base model is
HELD_OUT = 5  # every fifth patch is kept from training
FEWEST_PATCHES = 10
REPORTS = 100  # loss events of a run, about
LONGEST_WINDOW = 25  # steps between two looks at a cancellation


class TrainImageLora(Strict, kw_only=True, rename="camel"):
    pictures: Annotated[list[Picture], Meta(min_length=1, max_length=64, description="What to learn from")]
    rank: Annotated[int, Meta(ge=1, le=64, description="Rank of the adapter")] = 8
    alpha: Annotated[
        float, Meta(gt=0, le=1024, title="Alpha (scale)", description="The change is scaled by alpha / rank")
    ] = 16.0
    steps: Annotated[int, Meta(ge=1, le=100_000, description="Mini-batches of Adam")] = 300
    batch: Annotated[int, Meta(ge=1, le=4096, title="Batch size", description="Patches in a mini-batch")] = 64
    patch: Annotated[
        int, Meta(ge=4, le=16, multiple_of=2, title="Patch side (pixels)", description="Side of a patch in pixels")
    ] = 8
    learning_rate: Annotated[float, Meta(gt=0, le=1, description="Adam's first step size; falls linearly")] = 0.01
    seed: Annotated[
        int, Meta(ge=0, title="Random seed", description="Of the first values, the split and the batches")
    ] = 0


class TrainImageLoraOutput(Strict, kw_only=True, rename="camel"):
    """Errors are mean squares per colour value (0..1) over patches that training never saw."""

    adapter: Annotated[ArtifactRef, Meta(extra_json_schema={"x-kind": ["look"]})]
    base_error: float
    held_out_error: float
    steps: int
    device: str


@task(
    checks=[
        Check(
            id="learned",
            label="closer to the pictures than without it",
            value="/heldOutError",
            most="output/baseError",
            repair=CheckRepair(param="steps", factor=3),
        )
    ],
    id="train_image_lora",
    label="Colour look from pictures",
    description="Learns the colours of pictures as a look that render_video gives to other pictures. It learns no objects and no style of drawing.",
    kind="gpu",
    memory_mib=512,
    time_by=("steps", "batch", "patch"),
    keywords=[
        "teach look",
        "teach tones",
        "teach adapter",
        "train look",
        "learn look",
        "learn style",
        "learn colours",
        "learn the colours",
        "learn the look",
        "learn the style",
        "style",
        "colour style",
        "palette",
        "grade",
        "colour grading",
        "image lora",
        "picture lora",
        "look",
        "tones",
        "train lora",
        "lora",
    ],
    examples=[{"pictures": [{"bucket": "inputs", "key": "dusk.png"}], "rank": 8, "steps": 300}],
    groups={
        "Pictures": ("pictures",),
        "Look": ("rank", "alpha", "patch"),
        "Training": ("steps", "batch", "learningRate", "seed"),
    },
)
def train_image_lora(params: TrainImageLora, ctx: TaskContext) -> TrainImageLoraOutput:
    xp, device, _ = array_module()
    pictures = []
    for reference in params.pictures:
        ctx.check_cancelled()
        pictures.append(xp.asarray(read_picture(ctx.fetch(reference), LONGEST_SIDE)))
    ctx.progress(0.05)
    train, held_out = split(pictures, params.patch, params.seed, xp)
    base = low_rank.base_map(train.shape[1], BASE_SEED, xp)
    mean = train.reshape(-1, 3).mean(axis=0)
    adapter = low_rank.new_adapter(mean, params.patch, params.rank, params.alpha, BASE_SEED, params.seed, xp)
    base_error = low_rank.error(held_out, base, adapter, xp)
    every = -(-params.steps // REPORTS)
    rounds = low_rank.train(
        train,
        base,
        adapter,
        steps=params.steps,
        batch=params.batch,
        learning_rate=params.learning_rate,
        seed=params.seed,
        window=min(every, LONGEST_WINDOW),
        xp=xp,
    )
    due = 0
    for step, loss, trained in rounds:
        adapter = trained
        ctx.check_cancelled()
        if step >= due or step == params.steps:
            ctx.data("loss", {"step": step, "loss": finite(loss)})
            ctx.progress(0.05 + 0.9 * step / params.steps)
            due = step + every
    held_out_error = finite(low_rank.error(held_out, base, adapter, xp))
    notes = {
        "steps": str(params.steps),
        "seed": str(params.seed),
        "base_error": repr(base_error),
        "held_out_error": repr(held_out_error),
        "pictures": str(len(pictures)),
    }
    stored = ctx.store("loras", "adapter.safetensors", adapter_bytes(adapter, notes), "application/octet-stream")
    ctx.progress(1.0)
    return TrainImageLoraOutput(
        adapter=ArtifactRef(bucket=stored.bucket, key=stored.key),
        base_error=base_error,
        held_out_error=held_out_error,
        steps=params.steps,
        device=device,
    )


def finite(error: float) -> float:
    """Raises: TaskError `diverged` where the error is no finite number."""
    if not np.isfinite(error):
        raise TaskError("the training diverged; a smaller learningRate may help", code="diverged", retryable=False)
    return error


def split(pictures: list[Array], patch: int, seed: int, xp: ArrayModule) -> tuple[Array, Array]:
    """[(height, width, 3)] -> `(train (n, dim), held out (m, dim))`: patches without overlap, shuffled by the seed.

    Raises: TaskError `invalid_input` where the pictures are too small to hold any out.
    """
    patches = xp.concatenate([grid_patches(picture, patch) for picture in pictures])
    if len(patches) < FEWEST_PATCHES:
        raise TaskError(
            f"the pictures hold {len(patches)} patches of {patch}×{patch} pixels; at least {FEWEST_PATCHES} are needed",
            code="invalid_input",
            retryable=False,
        )
    patches = patches[xp.asarray(np.random.default_rng(seed).permutation(len(patches)))]
    held = len(patches) // HELD_OUT
    return patches[held:], patches[:held]
