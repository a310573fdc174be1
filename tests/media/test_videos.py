"""What a written video holds: read again, frame by frame, sample by sample; and what happens when writing it goes wrong."""

import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest

from dihedral.bridge.tasks.registry import TaskCancelled, TaskError
from dihedral.data_plane.kernels import colour
from dihedral.data_plane.kernels.frame import render
from dihedral.data_plane.kernels.pyramid import pyramid
from dihedral.data_plane.media import captions, scenes
from dihedral.data_plane.media.decode import jpeg, read_picture
from dihedral.data_plane.media.speech_timing import Span
from dihedral.data_plane.media.video_file import AHEAD, chosen_encoder, opens, write_video
from tests.support.polling import at_this_load

SIZE = (120, 160)
FPS, COUNT, RATE = 24, 60, 48_000
LINES = ["The sun goes down over the lake.", "Nothing moves but the water."]


class Made(NamedTuple):
    path: Path
    frames: Any  # (n, 3/2·height, width) uint8, as they went in
    shown: Any  # the same, decoded
    pts: list[int]


def decoded(path: Path) -> tuple[Any, list[int]]:
    with av.open(str(path)) as container:
        shown = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="yuv420p") for frame in shown]), [frame.pts or 0 for frame in shown]


def tone() -> Any:
    return (0.3 * np.sin(np.arange(COUNT * RATE // FPS) * 2 * np.pi * 440 / RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def made(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    spans = [Span(0, 1.2), Span(1.2, COUNT / FPS)]
    shots = scenes.shots_of(spans, [0.0, 0.4], [scenes.default_views(at) for at in range(2)])
    face = captions.face_of(LINES, SIZE)
    pages = captions.schedule([(captions.broken(LINES, face, SIZE), [Span(0.1, 2.4)])], face)
    pictures = [read_picture(inputs[name], 240) for name in ("picture", "second_picture")]
    look = scenes.Look(0.15, 0, np.full((COUNT, scenes.BAR_COUNT), 0.5, np.float32), pages)
    stage = scenes.stage_of(look, SIZE, np)
    planned = scenes.frames(
        shots, lambda at: pyramid(colour.to_planes(pictures[at], np), 1.0, 1.3, np), look, COUNT, FPS, stage, np
    )
    frames = np.stack([render(each, stage, np) for each in planned])
    write_video(path, iter(frames), FPS, tone(), RATE, "libx264")
    return Made(path, frames, *decoded(path))


def seconds(stream: Any) -> float:
    return float(stream.duration * stream.time_base)


def test_the_video_has_exactly_its_frames_its_length_and_its_colours_named(made: Made) -> None:
    with av.open(str(made.path)) as container:
        shown, heard = container.streams.video[0], container.streams.audio[0]
        context = shown.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (shown.width, shown.height, float(shown.average_rate or 0)) == (160, 120, FPS)
        bt709, limited = 1, 1
        assert (context.colorspace, context.color_primaries, context.color_trc) == (bt709, bt709, bt709)
        assert context.color_range == limited
        assert heard.codec_context.name == "aac"
        assert shown.frames == COUNT
        assert shown.start_time == 0
        assert seconds(shown) == pytest.approx(COUNT / FPS, abs=1e-3)
        assert seconds(heard) == pytest.approx(COUNT / FPS, abs=0.03)
        assert (container.duration or 0) / 1e6 == pytest.approx(COUNT / FPS, abs=0.03)
    assert len(made.shown) == COUNT
    assert all(later > earlier for earlier, later in pairwise(made.pts))


def test_decoded_frames_are_the_rendered_ones(made: Made) -> None:
    """Peak signal-to-noise ratio of every frame and plane, and structural similarity of the luma (Wang et al. 2004, 8×8 blocks)."""
    height = SIZE[0]
    for rows, least in ((slice(0, height), 36.0), (slice(height, None), 38.0)):
        wrong = (made.shown[:, rows].astype(float) - made.frames[:, rows]) ** 2
        assert (10 * np.log10(255**2 / wrong.mean(axis=(1, 2)))).min() > least
    for frame in range(0, COUNT, 7):
        assert similarity(made.shown[frame, :height], made.frames[frame, :height]) > 0.93


def similarity(one: Any, other: Any) -> float:
    x, y = (
        plane.astype(float).reshape(plane.shape[0] // 8, 8, -1, 8).swapaxes(1, 2).reshape(-1, 64)
        for plane in (one, other)
    )
    (mx, my), (vx, vy) = ((each.mean(axis=1) for each in (x, y)), (each.var(axis=1) for each in (x, y)))
    both = ((x - mx[:, None]) * (y - my[:, None])).mean(axis=1)
    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(((2 * mx * my + first) * (2 * both + second) / ((mx**2 + my**2 + first) * (vx + vy + second))).mean())


def test_the_sound_is_what_went_in(made: Made) -> None:
    with av.open(str(made.path)) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])[: tone().size]
    middle = slice(RATE // 2, 2 * RATE)
    assert np.corrcoef(heard[middle], tone()[middle])[0, 1] > 0.99


def test_the_index_comes_before_the_media_so_that_a_browser_starts_at_once(made: Made) -> None:
    content = made.path.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_seeking_lands_on_the_frame_that_was_asked_for(made: Made) -> None:
    with av.open(str(made.path)) as container:
        stream = container.streams.video[0]
        for wanted in (50, 5, 30):
            container.seek(made.pts[wanted], stream=stream)
            found = next(frame for frame in container.decode(stream) if frame.pts == made.pts[wanted])
            np.testing.assert_array_equal(found.to_ndarray(format="yuv420p"), made.shown[wanted])


@pytest.mark.parametrize("size", [(2, 34), (34, 2), (50, 66), (32, 3840)])
def test_any_even_size_is_written(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(60, 200, (3, size[0] * 3 // 2, size[1]), dtype=np.uint8)
    frames[:] = frames.mean(axis=(1, 2), keepdims=True)
    if min(size) < 16:
        frames = frames[:1]
    write_video(tmp_path / "v.mp4", iter(frames), 30, None, RATE, "libx264")
    shown, _ = decoded(tmp_path / "v.mp4")
    assert shown.shape == frames.shape
    assert np.abs(shown.astype(int) - frames).max() <= 3


def test_a_video_without_sound_has_one_stream(tmp_path: Path) -> None:
    frames = np.full((1, 48, 32), 128, dtype=np.uint8)
    write_video(tmp_path / "v.mp4", iter(frames), 1, None, RATE, "libx264")
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


# Going wrong ---------------------------------------------------------------------------------------------------------


def black(count: int) -> Iterator[Any]:
    for _ in range(count):
        yield np.full((180, 160), 128, dtype=np.uint8)


def encoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "encoder"]


def test_rendering_runs_ahead_of_the_encoder_by_a_few_frames_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder is held up at the first frame: rendering stops when the queue is full."""
    begun, rendered = threading.Event(), 0
    go_on = threading.Event()

    def counted() -> Iterator[Any]:
        nonlocal rendered
        for frame in black(60):
            rendered += 1
            if rendered == AHEAD + 2:
                begun.set()
            yield frame

    original = av.VideoFrame.from_ndarray
    monkeypatch.setattr("av.VideoFrame", SlowFrames(original, go_on))
    writing = threading.Thread(target=write_video, args=(tmp_path / "v.mp4", counted(), FPS, None, RATE, "libx264"))
    writing.start()
    try:
        assert begun.wait(at_this_load(10))
        writing.join(0.2)
        assert rendered <= AHEAD + 3
    finally:
        go_on.set()
        writing.join()
    assert rendered == 60


class SlowFrames:
    """Stands where the encoder takes its frames."""

    def __init__(self, original: Any, go_on: threading.Event) -> None:
        self.original, self.go_on = original, go_on

    def from_ndarray(self, *arguments: Any, **more: Any) -> Any:
        self.go_on.wait()
        return self.original(*arguments, **more)


@pytest.mark.parametrize("after", [0, 1, 30])
@pytest.mark.parametrize("error", [TaskCancelled, TaskError("no", code="invalid_input"), KeyError("x")])
def test_what_ends_the_rendering_ends_the_encoder(tmp_path: Path, after: int, error: Any) -> None:
    def broken() -> Iterator[Any]:
        yield from black(after)
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        write_video(tmp_path / "v.mp4", broken(), FPS, None, RATE, "libx264")
    assert encoders() == []


def test_what_ends_the_encoder_ends_the_rendering(tmp_path: Path) -> None:
    rendered = 0

    def counted() -> Iterator[Any]:
        nonlocal rendered
        for number, frame in enumerate(black(10_000)):
            rendered += 1
            yield frame if number < 3 else frame.astype(np.int32)  # which no frame holds

    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "v.mp4", counted(), FPS, None, RATE, "libx264")
    assert rendered < 100
    assert encoders() == []
    with pytest.raises(OSError, match="No such file"):
        write_video(tmp_path / "nowhere" / "v.mp4", black(3), FPS, None, RATE, "libx264")
    assert encoders() == []


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.media.video_file import write_video
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
noise = np.random.default_rng(0)
frames = (noise.integers(0, 256, (360, 320), dtype=np.uint8) for _ in range(200))
try:
    write_video(Path(sys.argv[1]), frames, 24, np.zeros(400_000, np.float32), 48_000, "libx264")
except TaskError as error:
    print(error.code, error.retryable)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit of file sizes here")
def test_a_disk_that_is_full_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "v.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == ["disk_full", "True"], done.stderr[-2000:]


# What else there is ----------------------------------------------------------------------------------------------------


def test_an_encoder_opens_where_a_video_of_that_size_can_be_written() -> None:
    for size in ((32, 32), (2160, 3840)):
        assert opens("libx264", size, 60)
    assert not opens("libx264", (33, 32), 24)  # 4:2:0 needs even sides


def test_auto_takes_x264_where_nvenc_refuses_the_frames() -> None:
    too_small = (32, 32)  # for any NVENC
    assert chosen_encoder("auto", True, too_small, 24) == "libx264"
    assert chosen_encoder("auto", False, (480, 640), 24) == "libx264"
    with pytest.raises(TaskError, match=r"h264_nvenc does not open .* for 32×32 pixels") as raised:
        chosen_encoder("h264_nvenc", True, too_small, 24)
    assert (raised.value.code, raised.value.retryable) == ("encoder_unavailable", False)


@pytest.mark.gpu
def test_auto_takes_nvenc_where_there_is_one() -> None:
    if not opens("h264_nvenc", (480, 640), 24):
        pytest.skip("this GPU has no NVENC, or no session is left")
    assert chosen_encoder("auto", True, (480, 640), 24) == "h264_nvenc"


def test_a_preview_is_a_small_picture_in_the_right_colours(tmp_path: Path) -> None:
    picture = np.zeros((480, 640, 3), dtype=np.float32)
    picture[:240] = (0.9, 0.2, 0.1)
    made = pyramid(colour.to_planes(picture, np), 1.0, 1.0, np)
    shots = scenes.shots_of([Span(0, 1)], [0.0], [(scenes.View(0.5, 0.5, 1),) * 2])
    look = scenes.Look(0, 0, None, [])
    stage = scenes.stage_of(look, (480, 640), np)
    (planned,) = scenes.frames(shots, lambda at: made, look, 1, 1, stage, np)
    frame = render(planned, stage, np)
    (tmp_path / "p.jpg").write_bytes(jpeg(frame, 320))
    seen = read_picture(tmp_path / "p.jpg", 320)
    assert seen.shape == (240, 320, 3)
    np.testing.assert_allclose(seen[60, 160], (0.9, 0.2, 0.1), atol=0.02)
    np.testing.assert_allclose(seen[200, 160], 0, atol=0.02)
    assert len(jpeg(frame[:48, :40], 320)) < 2000  # a frame that is smaller is left as it is
