"""Prompts of the degeneration diagnostic: beginnings of texts to continue, made from a seed."""

from __future__ import annotations

from itertools import count
from random import Random

from layercut.tasks.few_shot import content_id

NUM_OPENINGS = 60
"""More would repeat topics over and over; a larger limit gives these."""

_PEOPLE = ("a baker", "an old sailor", "two sisters", "a young doctor", "the night guard", "a retired teacher")
_PLACES = ("a small harbour town", "the mountains", "a crowded train", "an empty library", "the edge of a desert")
_TOPICS = (
    "why the sky is blue",
    "how bread is made",
    "what a bank does with money",
    "how bees find their way home",
    "why ships float",
    "how a vaccine works",
    "what causes the tides",
    "how a bicycle stays upright",
)
_WISHES = ("a day off", "a new desk", "an invoice", "a second meeting", "help with a move", "an apology")
_FORMS = (
    lambda rng: f"Once upon a time, {rng.choice(_PEOPLE)} lived in {rng.choice(_PLACES)}. One morning,",
    lambda rng: f"This is a short explanation of {rng.choice(_TOPICS)}, for people who have never heard of it.\n\n",
    lambda rng: f"Dear neighbour,\n\nI am writing to you from {rng.choice(_PLACES)} to ask for {rng.choice(_WISHES)}.",
    lambda rng: f"Interview with {rng.choice(_PEOPLE)}.\n\nQ: How did you come to {rng.choice(_PLACES)}?\nA:",
)


def openings(limit: int, seed: int) -> dict[str, str]:
    """The first ``limit`` prompts by id, no two alike; a smaller limit gives a prefix of a larger one."""
    found: dict[str, str] = {}
    for index in count():
        if len(found) >= min(limit, NUM_OPENINGS):
            return found
        rng = Random(f"openings 1 {seed} {index}")
        text = _FORMS[index % len(_FORMS)](rng)
        found.setdefault(content_id("opening", text), text)
    raise AssertionError("count has no end")
