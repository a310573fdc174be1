"""A few lines that a model writes, so that one reads what an adapter changed: the same prompt and the same dice before and behind training."""

import time
from collections.abc import Callable

import numpy as np
from tokenizers import Tokenizer

from dihedral.data_plane.device import ArrayModule, to_host
from dihedral.data_plane.language.dataset import Document
from dihedral.data_plane.language.model import Model, logits

LINES = 3
TOKENS = 40  # of a line, at most
PROMPT_TOKENS = 48  # of the prompt's end: every token is computed anew with all before it
TEMPERATURE = 0.7
LOOK_SECONDS = 2.0  # between two looks at a cancel; within the grace that a slot has


def prompt_of(first: Document) -> str:
    """The first document's prompt, or the first words of its text."""
    return first.prompt if first.prompt is not None else " ".join((first.text or "")[:10_000].split()[:4])


def lines(
    model: Model, tokenizer: Tokenizer, prompt: str, seed: int, check: Callable[[], None], xp: ArrayModule
) -> list[str]:
    """Returns LINES continuations, each up to its line's end; a model that can take no prompt writes none."""
    start = tokenizer.encode(prompt, add_special_tokens=False).ids[-PROMPT_TOKENS:]
    room = min(TOKENS, model.config.longest - len(start))
    if not start or room < 1:
        return []
    written = []
    looked = time.monotonic()
    for number in range(LINES):
        rng = np.random.default_rng([seed, number])
        ids = list(start)
        for _ in range(room):
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                check()
            last = to_host(logits(model, xp.asarray([ids]), xp)[0, -1].astype(xp.float32)).astype(np.float64)
            shares = np.exp((last - last.max()) / TEMPERATURE)
            chosen = int(np.searchsorted(np.cumsum(shares), rng.random() * shares.sum()))
            if chosen in model.config.end_ids:
                break
            ids.append(min(chosen, shares.size - 1))
        text = tokenizer.decode(ids[len(start) :]).strip()
        written.append(text.split("\n")[0])
    return written
