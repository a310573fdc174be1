"""A task that shows what it does, in pictures and numbers. The house's worker loads this module; a test says by files when it may go on."""

import io
import time
from pathlib import Path

from msgspec import Struct
from PIL import Image

from dihedral import TaskContext, task

BUCKET = "videos"


class Film(Struct, forbid_unknown_fields=True):
    signals: str
    pictures: int = 3


class Filmed(Struct):
    pictures: int


def png(width: int) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (width, 8), (200, 60, 40)).save(made, "PNG")
    return made.getvalue()


@task
def film(params: Film, ctx: TaskContext) -> Filmed:
    """Picture k is 100 k wide and written over the one before (a checkpoint is, too); it ends with one of its own, 500 wide."""
    for number in range(1, params.pictures + 1):
        ctx.keep_checkpoint(BUCKET, png(100 * number))
        ctx.data("preview", {"bucket": BUCKET, "key": f"{ctx.job_id}/{ctx.node_id}/checkpoint", "frame": number})
        for size in (2, 4):
            ctx.data("fit", {"step": number, "steps": 3, "components": size, "error": size / number, "gain": number})
        while not Path(params.signals, str(number)).exists():
            ctx.check_cancelled()
            time.sleep(0.02)
    for size in (2, 4, 8):
        ctx.data("bic", {"components": size, "bic": 100 / size, "weights": [0.5] * size, "note": "no number"})
    ctx.store(BUCKET, "still.png", png(500), "image/png")
    return Filmed(pictures=params.pictures)
