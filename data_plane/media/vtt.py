"""WebVTT captions from words in time."""

from collections.abc import Iterator, Sequence

from dihedral.data_plane.media.captions import PAUSE_SECONDS, ends_sentence
from dihedral.data_plane.media.speech_timing import Timed

WIDEST = 42  # letters of a row, as broadcasters have it
LONGEST_SECONDS = 6.0
LINGER_SECONDS = 0.3


def of_words(words: Sequence[Timed]) -> str:
    """A cue holds at most two rows and ends with its sentence."""
    cues = list(_cues(words))
    blocks = ["WEBVTT\n"]
    for number, cue in enumerate(cues):
        following = cues[number + 1][0].start if number + 1 < len(cues) else float("inf")
        end = max(cue[-1].end, min(cue[-1].end + LINGER_SECONDS, following))
        blocks.append(f"{_time(cue[0].start)} --> {_time(max(end, cue[0].start + 0.001))}\n{_rows(cue)}\n")
    return "\n".join(blocks)


def _cues(words: Sequence[Timed]) -> Iterator[list[Timed]]:
    cue: list[Timed] = []
    for word in words:
        letters = sum(len(each.text) + 1 for each in cue)
        if cue and (
            letters + len(word.text) > 2 * WIDEST - 8  # rows break between words, so two are never quite full
            or word.end - cue[0].start > LONGEST_SECONDS
            or word.start - cue[-1].end > PAUSE_SECONDS
            or ends_sentence(cue[-1].text)
        ):
            yield cue
            cue = []
        cue.append(word)
    if cue:
        yield cue


def _rows(cue: list[Timed]) -> str:
    text = " ".join(each.text for each in cue)
    if len(text) > WIDEST:
        middle = min(
            (at for at, letter in enumerate(text) if letter == " "), key=lambda at: abs(at - len(text) / 2), default=0
        )
        if middle:
            text = f"{text[:middle]}\n{text[middle + 1 :]}"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    return f"{milliseconds // 3_600_000:02d}:{milliseconds // 60_000 % 60:02d}:{milliseconds // 1000 % 60:02d}.{milliseconds % 1000:03d}"
