"""Requests for one or two sentences, whose answers should end by themselves."""

from __future__ import annotations

from layercut.tasks.checked import Check, CheckedTask, ends

VERSION = 1  # raised by any change of the requests or the rule
_TOPICS = """
    gravity; inflation in an economy; photosynthesis; a contract; the water cycle; a vaccine; democracy; an
    atom; a novel; compost; a mortgage; an algorithm; the moon; a metaphor; electricity; a virus; insurance; a
    volcano; a symphony; rust; a fraction; yeast; a shadow; friction; a passport; an echo; a glacier; a budget;
    the internet; a compass; evaporation; a recipe; a password; tides; a census; a hypothesis; a lever; a
    pension; an eclipse; a fossil; soap; a battery; a bridge; a library; a proverb; glass; a fever; a river
    delta
"""


def endings() -> CheckedTask:
    """48 requests such as "Explain in one or two sentences what rust is."; an answer that goes on after 160 tokens
    fails."""
    checks = [
        Check(
            f"Explain in one or two sentences what {' '.join(topic.split())} is.",
            ends,
            "ends by itself",
        )
        for topic in _TOPICS.split(";")
    ]
    return CheckedTask(name="endings", version=VERSION, checks=tuple(checks), max_new_tokens=160)
