"""Writing videos: H.264 and AAC in an MP4, encoded in a thread while the next frames are rendered.

Frames come as planar 4:2:0 (see `kernels.frame`), which is what the encoders take: nothing converts them. Between the two threads lies a
short queue, so memory stays flat however long the video is; FFmpeg lets go of the interpreter while it encodes.
"""

import errno
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import Queue
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.media.decode import ByteArray, FloatArray

Encoder = Literal["libx264", "h264_nvenc"]
EncoderChoice = Annotated[
    Literal["auto"] | Encoder, Meta(description="auto: NVENC where there is one that takes the frames")
]

AHEAD = 4  # frames rendered before they are encoded: a keyframe takes as long as several others
KEYFRAME_SECONDS = 2  # a browser seeks to keyframes; closer ones cost size
AUDIO_BITS_PER_SECOND = 128_000
# No B-frames: time stamps then start at 0 and grow in decoding order, without an edit list.
_OPTIONS = {
    "libx264": {"preset": "veryfast", "crf": "20", "bf": "0"},
    "h264_nvenc": {"preset": "p4", "rc": "vbr", "cq": "23", "b": "0", "bf": "0"},
}
_BT709, _LIMITED = 1, 1  # FFmpeg's numbers: primaries, transfer and matrix; range


def chosen_encoder(wanted: Literal["auto"] | Encoder, on_gpu: bool, size: tuple[int, int], fps: int) -> Encoder:
    """auto: NVENC where frames come from a GPU and it takes them, else x264. size: (height, width) of a frame.

    Raises: TaskError `encoder_unavailable`: the requested encoder does not open here for such frames.
    """
    if wanted == "auto":
        return "h264_nvenc" if on_gpu and opens("h264_nvenc", size, fps) else "libx264"
    if not opens(wanted, size, fps):
        raise TaskError(
            f"the encoder {wanted} does not open on this worker for {size[1]}×{size[0]} pixels at {fps} frames a second",
            code="encoder_unavailable",
            retryable=False,
        )
    return wanted


def opens(encoder: Encoder, size: tuple[int, int], fps: int) -> bool:
    """Returns True when FFmpeg has the encoder and it begins. Tried for every video: NVENC is built in everywhere, but needs a driver and a session, of which
    some cards have a few only, and refuses small frames."""
    import av

    try:
        context: Any = av.CodecContext.create(encoder, "w")
        context.height, context.width, context.pix_fmt, context.framerate = *size, "yuv420p", fps
        context.options = _OPTIONS[encoder]
        context.open()
    except (av.FFmpegError, ValueError):  # ValueError: no encoder of that name
        return False
    return True


def write_video(
    path: Path, frames: Iterable[ByteArray], fps: int, sound: FloatArray | None, rate: int, encoder: Encoder
) -> None:
    """Writes an MP4 whose index comes first.

    frames: (3/2·height, width) uint8 each, with even sides; sound: (n,) mono at `rate`, None: no sound. The frames are read in this
    thread; whatever asking for them raises ends the encoding too.

    Raises: TaskError `disk_full`: the file does not fit (retryable).
    """
    waiting: Queue[ByteArray | None] = Queue(AHEAD)
    failed: list[Exception] = []
    given_up = threading.Event()

    def encode() -> None:
        taken = _taken(waiting)
        try:
            _write(path, taken, fps, sound, rate, encoder, given_up)
        except Exception as error:
            failed.append(error)
            for _ in taken:  # so that the producer does not wait for room in the queue
                pass

    thread = threading.Thread(target=encode, name="encoder", daemon=True)
    thread.start()
    try:
        for frame in frames:
            if failed:
                break
            waiting.put(frame)
    except BaseException:
        given_up.set()
        raise
    finally:
        waiting.put(None)
        thread.join()
    for error in failed:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise TaskError(
                f"the video does not fit on the worker's disk: {error.strerror}", code="disk_full", retryable=True
            ) from error
        raise error


def _taken(waiting: "Queue[ByteArray | None]") -> Iterator[ByteArray]:
    while (frame := waiting.get()) is not None:
        yield frame


def _write(
    path: Path,
    frames: Iterator[ByteArray],
    fps: int,
    sound: FloatArray | None,
    rate: int,
    encoder: Encoder,
    given_up: threading.Event,
) -> None:
    """Encodes sound up to each frame's time, so that both tracks lie interleaved."""
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video: Any = None
        audio: Any = None
        if sound is not None:
            audio = container.add_stream("aac", rate=rate, layout="mono", bit_rate=AUDIO_BITS_PER_SECOND)
        heard = 0
        for number, planes in enumerate(frames):
            if given_up.is_set():
                continue
            if video is None:
                video = container.add_stream(
                    encoder, rate=fps, options=_OPTIONS[encoder] | {"g": str(KEYFRAME_SECONDS * fps)}
                )
                video.height, video.width, video.pix_fmt = planes.shape[0] * 2 // 3, planes.shape[1], "yuv420p"
                context = video.codec_context
                context.color_primaries = context.color_trc = context.colorspace = _BT709
                context.color_range = _LIMITED
            frame: Any = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.colorspace, frame.color_range = number, _BT709, _LIMITED
            container.mux(video.encode(frame))
            if sound is not None:
                until = min(sound.size, round((number + 1) * rate / fps))
                for start in range(heard, until, 1024):
                    container.mux(audio.encode(_sound(sound[start : min(start + 1024, until)], start, rate)))
                heard = until
        for stream in (video, audio):
            if stream is not None and not given_up.is_set():
                container.mux(stream.encode(None))


def _sound(samples: FloatArray, pts: int, rate: int) -> Any:
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, pts
    return frame
