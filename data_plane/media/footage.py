"""A video as a scene: its frames one after the other, fitted into the frame that is rendered.

A video about as wide as the frame fills it. A narrower one, such as a face in a square, stands above the place of the captions, before a picture
or before its first frame, out of focus. Planes are kept as the frame has them, chroma in its places, so nothing is interpolated twice.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dihedral.bridge.tasks.registry import invalid_input
from dihedral.data_plane.device import ArrayModule
from dihedral.data_plane.kernels.colour import CHROMA_OFFSET, LUMA_OFFSET, sited, to_planes
from dihedral.data_plane.kernels.pyramid import halved
from dihedral.data_plane.kernels.sampling import ONE, Axis, Layer
from dihedral.data_plane.media.captions import rounded
from dihedral.data_plane.media.decode import (
    MOST_PIXELS,
    ByteArray,
    FloatArray,
    ffmpeg_options,
    in_one_thread,
    read_picture,
)

FILLS = 0.9  # of the frame's proportions: a video at least so wide loses a little above and below
MARGIN = 0.03  # of the frame's height, around a video that does not fill it
BEFORE_A_PICTURE = 0.6  # of the frame's height at most, so that the picture is seen
ROUNDING = 0.04  # of the video's shorter side
BLURRED = 18  # rows of the first frame that its blurred copy is made of
DIMMED = 0.45  # what the blurred copy keeps of its light
LONGEST_SECONDS = 3_600.0


class Facts(NamedTuple):
    """seconds: how long the video lasts; size: (height, width)."""

    seconds: float
    size: tuple[int, int]


def facts(path: Path) -> Facts:
    """Raises: TaskError `invalid_input` where the file is no video, or one too large."""
    with _opened(path) as container:
        stream = _stream(container)
        seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
        size = stream.codec_context.height, stream.codec_context.width
    if not min(size):  # FFmpeg decodes no larger frames, and so does not tell their size
        raise invalid_input("the video has frames of more than 3840×2160 pixels, or none that can be read")
    if size[0] * size[1] > MOST_PIXELS or min(size) < 16:
        raise invalid_input(f"the video has {size[1]}×{size[0]} pixels; 16×16 to 3840×2160 are possible")
    if not 0 < seconds <= LONGEST_SECONDS:
        raise invalid_input(f"the video lasts {seconds:g} s; up to {LONGEST_SECONDS:g} s are possible")
    return Facts(seconds, size)


class Footage:
    """The part of a video that a frame of `size` shows; requested in order of time."""

    def __init__(self, path: Path, size: tuple[int, int], below: int, backdrop: Path | None, xp: ArrayModule) -> None:
        """below: rows at the frame's lower rim that belong to captions; backdrop: a picture to stand before."""
        self._xp = xp
        found = facts(path)
        self._place = _place(found.size, size, below, backdrop is not None)
        self._frames = _frames(path, self._place.scaled)
        self._next = next(self._frames, None)
        if self._next is None:
            raise invalid_input("the video has no frames that can be read")
        height, width = size
        self._luma = np.zeros((1, height, width), np.float32)
        self._chroma = np.zeros((2, height // 2, width // 2), np.float32)
        if not self._place.fills:
            picture = read_picture(backdrop, max(size) * 2) if backdrop else _blurred(path)
            self._lay_behind(picture, size)
        self._mask = _masks(self._place)
        self._shown = -1.0

    def layers(self, seconds: float, weight: float) -> tuple[list[Layer], list[Layer]]:
        """Returns the layers of luma and chroma, at `seconds` of the video; behind its end the last frame stays."""
        planes = None
        while self._next is not None and (self._shown < 0 or self._next[0] <= seconds):
            self._shown, planes = self._next
            self._next = next(self._frames, None)
        if planes is not None:
            self._lay(planes)
        found = []
        for planes_of in (self._luma, self._chroma):
            at = Axis(0, ONE)
            found.append([Layer(self._xp.asarray(planes_of.copy()), at, at, weight)])
        return found[0], found[1]

    def _lay(self, planes: tuple[ByteArray, ByteArray]) -> None:
        place = self._place
        for target, source, offset, wide in zip(
            (self._luma, self._chroma), planes, (LUMA_OFFSET, CHROMA_OFFSET), (1, 2), strict=True
        ):
            top, left, height, width = (each // wide for each in place.target)
            crop_top, crop_left = (each // wide for each in place.crop)
            seen = source[:, crop_top : crop_top + height, crop_left : crop_left + width].astype(np.float32)
            seen -= np.float32(offset)
            region = target[:, top : top + height, left : left + width]
            if place.fills:
                region[...] = seen
            else:
                region += (seen - region) * self._mask[wide - 1]

    def _lay_behind(self, picture: FloatArray, size: tuple[int, int]) -> None:
        from PIL import Image, ImageOps

        image = Image.fromarray((picture * 255 + 0.5).astype(np.uint8))
        fitted = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
        planes = to_planes(np.asarray(fitted, dtype=np.float32) / np.float32(255), np)
        self._luma[...] = planes[:1]
        self._chroma[...] = halved(planes[1:], np)


class _Place(NamedTuple):
    """scaled: (height, width) that the video is scaled to; crop: (top, left) of what is seen of it; target: (top, left, height, width) in
    the frame. All even.
    """

    fills: bool
    scaled: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int, int, int]


def _place(video: tuple[int, int], size: tuple[int, int], below: int, has_backdrop: bool) -> _Place:
    height, width = size
    if video[1] / video[0] >= FILLS * width / height and not has_backdrop:
        scale = max(height / video[0], width / video[1])
        scaled = max(height, _even(video[0] * scale)), max(width, _even(video[1] * scale))
        crop = _even((scaled[0] - height) / 2), _even((scaled[1] - width) / 2)
        return _Place(True, scaled, crop, (0, 0, height, width))
    margin = MARGIN * height
    tallest = min(max(height / 4, height - below - 2 * margin), height * (BEFORE_A_PICTURE if has_backdrop else 1))
    scale = min(tallest / video[0], (width - 2 * margin) / video[1])
    scaled = max(2, _even(video[0] * scale)), max(2, _even(video[1] * scale))
    top = _even(max(margin, (height - below - scaled[0]) / 2))
    return _Place(False, scaled, (0, 0), (top, _even((width - scaled[1]) / 2), *scaled))


def _masks(place: _Place) -> tuple[FloatArray, FloatArray]:
    """The video's share, for luma and chroma: 1 but for its round corners."""
    cover = rounded(*place.target[2:], ROUNDING * min(place.target[2:]))
    luma, chroma = (mask.astype(np.float32) / np.float32(255) for mask in (cover, sited(cover, np)))
    return luma, chroma


def _frames(path: Path, size: tuple[int, int]) -> Iterator[tuple[float, tuple[ByteArray, ByteArray]]]:
    """(seconds, luma (1, H, W) and chroma (2, H/2, W/2)) as the video has them, in BT.709 with limited range."""
    import av

    try:
        with _opened(path) as container:
            first: float | None = None
            for frame in container.decode(_stream(container)):
                if frame.pts is None:
                    continue
                at = float(frame.pts * frame.time_base)
                first = at if first is None else first
                yield at - first, _planes(frame, size)
    except (av.FFmpegError, ValueError) as error:
        raise invalid_input(f"the video is damaged: {error}") from error


def _planes(frame: Any, size: tuple[int, int]) -> tuple[ByteArray, ByteArray]:
    height, width = size
    shown = frame.reformat(width, height, format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
    rows = shown.to_ndarray()
    return rows[None, :height], rows[height:].reshape(2, height // 2, width // 2)


def _blurred(path: Path) -> FloatArray:
    with _opened(path) as container:
        frame = next(container.decode(_stream(container)))
        small = frame.reformat(max(16, BLURRED * frame.width // frame.height), BLURRED, format="rgb24").to_ndarray()
    blurred: FloatArray = small.astype(np.float32) / np.float32(255) * np.float32(DIMMED)
    return blurred


VIDEO_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif,h264,hevc,m4v,wav,mp3,aac,flac"
"""The formats that FFmpeg may detect: no playlists, which name other files and addresses that it would open."""


def _opened(path: Path) -> Any:
    import av

    try:
        return av.open(str(path), options=ffmpeg_options(VIDEO_CONTAINERS))
    except (av.FFmpegError, ValueError) as error:
        raise invalid_input("the file is not a video that can be read") from error


def _stream(container: Any) -> Any:
    if not container.streams.video:
        raise invalid_input("the file holds no video, only sound")
    stream = in_one_thread(container).streams.video[0]
    if stream.codec_context is None:
        raise invalid_input("the video is in a format that is not known here")
    return stream


def _even(pixels: float) -> int:
    return int(pixels) // 2 * 2
