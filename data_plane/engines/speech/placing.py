"""The time of each word: the engine's times brought onto the words as they are written, or shares of the time that is spoken."""

from difflib import SequenceMatcher

from dihedral.data_plane.media.decode import FloatArray
from dihedral.data_plane.media.speech_timing import Span, Timed, speech, spread, weight


def matched(words: list[str], spoken: list[Timed]) -> list[Timed]:
    """Places each written word at the time of what was spoken for it.

    Where more or fewer words were spoken than are written ("7:30 pm" as "seven thirty P.M."), the written ones share that time by letters.
    """
    found: list[Timed] = []
    said = [each.text for each in spoken]
    for kind, first, last, begin, end in SequenceMatcher(None, words, said, autojunk=False).get_opcodes():
        some, heard = words[first:last], spoken[begin:end]
        if kind == "equal" or (len(some) == len(heard) and some):
            found += [Timed(word, each.start, each.end) for word, each in zip(some, heard, strict=True)]
        elif some and heard:
            found += shared(some, [Span(heard[0].start, heard[-1].end)])
        elif some:
            at = found[-1].end if found else (spoken[0].start if spoken else 0.0)
            found += [Timed(word, at, at) for word in some]
    return found


def by_letters(words: list[str], samples: FloatArray, rate: int) -> list[Timed]:
    """Assigns each word its share, by its length, of the time that contains speech."""
    return shared(words, speech(samples, rate) or [Span(0.0, samples.size / rate)])


def shared(words: list[str], spans: list[Span]) -> list[Timed]:
    return [
        Timed(word, *span) for word, span in zip(words, spread([weight(word) for word in words], spans), strict=True)
    ]
