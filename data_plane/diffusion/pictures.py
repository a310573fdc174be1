"""Pictures and their captions, as people keep them: `x.png` beside `x.txt`, in a folder or a zip; and the sizes at which they are trained.

A batch holds pictures of one size, so each picture goes to the bucket whose shape is nearest to it: it is scaled until it covers that, and what
stands over is cut off in equal parts. No picture is squeezed.
"""

import math
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from dihedral.bridge.tasks.registry import TaskError, invalid_input
from dihedral.data_plane.diffusion.base import DAMAGED, directory_bytes
from dihedral.data_plane.media.decode import FloatArray, picture_shape, read_picture

MOST_PICTURES = 2_000
MOST_UNPACKED_BYTES = 8 * 2**30  # of all zips of a training together
DIRECTORY_BYTES = 4 * 2**20  # of a zip's list of files, which is read whole and takes ten times its size
CAPTION_BYTES = 16 * 1024
WIDEST = 2.0  # a bucket's longer side by its shorter one
TEXT, PACKED = ".txt", ".zip"
SKIPPED = ("__MACOSX", ".")  # what systems add to a zip

Size = tuple[int, int]  # width, height


class Picture(NamedTuple):
    name: str
    path: Path
    caption: str


class Framed(NamedTuple):
    """pixels: (height, width, 3) in −1..1, of the bucket's size. original: before it was scaled; cut: (left, top) that were cut off, as SDXL is told."""

    pixels: FloatArray
    original: Size
    cut: tuple[int, int]


def captioned(files: Sequence[tuple[str, Path]], captions: Sequence[str] | None, caption: str) -> list[Picture]:
    """`files`: (name, path) of pictures, texts and zips of both. `captions`: one for each picture, in order. `caption`: of pictures without one.

    Raises:
        TaskError: `invalid_input`: a text belongs to no picture or to two, a picture has no caption, or the captions are not as many.
    """
    pictures: list[tuple[str, Path]] = []
    texts: dict[str, tuple[str, Path]] = {}
    for name, path in _unpacked(files):
        if name.lower().endswith(TEXT):
            if (stem := _stem(name)) in texts:
                raise invalid_input(f"two captions are called {PurePosixPath(name).name}")
            texts[stem] = (name, path)
        else:
            pictures.append((name, path))
    if not pictures or len(pictures) > MOST_PICTURES:
        raise invalid_input(f"there are {len(pictures)} pictures; 1 to {MOST_PICTURES:,} are possible")
    if captions is not None:
        if texts or len(captions) != len(pictures):
            raise invalid_input(
                f"captions has {len(captions)} entries for {len(pictures)} pictures and {len(texts)} texts: one for each picture, or texts"
            )
        return [
            Picture(name, path, said.strip() or caption) for (name, path), said in zip(pictures, captions, strict=True)
        ]
    stems = [_stem(name) for name, _ in pictures]
    for stem, (name, _) in texts.items():
        if (found := stems.count(stem)) != 1:
            raise invalid_input(
                f"the caption {name} belongs to {found or 'no'} picture{'s' if found > 1 else ''} of its name"
            )
    made = [
        Picture(name, path, (_read(texts[stem]) if stem in texts else "") or caption.strip())
        for stem, (name, path) in zip(stems, pictures, strict=True)
    ]
    if bare := [each.name for each in made if not each.caption]:
        raise invalid_input(
            f"{len(bare)} of {len(made)} pictures have no caption ({', '.join(bare[:3])}): put NAME.txt beside NAME.png, or set caption for all of them"
        )
    return made


def _unpacked(files: Iterable[tuple[str, Path]]) -> Iterable[tuple[str, Path]]:
    bytes_left, files_left = MOST_UNPACKED_BYTES, 2 * MOST_PICTURES
    for name, path in files:
        if not name.lower().endswith(PACKED):
            yield name, path
            continue
        for inner, unpacked in _of_zip(name, path, bytes_left, files_left):
            bytes_left, files_left = bytes_left - unpacked.stat().st_size, files_left - 1
            yield inner, unpacked


def _of_zip(name: str, path: Path, most_bytes: int, most_files: int) -> Iterable[tuple[str, Path]]:
    """Each file is written under a number: no name of the zip becomes a path."""
    try:
        if (listed := directory_bytes(path)) > DIRECTORY_BYTES:
            raise invalid_input(f"the list of files of {name} has {listed >> 20} MiB, which is too much")
        with zipfile.ZipFile(path) as opened:
            entries = [
                each
                for each in opened.infolist()
                if not each.is_dir()
                and not any(part.startswith(SKIPPED) for part in PurePosixPath(each.filename).parts)
            ]
            size = sum(each.file_size for each in entries)
            if len(entries) > most_files or size > most_bytes:
                raise invalid_input(
                    f"{name} holds {len(entries)} files of {size >> 20} MiB, which is too much "
                    f"(all zips together: {2 * MOST_PICTURES:,} files, {MOST_UNPACKED_BYTES >> 30} GiB)"
                )
            for number, each in enumerate(entries):
                to = path.with_name(f"{path.stem}-{number}{PurePosixPath(each.filename).suffix.lower()[:8]}")
                with opened.open(each) as source, to.open("wb") as target:
                    left = each.file_size  # a zip that lies about its sizes ends here
                    while left > 0 and (block := source.read(min(left, 1 << 20))):
                        target.write(block)
                        left -= len(block)
                yield each.filename, to
    except DAMAGED as error:
        raise invalid_input(f"{name} is no zip that can be read: {error}") from error


def _stem(name: str) -> str:
    """Systems write one letter with an accent in two ways."""
    return unicodedata.normalize("NFC", PurePosixPath(name).stem)


def _read(text: tuple[str, Path]) -> str:
    name, path = text
    if path.stat().st_size > CAPTION_BYTES:
        raise invalid_input(f"the caption {name} is longer than {CAPTION_BYTES:,} bytes")
    try:
        return " ".join(path.read_text("utf-8-sig").split())
    except UnicodeDecodeError:
        raise invalid_input(f"the caption {name} is no text in UTF-8") from None


# Sizes --------------------------------------------------------------------------------------------------------------


def step_of(resolution: int, divisor: int) -> int:
    """Returns by how many pixels the sides of buckets differ: 64 where the model was made for 512 or 1024. `divisor`: by which the network halves."""
    return -(-resolution // 16 // divisor) * divisor or divisor


def buckets(resolution: int, step: int) -> list[Size]:
    """Returns the sizes of no more pixels than resolution², in multiples of `step`."""
    found = []
    for width in range(step, round(resolution * WIDEST) + 1, step):
        height = resolution * resolution // width // step * step
        if height and max(width, height) <= WIDEST * min(width, height):
            found.append((width, height))
    return found


def bucket_of(size: Size, among: Sequence[Size]) -> Size:
    aspect = math.log(size[0] / size[1])
    return min(among, key=lambda each: (round(abs(math.log(each[0] / each[1]) - aspect), 6), -each[0] * each[1]))


def framed(picture: Picture, among: Sequence[Size]) -> Framed:
    """Raises: TaskError `invalid_input`, with the name of the picture."""
    from PIL import Image

    try:
        tall, wide = picture_shape(picture.path)
        original = (wide, tall)
        width, height = bucket_of(original, among)
        read = read_picture(picture.path, 4 * max(width, height))
    except TaskError as error:
        raise TaskError(f"{picture.name}: {error}", code=error.code) from None
    image = Image.fromarray((read * 255 + 0.5).astype(np.uint8))
    scale = max(width / image.width, height / image.height)
    larger = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    left, top = (larger[0] - width) // 2, (larger[1] - height) // 2
    cut = image.resize(larger, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    return Framed(np.asarray(cut, np.float32) / np.float32(127.5) - np.float32(1), original, (left, top))


def groups(sizes: Sequence[Size], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Returns the batches of an epoch, as places in `sizes`: each of one size, in an order that seed and epoch decide."""
    dice = np.random.default_rng((seed, epoch))
    by_size: dict[Size, list[int]] = {}
    for place in dice.permutation(len(sizes)):
        by_size.setdefault(sizes[place], []).append(int(place))
    made = [each[at : at + batch] for each in by_size.values() for at in range(0, len(each), batch)]
    return [made[place] for place in dice.permutation(len(made))]
