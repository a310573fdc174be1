"""Films: a moving camera by `render_video`, FFmpeg's zoompan and MoviePy; faces by `lip_sync`; and a whole film that speaks.

The camera goes the same way over one picture of 1920×1080 in 1280×720 at 24 frames a second, all three encode with x264 `veryfast`, crf 20
and no B-frames. PSNR is of the luma, against Pillow's bicubic resampling of the same windows in float: zoompan's windows are whole pixels,
MoviePy's sizes are, so their pictures tremble, which is what the figure tells. The whole film is `speak`, `lip_sync`, `render_video`; beside
it FFmpeg alone composes the same: the face's film, the captions burned in, the sound, encoded alike.

Needs `ffmpeg` on the path; MoviePy is installed into `build/benchmarks/peers/moviepy`, as it wants an older Pillow than ours.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from dihedral.examples import character, scenes
from tests.benchmarks.bench import OUT, ROOT, Row, Table, summary, turns
from tests.support.in_process import TaskRunner

JOBS = 20  # seconds of film in the first table
SIZE, FPS, ZOOM = (720, 1280), 24, 1.16
BT709, BT601 = (0.2126, 0.7152, 0.0722), (0.299, 0.587, 0.114)  # FFmpeg makes RGB the latter unless told
PEER = ROOT / "tests" / "benchmarks" / "peers" / "drive_moviepy.py"
ENCODING = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-bf", "0", "-g", "48", "-pix_fmt", "yuv420p"]
TEXT = (
    "Far out at sea, where the water is as blue as the loveliest cornflower, there lived an old keeper of a lighthouse. "
    "Every evening he climbed the stairs, lit the lamp, and told the ships a story."
)
MOUTH = {"x": 0.5, "y": 0.584, "width": 0.07}


def run(seconds: int, rounds: int) -> tuple[list[Table], Any]:
    with tempfile.TemporaryDirectory() as folder, TaskRunner.opened(Path(folder) / "store") as tasks:
        where = Path(folder)
        camera = turns(rounds, moved(where, tasks, seconds))
        faces = turns(rounds, faced(where, tasks))
        films = turns(rounds, spoken(where, tasks))
    tables = [
        Table(
            f"A camera over a picture, {seconds} s of {SIZE[1]}×{SIZE[0]}",
            summary(camera, of="CPU s", reference="dihedral"),
        ),
        Table(
            "Faces, 10 s at 25 frames a second, sound and encoding included",
            summary(faces, of="frames/s", reference="drawn, 512×512"),
        ),
        Table("A film that speaks, 1280×720, after the first start", summary(films, of="CPU s", reference="dihedral")),
    ]
    return tables, {"camera": camera, "faces": faces, "films": films}


# A camera over a picture -----------------------------------------------------------------------------------------------


def moved(where: Path, tasks: TaskRunner, seconds: int) -> dict[str, Callable[[], Row]]:
    source = where / "picture.png"
    Image.fromarray((scenes.meadow() * 255 + 0.5).astype(np.uint8)).resize((1920, 1440), Image.Resampling.LANCZOS).crop(
        (0, 180, 1920, 1260)
    ).save(source)
    picture = tasks.upload(source)
    still = {"x": 0.5, "y": 0.5, "zoom": 1.0}
    params: dict[str, Any] = {
        "scenes": [{"picture": picture, "from": still, "to": still | {"zoom": ZOOM}}],
        "seconds": seconds,
        "grain": 0,
        "spectrum": False,
        "encoder": "libx264",
    }

    def ours(to: Path) -> None:
        made, _ = tasks.output("render_video", params)
        tasks.download(made["video"], to)

    count = seconds * FPS
    along = f"((on+0.5)/{count})"
    zoom = f"pow({ZOOM},{along}*{along}*(3-2*{along}))"
    filters = f"zoompan=z='{zoom}':x='(iw-iw/zoom)/2':y='(ih-ih/zoom)/2':d={count}:s={SIZE[1]}x{SIZE[0]}:fps={FPS}"
    zoompan = ["ffmpeg", "-v", "error", "-y", "-i", str(source), "-vf", filters, "-frames:v", str(count), *ENCODING]
    ours_expected, theirs_expected = (expected(source, seconds, weights) for weights in (BT709, BT601))

    def theirs(command: list[str], to: Path) -> None:
        subprocess.run([*command, str(to)], check=True, stdout=subprocess.DEVNULL)

    moviepy = [str(peer("moviepy")), str(PEER), str(source), str(seconds)]
    makers: dict[str, Callable[[Path], None]] = {
        "dihedral": ours,
        "ffmpeg zoompan": partial(theirs, zoompan),
        "moviepy 2": partial(theirs, moviepy),
    }
    return {
        name: partial(written, make, where / "film.mp4", ours_expected if make is ours else theirs_expected)
        for name, make in makers.items()
    }


def written(make: Callable[[Path], None], film: Path, reference: dict[int, Any]) -> Row:
    spent = stopwatch()
    make(film)
    return {**spent(), "MB": film.stat().st_size / 1e6, "PSNR dB": psnr(film, reference)}


def stopwatch() -> Callable[[], Row]:
    """Seconds since now, on the clock and of processors, this process's and of those that it has waited for."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    wall, processors = time.perf_counter(), used()
    return lambda: {"s": time.perf_counter() - wall, "CPU s": used() - processors}


def expected(source: Path, seconds: int, weights: tuple[float, float, float]) -> dict[int, Any]:
    """Luma codes of every 24th frame, float. weights: of red, green and blue in it."""
    with Image.open(source) as opened:
        rgb = np.asarray(opened.convert("RGB"), dtype=np.float32)
    luma = Image.fromarray((rgb @ np.array(weights, dtype=np.float32)).astype(np.float32))
    found = {}
    for number in range(0, seconds * FPS, FPS):
        along = (number + 0.5) / (seconds * FPS)
        zoom = ZOOM ** (along * along * (3 - 2 * along))
        across, down = luma.width / zoom, luma.height / zoom
        left, top = (luma.width - across) / 2, (luma.height - down) / 2
        seen = luma.resize(SIZE[::-1], Image.Resampling.BICUBIC, box=(left, top, left + across, top + down))
        found[number] = 16 + np.clip(np.asarray(seen), 0, 255) * (219 / 255)
    return found


def psnr(film: Path, reference: dict[int, Any]) -> float:
    import av

    errors = []
    with av.open(str(film)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in reference:
                codes = frame.to_ndarray(format="yuv420p")[: SIZE[0]]
                errors.append(((codes - reference[number]) ** 2).mean())
    return float(10 * np.log10(219**2 / np.mean(errors)))


def peer(name: str) -> Path:
    """The Python of an environment in which the package is installed, made at the first question."""
    folder = OUT / "peers" / name
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"{name}>=2.1,<3"], check=True)
    return python


# Faces ------------------------------------------------------------------------------------------------------------------


def faced(where: Path, tasks: TaskRunner) -> dict[str, Callable[[], Row]]:
    rate, seconds = 24_000, 10
    sound = where / "sound.wav"
    tone = np.sin(2 * np.pi * 150 * np.arange(seconds * rate) / rate) * 0.4
    soundfile.write(sound, tone, rate)
    symbols = "hɛlOðɛɹmAbitəmɑɹOfIvfɑksəzfɑlOðiOldɹɪvɚhOm"
    phonemes = [
        {"symbol": symbols[at % len(symbols)], "start": at * 0.09, "end": (at + 1) * 0.09}
        for at in range(int(seconds / 0.09))
    ]
    params: dict[str, Any] = {"audio": tasks.upload(sound), "phonemes": phonemes, "encoder": "libx264"}
    face = tasks.upload(character(where / "square", (512, 512))["X"])
    square, wide = {"width": 512, "height": 512}, {"width": 1280, "height": 720}
    photographed = {"portrait": face, "mouth": {"x": 0.5, "y": 0.56, "width": 0.14}}
    kinds: dict[str, dict[str, Any]] = {
        "drawn, 512×512": square,
        "photograph, 512×512": square | photographed,
        "drawn, 1280×720": wide,
        "photograph, 1280×720": wide | photographed,
    }

    def timed(more: dict[str, Any]) -> Row:
        wall, cpu = time.perf_counter(), time.process_time()
        made, _ = tasks.output("lip_sync", params | more)
        took = time.perf_counter() - wall
        return {"frames/s": made["frames"] / took, "CPU ms/frame": (time.process_time() - cpu) / made["frames"] * 1e3}

    return {name: partial(timed, more) for name, more in kinds.items()}


# A film that speaks -----------------------------------------------------------------------------------------------------


def spoken(where: Path, tasks: TaskRunner) -> dict[str, Callable[[], Row]]:
    parts: dict[str, Any] = {}

    def ours() -> Row:
        spent, began = stopwatch(), time.perf_counter()
        said, _ = tasks.output("speak", {"text": TEXT})
        at_speech = time.perf_counter()
        face, _ = tasks.output("lip_sync", {"audio": said["audio"], "phonemes": said["phonemes"], "encoder": "libx264"})
        at_face = time.perf_counter()
        scene = {"video": face["video"], "words": said["words"]}
        film, _ = tasks.output(
            "render_video", {"scenes": [scene], "narration": [said["audio"]], "spectrum": False, "encoder": "libx264"}
        )
        ended, taken = time.perf_counter(), spent()
        for name, reference in (
            ("face.mp4", face["video"]),
            ("film.mp4", film["video"]),
            ("words.vtt", said["captions"]),
        ):
            parts[name] = tasks.download(reference, where / name)
        return {
            **taken,
            "of film": film["seconds"],
            "speak": at_speech - began,
            "lip_sync": at_face - at_speech,
            "render_video": ended - at_face,
            "MB": parts["film.mp4"].stat().st_size / 1e6,
        }

    def theirs() -> Row:
        film = where / "composed.mp4"
        spent = stopwatch()
        subtitles = f"subtitles={parts['words.vtt']}:force_style='FontSize=24,BorderStyle=3'"
        command = ["ffmpeg", "-v", "error", "-y", "-i", str(parts["face.mp4"]), "-vf", subtitles, *ENCODING]
        subprocess.run([*command, "-c:a", "aac", "-b:a", "128k", str(film)], check=True)
        return {**spent(), "MB": film.stat().st_size / 1e6}

    ours()  # the first start: fonts, models
    return {"dihedral": ours, "ffmpeg, compositing alone": theirs}
