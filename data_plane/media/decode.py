"""Reading pictures and recordings: the only place that decodes what a user uploaded.

The upload is not trusted: every reader bounds what it decodes before decoding it, and explains in one sentence,
with the code `invalid_input`, why a file is not what the task needs.
"""

import io
import os
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dihedral.bridge.tasks.registry import TaskError, invalid_input
from dihedral.data_plane.kernels.colour import to_rgb

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
ByteArray = np.ndarray[Any, np.dtype[np.uint8]]

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP")  # no others: every decoder is a way in
LARGEST_PIXELS = 256_000_000  # phones have 200 million; a JPEG is decoded at a fraction of them
LARGEST_BYTES = 512 * 2**20  # while a picture is decoded and made RGB: a slot's worth of memory
DECODING_BYTES = {"WEBP": 16, "AVIF": 16, "HEIF": 16}  # a pixel, as measured: their decoders hold several copies
STRIP_PIXELS = 1 << 20
SMALLEST_SIDE = 16  # pixels; below it there is no picture to speak of
MOST_PIXELS = 3840 * 2160  # of a frame of a video
SHORTEST_SECONDS = 0.25
SILENCE = 1e-4  # peak, about the last bit of 14
RATES = range(4_000, 192_001)  # Hz: below there is no speech, above only an attempt to fill the memory
BLOCK_SAMPLES = 1 << 20  # of all channels together, that are decoded at once
SOUND_CONTAINERS = (
    "mp3",
    "mov",
    "aac",
    "matroska",
    "ogg",
    "asf",
    "amr",
    "wav",
    "w64",
    "aiff",
    "caf",
    "flac",
    "au",
    "ac3",
    "eac3",
    "wv",
    "ape",
    "tta",
)
"""The formats that FFmpeg may detect. No playlists: they name other files and addresses, which it would open."""
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = (b"zTXt", b"iTXt", b"tEXt", b"iCCP")
_EXIF_ORIENTATION = 0x0112  # 5 to 8: lying on a side


def read_picture(path: Path, longest: int) -> FloatArray:
    """(height, width, 3) in 0..1, upright, scaled down (Lanczos) until no side exceeds `longest` pixels.

    Transparency is laid over black; of an animation the first frame is read.

    Raises: TaskError `invalid_input` where the file is no picture, is damaged, tiny or too large to decode.
    """
    return _floats(_read(path, longest, _colours))


def read_cut_out(path: Path, longest: int) -> FloatArray:
    """(height, width, 4) in 0..1, as `read_picture` reads it, with the opacity last, by which the colours are multiplied."""
    picture = _floats(_read(path, longest, _with_opacity))
    picture[:, :, :3] *= picture[:, :, 3:]
    return picture


def _read(path: Path, longest: int, converted: Callable[[Any], Any]) -> Any:
    """The picture, upright. It is scaled down before it is turned: then the turned copy is a small one."""
    from PIL import Image

    with _opened(path, longest) as opened:
        opened.load()
        turn = opened.getexif().get(_EXIF_ORIENTATION, 1)
        image = converted(opened)
    if max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
    }.get(turn)  # fmt: skip
    return image if turned is None else image.transpose(turned)


def _floats(image: Any) -> FloatArray:
    picture = np.array(image, dtype=np.float32)
    picture /= np.float32(255)  # in place: a second copy would be 12 bytes a pixel
    return picture


@contextmanager
def _opened(path: Path, longest: int = 0) -> Iterator[Any]:
    """Opens the picture and checks its size, as it will be decoded for `longest`; errors of decoding inside the block are reported in the same way."""
    from PIL import Image, UnidentifiedImageError

    formats = [*FORMATS, *(["HEIF"] if _heif_is_known() else [])]
    try:
        with _bounded_by_us(), _without_metadata(path) as file, Image.open(file, formats=formats) as opened:
            if min(opened.size) < SMALLEST_SIDE:
                width, height = opened.size
                raise invalid_input(
                    f"the picture has {width}×{height} pixels; each side needs at least {SMALLEST_SIDE}"
                )
            if longest:
                opened.draft("RGB", (longest, longest))  # JPEG: decode at a fraction of the size
                _check_cost(opened)
            yield opened
    except UnidentifiedImageError:
        if _is_heif(path):
            raise invalid_input(
                "HEIC pictures are read where the extra `heic` is installed; export it as JPEG"
            ) from None
        raise invalid_input(f"the file is not a picture that can be read ({', '.join(formats)})") from None
    except Image.DecompressionBombError:
        raise invalid_input(f"the picture has more than {LARGEST_PIXELS:,} pixels") from None
    except (OSError, SyntaxError, ValueError, RuntimeError, struct.error) as error:  # what its decoders raise
        raise invalid_input(f"the picture is damaged: {error}") from error


@contextmanager
def _bounded_by_us() -> Iterator[None]:
    """Pillow raises at twice its limit, before there is a size to look at; a phone's 200 megapixels are above that."""
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, LARGEST_PIXELS // 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check_cost(image: Any) -> None:
    """Refuses a picture that would need more memory than there is: a few kilobytes can claim any size."""
    pixels = image.size[0] * image.size[1]
    stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    converted = 0 if image.mode == "RGB" else 4
    cost = pixels * max(stored + converted, DECODING_BYTES.get(image.format, 0))
    if cost > LARGEST_BYTES:
        raise invalid_input(
            f"the picture has {image.size[0]}×{image.size[1]} pixels ({image.format}, {image.mode}), "
            f"which take {cost >> 20} MiB to decode; {LARGEST_BYTES >> 20} are allowed"
        )


def _without_metadata(path: Path) -> BinaryIO:
    """The file; of a PNG a copy without texts and colour profile, which we do not need and Pillow refuses above a megabyte."""
    file = path.open("rb")
    if file.read(8) != _PNG:
        file.seek(0)
        return file
    copy: BinaryIO = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
    copy.write(_PNG)
    with file:
        while len(head := file.read(8)) == 8:
            left = int.from_bytes(head[:4], "big") + 4  # the check sum too
            if head[4:] in _PNG_METADATA:
                file.seek(left, os.SEEK_CUR)
                continue
            copy.write(head)
            while left and (block := file.read(min(left, 1 << 20))):
                copy.write(block)
                left -= len(block)
    copy.seek(0)
    return copy


@cache
def _heif_is_known() -> bool:
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener(thumbnails=False)
    return True


def _is_heif(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def read_recording(path: Path, longest_seconds: float) -> tuple[FloatArray, int]:
    """`(samples (n,) in −1..1, rate in Hz)`: the channels' mean, of at most the first `longest_seconds`.

    Raises: TaskError `invalid_input` where the file is no sound, too short, or silent.
    """
    pieces = list(recording_pieces(path, longest_seconds, longest_seconds))
    samples = pieces[0][0] if len(pieces) == 1 else np.concatenate([each for each, _ in pieces])  # a copy is 460 MB
    return samples, pieces[0][1]


def recording_pieces(path: Path, piece_seconds: float, longest_seconds: float) -> Iterator[tuple[FloatArray, int]]:
    """`(samples, rate)` as `read_recording` gives them, of `piece_seconds` each and a shorter rest: memory stays flat.

    Raises: TaskError `invalid_input` as there; a file that is too short or silent is found only behind its last piece.
    """
    rate, blocks = _sound(path)
    if rate not in RATES:
        raise invalid_input(f"the recording has {rate} samples a second, not {RATES.start} to {RATES.stop - 1}")
    left, size = int(longest_seconds * rate), max(1, int(piece_seconds * rate))
    read, peak = 0, 0.0
    gathered: list[FloatArray] = []
    for block in _cut(blocks, size, left):
        if not np.isfinite(block).all():
            raise invalid_input("the recording holds values that are no numbers")
        read, peak = read + block.size, max(peak, float(np.abs(block).max()))
        gathered.append(block)
        if sum(each.size for each in gathered) == size or read == left:
            yield np.concatenate(gathered), rate
            gathered = []
    if gathered:
        yield np.concatenate(gathered), rate
    if read < SHORTEST_SECONDS * rate:
        raise invalid_input(f"the recording lasts {read / rate:.2f} s; at least {SHORTEST_SECONDS} s are needed")
    if peak < SILENCE:
        raise invalid_input("the recording is silent")


def _cut(blocks: Iterator[FloatArray], size: int, left: int) -> Iterator[FloatArray]:
    """The blocks, cut where a piece of `size` ends and after `left` samples."""
    room = size
    for block in blocks:
        while block.size and left:
            part, block = np.split(block, [min(room, left)])
            room, left = room - part.size or size, left - part.size
            yield part
        if not left:
            return


def _sound(path: Path) -> tuple[int, Iterator[FloatArray]]:
    """The rate, and the mean of the channels block by block.

    libsndfile reads what it can. MP3 is left to FFmpeg: without a frame that contains its length libsndfile guesses it, and is wrong by minutes or
    leaves most of it out. So are the formats that libsndfile does not support (M4A, AAC, WebM, the sound of a video).
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as opened:
            if not (opened.format == "MP3" or opened.subtype.startswith("MPEG")):
                return int(opened.samplerate), _by_libsndfile(path)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError):
        pass
    return _by_ffmpeg(path)


def _by_libsndfile(path: Path) -> Iterator[FloatArray]:
    """Yields as many frames as there are: `blocks()` would return uninitialised memory where a header claims more."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as opened:
            count = max(1, BLOCK_SAMPLES // opened.channels)  # a file may have a thousand channels
            while len(block := opened.read(count, dtype="float32", always_2d=True)):
                yield block.mean(axis=1)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        raise _no_recording(error) from error


def _by_ffmpeg(path: Path) -> tuple[int, Iterator[FloatArray]]:
    import av

    try:
        opened = av.open(path, options=ffmpeg_options(",".join(SOUND_CONTAINERS)))
    except (av.FFmpegError, ValueError) as error:
        raise _no_recording(error) from error
    # A stream whose codec FFmpeg does not know has no context, and so no rate.
    if not opened.streams.audio or opened.streams.audio[0].codec_context is None or not opened.streams.audio[0].rate:
        opened.close()
        raise invalid_input("there is no sound in the file")
    return int(opened.streams.audio[0].rate), _decoded(in_one_thread(opened))


def ffmpeg_options(formats: str) -> dict[str, str]:
    """Returns what FFmpeg may do with a user's file: detect these formats, open no other file, and decode no larger pictures, as it does before it
    tells their size.
    """
    return {"format_whitelist": formats, "protocol_whitelist": "file", "max_pixels": str(MOST_PIXELS)}


def in_one_thread(opened: Any) -> Any:
    """Keeps FFmpeg from decoding a user's file in threads of its own. They log through Python, so that closing a damaged file may wait for a thread
    that waits for the interpreter's lock, for ever.
    """
    for stream in opened.streams:
        if stream.codec_context is not None:
            stream.codec_context.thread_count = 1
            if stream.type == "video":  # one may grow behind its first frame
                stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    return opened


def _decoded(opened: Any) -> Iterator[FloatArray]:
    """Packets that are damaged are left out, as a player does; where most of them are, there is no recording."""
    import av

    stream = opened.streams.audio[0]
    good, bad = 0, 0
    with opened:
        resampler = av.AudioResampler(format="fltp", rate=stream.rate)
        for packet in opened.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                bad += 1
                continue
            good += 1
            for frame in frames:
                for even in resampler.resample(frame):
                    yield even.to_ndarray().mean(axis=0, dtype=np.float32)
    if bad > good:
        raise invalid_input(f"the recording is damaged: {bad} of its {good + bad} parts cannot be decoded")


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
    """Converts any Pillow mode to RGB, over black, strip by strip: a copy of the whole in each mode on the way would be gigabytes."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    return _in_strips(image, "RGB", _over_black)


def _with_opacity(image: Any) -> Any:
    return _in_strips(image, "RGBA", lambda strip: strip.convert("RGBA"))


def _in_strips(image: Any, mode: str, convert: Callable[[Any], Any]) -> Any:
    """Scales 16-bit greys and floats, which `convert` would clip."""
    from PIL import Image

    width, height = image.size
    rows = max(1, STRIP_PIXELS // width)
    boxes = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    top_value = 65535.0
    if image.mode == "F":
        top_value = max(1.0, *(float(np.nan_to_num(np.asarray(image.crop(box)), posinf=0).max()) for box in boxes))
    target = Image.new(mode, image.size)
    for box in boxes:
        strip = image.crop(box)
        strip.info = image.info
        if image.mode.startswith(("I", "F")):
            values = np.nan_to_num(np.asarray(strip, dtype=np.float32) / np.float32(top_value), posinf=1)
            strip = Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8))
        target.paste(convert(strip), box[:2])
    return target


def _over_black(strip: Any) -> Any:
    from PIL import Image

    if strip.mode in ("RGBA", "LA", "PA") or "transparency" in strip.info:
        strip = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, (0, 0, 0, 255)), strip)
    return strip.convert("RGB")


def _no_recording(error: Exception) -> TaskError:
    return invalid_input(f"the file is not a recording that can be read (WAV, FLAC, MP3, M4A, …): {error}")
