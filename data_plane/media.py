"""Reading pictures and recordings, and writing videos: the only places that decode or encode.

What a user uploads is not trusted: every reader bounds what it decodes before decoding it, and says in one sentence,
with the code `invalid_input`, why a file is not what the task needs.
"""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bridge.tasks import TaskError

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
ByteArray = np.ndarray[Any, np.dtype[np.uint8]]

LARGEST_PIXELS = 100_000_000  # decoded at 3 bytes each: 300 MB, a slot's worth of memory
SMALLEST_SIDE = 16  # pixels; below it there is no picture to speak of
SHORTEST_SECONDS = 0.25
SILENCE = 1e-4  # peak, about the last bit of 14
RATES = range(4_000, 192_001)  # Hz: below there is no speech, above only an attempt to fill the memory
_KEYFRAME_SECONDS = 2  # a browser seeks to keyframes; closer ones cost size
_AUDIO_BITS_PER_SECOND = 128_000


def read_picture(path: Path, longest: int) -> FloatArray:
    """(height, width, 3) in 0..1, upright, scaled down (Lanczos) until no side exceeds `longest` pixels.

    Transparency is laid over black; of an animation the first frame is read.

    Raises: TaskError `invalid_input` where the file is no picture, is damaged, tiny or over LARGEST_PIXELS.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # bounded below, with our own limit
            with Image.open(path) as opened:
                width, height = opened.size
                if width * height > LARGEST_PIXELS:
                    raise _too_large()
                if min(width, height) < SMALLEST_SIDE:
                    raise _invalid(f"the picture has {width}×{height} pixels; each side needs at least {SMALLEST_SIDE}")
                opened.draft("RGB", (longest, longest))  # JPEG: decode at a fraction of the size
                image = _colours(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise _invalid("the file is not a picture that can be read (PNG, JPEG, WebP, …)") from None
    except Image.DecompressionBombError:  # raised at twice Pillow's own limit, before there is a size to look at
        raise _too_large() from None
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise
        raise _invalid(f"the picture is damaged: {error}") from error
    if max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.float32) / np.float32(255)


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


def write_video(path: Path, frames: Iterable[ByteArray], fps: int, samples: FloatArray, rate: int) -> int:
    """Writes H.264 and AAC into an MP4 whose index comes first, and returns how many frames it has.

    frames: (height, width, 3) uint8 each, even sides; samples: (n,) mono. Sound is encoded up to each frame's time, so
    that both tracks lie interleaved and memory stays flat however long the video is.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video: Any = None
        audio: Any = container.add_stream("aac", rate=rate, layout="mono", bit_rate=_AUDIO_BITS_PER_SECOND)
        count = heard = 0
        for picture in frames:
            if video is None:
                # No B-frames: time stamps then start at 0 and grow in decoding order, without an edit list.
                options = {"preset": "veryfast", "crf": "20", "bf": "0", "g": str(_KEYFRAME_SECONDS * fps)}
                video = container.add_stream("libx264", rate=fps, options=options)
                video.height, video.width, video.pix_fmt = picture.shape[0], picture.shape[1], "yuv420p"
                video.codec_context.colorspace, video.codec_context.color_range = 1, 1  # BT.709, limited
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                dst_colorspace=Colorspace.ITU709,
            )
            frame.pts = count
            container.mux(video.encode(frame))
            count += 1
            until = min(samples.size, round(count * rate / fps))
            for start in range(heard, until, 1024):
                container.mux(audio.encode(_sound(samples[start : min(start + 1024, until)], start, rate)))
            heard = until
        for stream in (video, audio):
            if stream is not None:
                container.mux(stream.encode(None))
    return count


def _sound(samples: FloatArray, pts: int, rate: int) -> Any:
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, pts
    return frame


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
