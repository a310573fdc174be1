"""The time of each spoken word, judged by the sound alone.

Nothing here understands speech. Pieces of text take shares of the time that contains speech, by their length in letters; pauses
belong to no word. On read speech that is mostly right to half a second, and right again behind every long pause. Where there is no
narration the text takes all of the time.
"""

from typing import NamedTuple

import numpy as np

from dihedral.data_plane.media.decode import FloatArray

HOP_SECONDS = 0.02
PAUSE_DB = 30.0  # below the loud parts (their 95th percentile) there is no speech
SHORTEST_PAUSE, SHORTEST_SOUND = 0.18, 0.06  # seconds: stops within words are shorter, clicks too
OPENING = 2  # letters that every word counts more: a short one takes time as well


class Span(NamedTuple):
    """A span of time, in seconds."""

    start: float
    end: float


class Timed(NamedTuple):
    """A word or a phoneme (IPA), in seconds."""

    text: str
    start: float
    end: float


def speech(samples: FloatArray, rate: int) -> list[Span]:
    """Returns where (n,) samples are loud, in order; pauses and sounds that are too short to be one are passed over."""
    hop = max(1, round(HOP_SECONDS * rate))
    frames = samples[: samples.size // hop * hop].reshape(-1, hop)
    if not frames.size:
        return []
    decibels = 10 * np.log10((frames.astype(np.float64) ** 2).mean(axis=1) + 1e-12)
    loud = decibels > max(np.percentile(decibels, 95) - PAUSE_DB, -80)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], loud, [False])).astype(np.int8))) * (hop / rate)
    found: list[Span] = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if found and start - found[-1].end < SHORTEST_PAUSE:
            found[-1] = Span(found[-1].start, end)
        else:
            found.append(Span(start, end))
    return [span for span in found if span.end - span.start >= SHORTEST_SOUND]


def weight(word: str) -> int:
    return len(word) + OPENING


def spread(weights: list[int], spans: list[Span]) -> list[Span]:
    """A span for each weight: its share of the spans' time, in order. One that ends at a pause ends there, and the next begins behind it."""
    lengths = np.array([end - start for start, end in spans])
    passed = np.concatenate(([0.0], np.cumsum(lengths)))
    reached = np.concatenate(([0.0], np.cumsum(weights))) / max(1, sum(weights)) * passed[-1]
    starts = np.clip(np.searchsorted(passed, reached[:-1] + 1e-9, side="right") - 1, 0, len(spans) - 1)
    ends = np.clip(np.searchsorted(passed, reached[1:] - 1e-9, side="left") - 1, 0, len(spans) - 1)
    begun = np.array([span.start for span in spans])
    return [
        Span(float(start), float(end))
        for start, end in zip(
            begun[starts] + reached[:-1] - passed[starts], begun[ends] + reached[1:] - passed[ends], strict=True
        )
    ]
