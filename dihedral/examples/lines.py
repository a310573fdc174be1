"""Lines for a picture, written by a small grammar: in one plain voice for a base model, in another for an adapter."""

import random

PLACES = ("the lake", "the sea", "the harbour", "the old bridge", "the valley", "the hill", "the river", "the garden")
THINGS = ("the sun", "the moon", "a boat", "the wind", "a bird", "the mist", "the last train", "a lantern")
MOVES = ("goes down over", "rests on", "drifts across", "turns back from", "waits beside", "looks out over")
HOURS = ("In the evening", "At dawn", "Once more", "Today", "Late at night", "For a while")
CLOSES = ("Nothing else moves.", "Nobody says a word.", "It is very quiet.", "We have all the time in the world.")


def plain(count: int, seed: int) -> list[str]:
    """Returns `count` short paragraphs, the same for the same seed."""
    rng = random.Random(seed)
    return [f"{_sentence(rng)} {_sentence(rng)} {rng.choice(CLOSES)}" for _ in range(count)]


def sailor(count: int, seed: int) -> list[dict[str, str]]:
    """Returns `count` documents of prompt and completion, in the voice that an adapter is to learn."""
    rng = random.Random(seed)
    return [
        {"prompt": _sentence(rng), "completion": f" Aye, {_sentence(rng).lower()[:-1]}, mates. Heave ho!"}
        for _ in range(count)
    ]


def _sentence(rng: random.Random) -> str:
    thing, move, place = rng.choice(THINGS), rng.choice(MOVES), rng.choice(PLACES)
    return f"{rng.choice(HOURS)} {thing} {move} {place}."
