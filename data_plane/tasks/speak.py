"""Task `speak`: text becomes a recording, with the time of every word and phoneme."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from dihedral.bridge.tasks.models import file_name
from dihedral.bridge.tasks.params import artifact
from dihedral.bridge.tasks.registry import TaskContext, TaskError, invalid_input, task
from dihedral.data_plane.engines.speech import alignment, choice, placing, text
from dihedral.data_plane.engines.speech.engine import Engine, Spoken
from dihedral.data_plane.kernels import mixture
from dihedral.data_plane.media import vtt
from dihedral.data_plane.media.decode import FloatArray
from dihedral.data_plane.media.speech_timing import Timed
from dihedral.data_plane.model_files import Voice, read_voice
from dihedral.data_plane.voice import likeness
from dihedral.data_plane.voice.features import hear
from dihedral.schemas.strict import Strict
from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef
from dihedral.schemas.structs.capability import Check, CheckRepair

BUCKET = "voices"
MOST_LETTERS = 12_000  # some 13 minutes: the phonemes of more would not fit into a node's output
LONGEST_SECONDS = 1_800.0  # figures are spoken as words, so 12,000 of them last longer than letters
LINE_PAUSE_SECONDS = 0.2  # between two lines, beside the silence that an engine leaves around a sentence
LOUDEST = 0.95  # peak; a louder recording is made quieter as a whole

LIKE_SECONDS = 120.0  # of a recording whose speaker the voice is adapted to
LIKE_COMPONENTS = 8  # Gaussians: enough to choose one of nineteen factors

Placed = Literal["engine", "alignment", "letters"]

SAYING = ["say", "announce", "pronounce", "utter", "speak", "sprich", "sag"]
PACES = {
    "very slow": 0.65, "slow": 0.8, "calm": 0.9, "fast": 1.25, "quick": 1.25, "very fast": 1.5, "double speed": 2.0, "twice as fast": 2.0, "half speed": 0.5,
}  # fmt: skip
"""How fast the words of a goal ask for; the planner reads them."""


class Speak(Strict, kw_only=True, rename="camel"):
    text: Annotated[
        str | None,
        Meta(
            description="What is spoken",
            extra_json_schema={"x-kind": ["text"], "x-one-of": "What is to be said", "x-after": SAYING},
        ),
    ] = None
    lines: Annotated[
        list[str] | None,
        Meta(
            description="The same in lines, with a pause between two of them",
            extra_json_schema={"x-kind": ["lines"], "x-one-of": "What is to be said"},
        ),
    ] = None
    voice: Annotated[
        str, Meta(max_length=200, description="ENGINE:NAME, such as embedded:heart; empty: the first that is there")
    ] = ""
    speed: Annotated[
        float, Meta(ge=0.5, le=2, description="1: the voice's own pace", extra_json_schema={"x-words": PACES})
    ] = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**53, title="Random seed", description="Of the breath in the sound")] = 0
    like: Annotated[
        Annotated[ModelRef, artifact("audio/*", ".m4a", ".safetensors", format="recording", bucket="voices")] | None,
        Meta(
            title="Sounds like",
            description="Whose pitch and timbre it takes on: a voice of train_voice, or a recording. Not a clone",
            extra_json_schema={"x-kind": ["voice", "speech"]},
        ),
    ] = None


class Word(Strict, kw_only=True):
    """In seconds of the recording."""

    text: str
    start: float
    end: float


class Phoneme(Strict, kw_only=True):
    """symbol: in IPA."""

    symbol: str
    start: float
    end: float


class SpeakOutput(Strict, kw_only=True, rename="camel"):
    """placed: how the words were placed: by the engine's own times (within 0.03 s), by forced alignment (0.05 s), or by letters (0.5 s).
    phonemes: empty where nothing tells them. captions: WebVTT.
    """

    audio: Annotated[ArtifactRef, Meta(extra_json_schema={"x-kind": ["speech", "audio"]})]
    seconds: float
    sample_rate: int
    words: list[Word]
    phonemes: list[Phoneme]
    captions: Annotated[ArtifactRef, Meta(extra_json_schema={"x-kind": ["captions"]})]
    engine: str
    voice: str
    placed: Placed


CHECKS = [
    Check(
        id="duration",
        label="as short as the goal says",
        value="/seconds",
        most="goal/seconds",
        tolerance=0.02,
        repair=CheckRepair(param="speed"),
    ),
    Check(id="words", label="every word spoken", value="/words", least="params/text", tolerance=0.1),
]


@task(
    checks=CHECKS,
    id="speak",
    label="Speak",
    description="Speaks a text, and tells when each word and phoneme is heard. Stores a WAV and captions in the bucket voices.",
    time_by=("text", "lines"),
    warm=("voice",),
    settings=choice.SpeakSettings,
    keywords=[
        "say",
        "read aloud",
        "read out",
        "read",
        "speech",
        "text to speech",
        "tts",
        "voice over",
        "narrate",
        "narration",
        "voiceover",
        "announce",
        "announcement",
        "recite",
        "utter",
        "pronounce",
        "talk",
        "audiobook",
        "audio book",
        "message",
        "greeting",
        "spoken",
        "captions",
        "subtitles",
        "audio version",
    ],
    voices=choice.voices,
    examples=[
        {"text": "Good evening. The sun goes down over the lake."},
        {"lines": ["Guten Abend.", "Die Sonne geht unter."], "voice": "espeak:de", "speed": 0.9},
    ],
    groups={"Text": ("text", "lines"), "Voice": ("voice", "like", "speed", "seed")},
)
def speak(params: Speak, ctx: TaskContext) -> SpeakOutput:
    """Raises: TaskError `invalid_input`, `nothing_to_say`, `text_too_long`, `markup_unsupported`, `script_unsupported`, `voice_unavailable`, `speech_failed`."""
    lines = lines_of(params)
    like = None if params.like is None else voice_of(params.like, ctx)
    engine = ctx.warm(lambda: choice.opened(params.voice, ctx.settings(choice.SpeakSettings)))
    check_readable(lines, engine)
    sentences = [list(text.sentences(line, engine.longest)) for line in lines]
    parts: list[FloatArray] = []
    words: list[Timed] = []
    phonemes: list[Timed] = []
    placed: Placed = "engine"
    rate, at, done = 0, 0.0, 0
    whole = sum(len(each) for some in sentences for each in some)
    for number, sentence, opens_line in in_order(sentences):
        spoken, how = with_times(
            engine.speak(sentence, params.speed, params.seed + number, ctx.check_cancelled), sentence, engine
        )
        if rate not in (0, spoken.rate):
            raise TaskError(f"{engine.name} answered sound of {rate} Hz and of {spoken.rate} Hz", code="speech_failed")
        rate = spoken.rate
        if opens_line and parts:
            parts.append(np.zeros(round(LINE_PAUSE_SECONDS * rate), np.float32))
            at += parts[-1].size / rate
        words += moved(spoken.words or [], at)
        phonemes += moved(spoken.phonemes or [], at)
        placed = max(placed, how, key=("engine", "alignment", "letters").index)
        parts.append(spoken.samples)
        at += spoken.samples.size / rate
        if at > LONGEST_SECONDS:
            raise too_long(f"the speech is longer than {LONGEST_SECONDS:g} s")
        done += len(sentence)
        ctx.progress(0.95 * done / whole)
        ctx.check_cancelled()
    samples = np.concatenate(parts)
    if not np.abs(samples).max(initial=0.0) > 0:
        raise TaskError(f"{engine.name} answered silence", code="speech_failed")
    if like is not None:
        samples, change = likeness.resembled(samples, rate, like)
        ctx.log(f"pitch moved by {change.semitones:+.1f} semitones, formants by a factor of {change.factor:.2f}")
    audio = ctx.store(BUCKET, "speech.wav", wav(samples, rate, ctx.workdir / "speech.wav"), "audio/wav")
    subtitles = ctx.store(BUCKET, "speech.vtt", vtt.of_words(words).encode(), "text/vtt")
    ctx.progress(1.0)
    return SpeakOutput(
        audio=ArtifactRef(bucket=audio.bucket, key=audio.key),
        seconds=round(samples.size / rate, 3),
        sample_rate=rate,
        words=[Word(text=word, start=round(start, 3), end=round(end, 3)) for word, start, end in words],
        phonemes=[Phoneme(symbol=each, start=round(start, 3), end=round(end, 3)) for each, start, end in phonemes],
        captions=ArtifactRef(bucket=subtitles.bucket, key=subtitles.key),
        engine=engine.name,
        voice=params.voice or engine.voice,
        placed=placed,
    )


# Text ---------------------------------------------------------------------------------------------------------------


def lines_of(params: Speak) -> list[str]:
    """Returns the cleaned lines that hold text to speak."""
    if (params.text is None) == (params.lines is None):
        raise invalid_input("give either `text` or `lines`")
    lines = [params.text] if params.lines is None else params.lines
    if (letters := sum(len(line or "") for line in lines)) > MOST_LETTERS:
        raise too_long(f"the text has {letters:,} letters; {MOST_LETTERS:,} are possible")
    cleaned = [part for line in lines for part in text.cleaned(line or "").split("\n") if text.has_speech(part)]
    if not cleaned:
        raise TaskError("the text holds no letter or figure that can be spoken", code="nothing_to_say")
    return cleaned


def check_readable(lines: list[str], engine: Engine) -> None:
    """Raises: TaskError `script_unsupported`: else the voice would leave those words out, without an error."""
    if engine.scripts is None:
        return
    for line in lines:
        if found := text.foreign_script(line, engine.scripts):
            script, letters = found
            advice = (
                "choose a voice of that language, such as espeak:LANGUAGE where espeak-ng is installed, or an endpoint"
            )
            raise TaskError(
                f"the voice {engine.voice} cannot read {script} letters ({letters}): {advice}",
                code="script_unsupported",
            )


def in_order(sentences: list[list[str]]) -> Iterator[tuple[int, str, bool]]:
    """(number from 0, sentence, whether it begins a line)."""
    number = 0
    for line in sentences:
        for place, sentence in enumerate(line):
            yield number, sentence, place == 0
            number += 1


# Time ---------------------------------------------------------------------------------------------------------------


def with_times(spoken: Spoken, sentence: str, engine: Engine) -> tuple[Spoken, Placed]:
    """The sentence with times for its words, and where they come from."""
    if spoken.words is not None:
        return spoken, "engine"
    words = sentence.split()
    if engine.language.startswith("en") and alignment.installed() and (
        found := alignment.aligned(words, spoken.samples, spoken.rate)
    ):  # fmt: skip
        return spoken._replace(words=found[0], phonemes=spoken.phonemes or found[1]), "alignment"
    return spoken._replace(words=placing.by_letters(words, spoken.samples, spoken.rate)), "letters"


def moved(some: list[Timed], by: float) -> Iterator[Timed]:
    return (Timed(each.text, each.start + by, each.end + by) for each in some)


# Sound --------------------------------------------------------------------------------------------------------------


def wav(samples: FloatArray, rate: int, path: Path) -> Path:
    import soundfile

    loudest = float(np.abs(samples).max())
    soundfile.write(path, samples * min(1.0, LOUDEST / loudest), rate, subtype="PCM_16")
    return path


def voice_of(reference: ModelRef, ctx: TaskContext) -> Voice:
    """Returns the voice as it was trained, or as a recording of the speaker shows it."""
    if file_name(reference).endswith(".safetensors"):
        return read_voice(ctx.fetch(reference), np)
    heard = hear(ctx, reference, LIKE_SECONDS, np)
    components = min(LIKE_COMPONENTS, max(1, len(heard.cepstra) // 4))
    floor = np.maximum(0.01 * heard.cepstra.var(axis=0), 1e-4)
    *_, (_, fitted) = mixture.fit(heard.cepstra, components, 10, 0, floor, np)
    hertz = heard.hertz
    pitch = (float(np.median(hertz)), float(np.log(hertz).std())) if hertz.size else (None, None)
    return Voice(fitted, heard.mean_log_mel, pitch[0], heard.bandwidth_hz, pitch[1])


def too_long(reason: str) -> TaskError:
    return TaskError(f"{reason}: split it over several nodes", code="text_too_long")
