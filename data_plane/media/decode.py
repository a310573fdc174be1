"""Reading pictures and recordings: the only place that decodes what a user uploaded.

It is not trusted: every reader bounds what it decodes before decoding it, and says in one sentence,
with the code `invalid_input`, why a file is not what the task needs.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.kernels.colour import to_rgb

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
ByteArray = np.ndarray[Any, np.dtype[np.uint8]]

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP")  # no others: every decoder is a way in
LARGEST_PIXELS = 100_000_000  # decoded at 3 bytes each: 300 MB, a slot's worth of memory
SMALLEST_SIDE = 16  # pixels; below it there is no picture to speak of
SHORTEST_SECONDS = 0.25
SILENCE = 1e-4  # peak, about the last bit of 14
RATES = range(4_000, 192_001)  # Hz: below there is no speech, above only an attempt to fill the memory
_EXIF_ORIENTATION = 0x0112  # 5 to 8: lying on a side


def read_picture(path: Path, longest: int) -> FloatArray:
    """(height, width, 3) in 0..1, upright, scaled down (Lanczos) until no side exceeds `longest` pixels.

    Transparency is laid over black; of an animation the first frame is read.

    Raises: TaskError `invalid_input` where the file is no picture, is damaged, tiny or over LARGEST_PIXELS.
    """
    from PIL import Image, ImageOps

    with _opened(path) as opened:
        opened.draft("RGB", (longest, longest))  # JPEG: decode at a fraction of the size
        image = _colours(ImageOps.exif_transpose(opened))
    if max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    picture = np.array(image, dtype=np.float32)
    picture /= np.float32(255)  # in place: a second copy would be 12 bytes a pixel
    return picture


def read_cut_out(path: Path, longest: int) -> FloatArray:
    """(height, width, 4) in 0..1, as `read_picture` reads it, with the opacity last, by which the colours are multiplied."""
    from PIL import Image, ImageOps

    with _opened(path) as opened:
        turned = ImageOps.exif_transpose(opened)
        image = (_colours(turned) if turned.mode.startswith(("I", "F")) else turned).convert("RGBA")
    if max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    picture = np.array(image, dtype=np.float32)
    picture /= np.float32(255)
    picture[:, :, :3] *= picture[:, :, 3:]
    return picture


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The picture with its size looked at; what goes wrong with it in the block is told as well."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # bounded below, with our own limit
            with Image.open(path, formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > LARGEST_PIXELS:
                    raise _too_large()
                if min(width, height) < SMALLEST_SIDE:
                    raise _invalid(f"the picture has {width}×{height} pixels; each side needs at least {SMALLEST_SIDE}")
                yield opened
    except UnidentifiedImageError:
        raise _invalid(f"the file is not a picture that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:  # raised at twice Pillow's own limit, before there is a size to look at
        raise _too_large() from None
    except (OSError, SyntaxError, ValueError, RuntimeError, struct.error) as error:  # what its decoders raise
        raise _invalid(f"the picture is damaged: {error}") from error


def read_recording(path: Path, longest_seconds: float) -> tuple[FloatArray, int]:
    """`(samples (n,) in −1..1, rate in Hz)`: the channels' mean, of at most the first `longest_seconds`.

    Raises: TaskError `invalid_input` where the file is no sound, too short, or silent.
    """
    pieces = list(recording_pieces(path, longest_seconds, longest_seconds))
    return np.concatenate([samples for samples, _ in pieces]), pieces[0][1]


def recording_pieces(path: Path, piece_seconds: float, longest_seconds: float) -> Iterator[tuple[FloatArray, int]]:
    """`(samples, rate)` as `read_recording` gives them, of `piece_seconds` each and a shorter rest: memory stays flat.

    Raises: TaskError `invalid_input` as there; that a file is too short or silent is known behind its last piece.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as opened:
            rate = int(opened.samplerate)
            if rate not in RATES:
                raise _invalid(f"the recording has {rate} samples a second, not {RATES.start} to {RATES.stop - 1}")
            left, size, peak = int(longest_seconds * rate), max(1, int(piece_seconds * rate)), 0.0
            read = 0
            while samples := _mono(opened, min(size, left - read)):
                piece = np.concatenate(samples)
                if not np.isfinite(piece).all():
                    raise _invalid("the recording holds values that are no numbers")
                read, peak = read + piece.size, max(peak, float(np.abs(piece).max()))
                yield piece, rate
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        raise _invalid(f"the file is not a recording that can be read (WAV, FLAC, …): {error}") from error
    if read < SHORTEST_SECONDS * rate:
        raise _invalid(f"the recording lasts {read / rate:.2f} s; at least {SHORTEST_SECONDS} s are needed")
    if peak < SILENCE:
        raise _invalid("the recording is silent")


def _mono(opened: Any, count: int) -> list[FloatArray]:
    """The next `count` frames, each the mean of its channels, block by block: a file may have a thousand channels."""
    if count < 1:
        return []
    blocks = opened.blocks(1 << 16, frames=count, dtype="float32", always_2d=True)
    return [block.mean(axis=1) for block in blocks if len(block)]


def picture_shape(path: Path) -> tuple[int, int]:
    """(height, width) of the picture, upright, from its header alone.

    Raises: TaskError `invalid_input`, as read_picture, except where only the pixels are damaged.
    """
    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) in range(5, 9)
    return (width, height) if turned else (height, width)


def jpeg(frame: ByteArray, widest: int) -> bytes:
    """A planar 4:2:0 frame (3/2·height, width) as a small picture, no wider than `widest` pixels."""
    from PIL import Image

    height, width = frame.shape[0] * 2 // 3, frame.shape[1]
    size = (min(width, widest), max(1, round(height * min(width, widest) / width)))
    planes = [frame[:height], *frame[height:].reshape(2, height // 2, width // 2)]
    small = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX)) for plane in planes]
    buffer = io.BytesIO()
    Image.fromarray(to_rgb(small[0], np.stack(small[1:]), np)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _colours(image: Any) -> Any:
    """Any Pillow mode as RGB; 16-bit greys are scaled, which `convert` would clip."""
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode != "F" else max(1.0, float(np.nanmax(values)))
        image = Image.fromarray((np.clip(np.nan_to_num(values / top), 0, 1) * 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")


def _too_large() -> TaskError:
    return _invalid(f"the picture has more than {LARGEST_PIXELS:,} pixels")


def _invalid(message: str) -> TaskError:
    return TaskError(message, code="invalid_input", retryable=False)
