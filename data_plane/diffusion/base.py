"""The folder of a base model, from a reference: a folder of the worker, or a zip of one."""

import lzma
import shutil
import zipfile
import zlib
from pathlib import Path

from dihedral.bridge.tasks.models import file_name
from dihedral.bridge.tasks.registry import TaskContext, TaskError
from dihedral.schemas.structs.artifact import ModelRef

MOST_FILES = 1_000
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, OSError, EOFError)
"""What opening and unpacking a user's zip may raise."""
DIRECTORY_BYTES = 2**20
LEFT_BYTES = 2**30  # that a zip leaves free on the disk


def fetched(ref: ModelRef, ctx: TaskContext) -> Path:
    """Raises: TaskError `model_not_found`, `bad_model`; `invalid_model`: it is neither a folder nor a zip of one."""
    found = ctx.fetch(ref)
    if found.is_dir():
        return found
    to = ctx.workdir / "base"
    try:
        if directory_bytes(found) > DIRECTORY_BYTES:
            raise _invalid("the list of files of its zip is too long")
        with zipfile.ZipFile(found) as opened:
            size = sum(each.file_size for each in opened.infolist())
            if len(opened.infolist()) > MOST_FILES or size > shutil.disk_usage(ctx.workdir).free - LEFT_BYTES:
                raise _invalid(
                    f"its zip holds {len(opened.infolist())} files of {size >> 20} MiB, which is too much here"
                )
            opened.extractall(to)  # which leaves out of names what leads out of the folder
    except DAMAGED as error:
        raise _invalid(
            f"{file_name(ref)} is neither a folder nor a zip of one ({error}). Save a single file once as a folder: "
            "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        ) from error
    inner = [each for each in to.iterdir() if each.is_dir()]
    return inner[0] if len(inner) == 1 and not (to / "unet").exists() else to


def directory_bytes(path: Path) -> int:
    """Returns the size of a zip's list of files, which Python reads whole; 0 where it is no zip. Raises zipfile.BadZipFile.

    The end of the file is read by the function that ZipFile reads it by: of two ends, another would be believed.
    """
    with path.open("rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    return int(end[zipfile._ECD_SIZE]) if end else 0  # type: ignore[attr-defined]


def _invalid(reason: str) -> TaskError:
    return TaskError(f"the base cannot be read: {reason}", code="invalid_model")
