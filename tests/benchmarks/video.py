"""Frames of a 1080p video: ours against the same work in plain PyTorch, by turns in one process; and what encoding takes beside it.

A frame is one picture under a moving camera, grain, spectrum and a caption with a lit word, as planar 4:2:0. PyTorch does the same steps on
the same planes, with what does not change from frame to frame made once, as here; its grid_sample is bicubic with a = −¾ where ours has −½,
which is as much work. Needs torch beside the test packages for the peer; without it ours is measured alone.

Where there is a GPU both run on it, and a third row is our kernel alone, between two events of the device.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dihedral.data_plane.device import array_module, to_host
from dihedral.data_plane.kernels import colour, cuda, frame, grain
from dihedral.data_plane.kernels.frame import Frame, Stage
from dihedral.data_plane.kernels.pyramid import pyramid
from dihedral.data_plane.media import captions, scenes
from dihedral.data_plane.media.speech_timing import Span
from dihedral.data_plane.media.video_file import write_video
from tests.benchmarks.bench import Row, Table, summary, turns

THREADS = int(os.environ.get("OPENBLAS_NUM_THREADS") or os.cpu_count() or 1)  # as NumPy's OpenBLAS counts them
JOBS = 24  # frames of a turn
SIZE, FPS = (1080, 1920), 24
LINES = ["The sun goes down over the lake, and nobody is in a hurry."]
ALIKE = 1.0  # code values: mean difference of the two contenders' frames


def run(count: int, rounds: int) -> tuple[list[Table], Any]:
    xp, name, _ = array_module()
    planned = plan(count, xp)
    stage = planned.stage

    def ours() -> Any:
        return [to_host(frame.render(each, stage, xp)[:1, :1]) for each in planned.frames][-1]

    contenders: dict[str, Callable[[], Row]] = {f"dihedral ({name})": partial(timed, ours, count)}
    title = f"{SIZE[1]}×{SIZE[0]} frames before encoding, {THREADS} thread(s)"
    try:
        import torch
    except ImportError:
        title += "; torch is not installed, so there is no peer"
    else:
        theirs = in_torch(planned, torch, "cuda" if name == "cupy" else "cpu")
        first = to_host(frame.render(planned.frames[0], stage, xp)).astype(int)
        apart = np.abs(first - theirs(planned.frames[0]).astype(int)).mean()
        assert apart < ALIKE, apart
        contenders["torch"] = partial(timed, lambda: [theirs(each) for each in planned.frames], count)
    if name == "cupy":
        contenders["the kernel alone"] = partial(on_device, planned, xp)
    for contender in contenders.values():
        contender()  # warm
    taken = turns(rounds, contenders)
    tables = [Table(title, summary(taken, of="frames/s", reference=next(iter(contenders))))]
    shares = turns(rounds, {how: partial(encoded, how, planned, count, xp) for how in ("render", "encode", "both")})
    notes = ["both: as the task does it, the encoder in a thread of its own"]
    tables.append(
        Table(
            "Of a second of video: rendering, x264 veryfast, both at once",
            summary(shares, of="frames/s", reference="both"),
            notes,
        )
    )
    return tables, {"frames": taken, "encoding": shares}


class Planned(NamedTuple):
    """frames: what `frame.render` is given for each; made beforehand, as this bookkeeping is the same for both."""

    stage: Stage
    frames: list[Frame]


def plan(count: int, xp: Any) -> Planned:
    rng, seconds = np.random.default_rng(0), count / FPS
    small = rng.random((60, 100, 3)).astype(np.float32)
    detailed = np.clip(
        np.kron(small, np.ones((21, 23, 1), np.float32)) + rng.normal(0, 0.01, (1260, 2300, 3)), 0, 1
    ).astype(np.float32)
    picture = pyramid(colour.to_planes(xp.asarray(detailed), xp), 1.0, 1.16, xp)
    face = captions.face_of(LINES, SIZE)
    pages = captions.schedule([(captions.broken(LINES, face, SIZE), [Span(0.0, seconds)])], face)
    levels = xp.asarray(rng.random((count, scenes.BAR_COUNT)).astype(np.float32))
    look = scenes.Look(0.15, 0, levels, pages)
    shots = scenes.shots_of([Span(0.0, seconds)], [0.0], [scenes.default_views(0)])
    stage = scenes.stage_of(look, SIZE, xp)
    return Planned(stage, list(scenes.frames(shots, lambda at: picture, look, count, FPS, stage, xp)))


def timed(work: Callable[[], Any], count: int) -> Row:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"frames/s": count / (time.perf_counter() - wall), "CPU ms/frame": (time.process_time() - cpu) / count * 1e3}


def on_device(planned: Planned, xp: Any) -> Row:
    """Launches with everything in place, and what part of the device's memory bandwidth a frame's own bytes are."""
    begin, end = xp.cuda.Event(), xp.cuda.Event()
    arguments = [xp.asarray(frame.packed(each, planned.stage)) for each in planned.frames]
    height, width = SIZE
    out = xp.empty((height * 3 // 2, width), dtype=xp.uint8)
    blocks = tuple(-(-length // 2 // threads) for length, threads in zip((width, height), frame.THREADS, strict=True))
    kernel, repeats = cuda.kernel(xp, frame.SOURCE, "render_frame"), 20
    begin.record()
    for _ in range(repeats):
        for each in arguments:
            cuda.launch(kernel, blocks, frame.THREADS, each, out)
    end.record()
    end.synchronize()
    seconds = xp.cuda.get_elapsed_time(begin, end) / 1e3 / (repeats * len(arguments))
    seen = sum(layer.planes.nbytes for layer in (*planned.frames[0].luma, *planned.frames[0].chroma))
    return {"frames/s": 1 / seconds, "GB/s of pictures and frame": (seen + out.nbytes + height * width) / seconds / 1e9}


def encoded(how: str, planned: Planned, count: int, xp: Any) -> Row:
    def rendered() -> Iterator[Any]:
        for each in planned.frames:
            yield to_host(frame.render(each, planned.stage, xp))

    ready = list(rendered()) if how == "encode" else []
    with tempfile.TemporaryDirectory() as folder:
        work = {
            "render": lambda: sum(1 for _ in rendered()),
            "encode": lambda: write_video(Path(folder) / "v.mp4", iter(ready), FPS, None, 48_000, "libx264"),
            "both": lambda: write_video(Path(folder) / "v.mp4", rendered(), FPS, None, 48_000, "libx264"),
        }
        return timed(work[how], count)


# The peer --------------------------------------------------------------------------------------------------------------


def in_torch(planned: Planned, torch: Any, device: str) -> Callable[[Frame], Any]:
    """A frame by PyTorch as (3/2·height, width) uint8."""
    torch.set_num_threads(THREADS)
    stage, (height, width) = planned.stage, SIZE
    bars = stage.bars

    def tensor(array: Any) -> Any:
        return torch.from_numpy(np.array(to_host(array))).to(device)

    field = tensor(stage.grain).float() * (4 * stage.strength / grain.DEVIATION / colour.LUMA_RANGE**2)
    planes = {
        id(layer.planes): tensor(layer.planes)[None] for each in planned.frames for layer in (*each.luma, *each.chroma)
    }
    masks = {
        id(each.caption.masks): [tensor(mask).float() / 255 for mask in each.caption.masks[2:]]
        for each in planned.frames
        if each.caption is not None
    }
    grids = {
        wide: (torch.arange(height // wide, device=device) * 1.0, torch.arange(width // wide, device=device) * 1.0)
        for wide in (1, 2)
    }

    def sampled(layers: list[Any], wide: int) -> Any:
        total: Any = 0
        for layer in layers:
            length = layer.planes.shape[1:]
            y, x = (
                (axis.start / 2**32 + along * (axis.step / 2**32) + 0.5) * (2 / size) - 1
                for axis, along, size in zip((layer.rows, layer.columns), grids[wide], length, strict=True)
            )
            grid = torch.stack((x[None].expand(y.numel(), -1), y[:, None].expand(-1, x.numel())), dim=-1)[None]
            made = torch.nn.functional.grid_sample(
                planes[id(layer.planes)], grid, mode="bicubic", padding_mode="border", align_corners=False
            )
            total = total + made[0] * layer.weight
        return total

    place: dict[int, Any] = {}
    for wide in (1, 2):
        top = int((bars.base - bars.tallest - 5 * bars.radius - 2) / wide)
        y, x = grids[wide][0][top:, None] * wide + wide / 2, grids[wide][1] * wide + 0.5
        number = ((x - bars.left) / bars.pitch).floor().clamp(0, bars.number - 1)
        place[wide] = top, y, number.long(), (x - bars.left - (number + 0.5) * bars.pitch) ** 2

    def with_bars(plane: Any, levels: Any, wide: int, white: float, dark: float) -> None:
        top, y, number, beside = place[wide]
        foot = bars.base - bars.radius
        head = foot - levels[number] * bars.tallest
        along = torch.maximum(head - y, y - foot).clamp(min=0)
        distance = (beside + along * along).sqrt()
        plane[top:] += (2 - distance / (2 * bars.radius)).clamp(0, 1) * frame.SHADOW_OPACITY * (dark - plane[top:])
        cover = ((bars.radius - distance) / wide + 0.5).clamp(0, 1) * frame.BAR_OPACITY
        plane[top:] += cover * (white - plane[top:])

    def with_caption(plane: Any, caption: Any, wide: int, component: int) -> None:
        box, text = masks[id(caption.masks)][2 * (wide - 1) : 2 * wide]
        top, left = caption.masks.top // wide, caption.masks.left // wide
        region = plane[top : top + box.shape[0], left : left + box.shape[1]]
        ink = torch.full_like(region, frame.WHITE[component])
        rows, columns = (
            slice(*(edge // wide - at for edge in caption.word[first::2])) for first, at in ((0, top), (1, left))
        )
        ink[rows, columns] += caption.glow * (frame.ACCENT[component] - frame.WHITE[component])
        region += (frame.DARK[component] - region) * (box * (caption.opacity * frame.BOX_OPACITY))
        region += (ink - region) * (text * caption.opacity)

    @torch.inference_mode()
    def render(each: Frame) -> Any:
        luma, chroma = sampled(each.luma, 1)[0], sampled(each.chroma, 2)
        tone = luma.clamp(0, colour.LUMA_RANGE)
        row, column = each.corner
        luma = luma + tone * (colour.LUMA_RANGE - tone) * field[row : row + height, column : column + width]
        levels = tensor(each.levels)
        for component, plane in enumerate((luma, *chroma)):
            wide = 1 if component == 0 else 2
            with_bars(plane, levels, wide, frame.WHITE[component], frame.DARK[component])
            if each.caption is not None:
                with_caption(plane, each.caption, wide, component)
        codes = (luma.clamp(0, 219) + 16.5).to(torch.uint8), (chroma.clamp(-112, 112) + 128.5).to(torch.uint8)
        return torch.cat([part.reshape(-1, width) for part in codes]).cpu().numpy()

    return render
