"""Degeneration: does a model repeat itself, never stop, or write nothing at all?"""

from __future__ import annotations

from itertools import count
from random import Random

from layercut.diagnostics.session import DiagnosticSession
from layercut.engine.base import Decoding, GenerationRequest
from layercut.evidence.degeneration import measure_texts
from layercut.evidence.diagnosis import Diagnosis
from layercut.tasks.base import content_id
from layercut.text import count_of

MAX_NEW_TOKENS = 128
TEMPERATURE, TOP_K = 0.9, 50
NUM_OPENINGS = 60  # prompts at most; more would repeat topics

_PEOPLE = ("a baker", "an old sailor", "two sisters", "a young doctor", "the night guard", "a retired teacher")
_PLACES = ("a small harbour town", "the mountains", "a crowded train", "an empty library", "the edge of a desert")
_TOPICS = (
    "why the sky is blue", "how bread is made", "what a bank does with money", "how bees find their way home",
    "why ships float", "how a vaccine works", "what causes the tides", "how a bicycle stays upright",
)  # fmt: skip
_WISHES = ("a day off", "a new desk", "an invoice", "a second meeting", "help with a move", "an apology")
_FORMS = (
    lambda rng: f"Once upon a time, {rng.choice(_PEOPLE)} lived in {rng.choice(_PLACES)}. One morning,",
    lambda rng: f"This is a short explanation of {rng.choice(_TOPICS)}, for people who have never heard of it.\n\n",
    lambda rng: f"Dear neighbour,\n\nI am writing to you from {rng.choice(_PLACES)} to ask for {rng.choice(_WISHES)}.",
    lambda rng: f"Interview with {rng.choice(_PEOPLE)}.\n\nQ: How did you come to {rng.choice(_PLACES)}?\nA:",
)


def degeneration(session: DiagnosticSession) -> Diagnosis:
    """Let every model continue beginnings of stories, letters and explanations, and measure what it writes.

    Drawn at temperature 0.9 among the 50 likeliest tokens, as in the paper, with the same noise for all models. Greedy
    decoding makes even intact small models loop.
    """
    prompts = text_openings(session.limit, session.seed)
    session.came("openings", prompts)
    answers = session.ask(
        "degeneration.written",
        [GenerationRequest(id=id, prompt=text, max_new_tokens=MAX_NEW_TOKENS) for id, text in prompts.items()],
        decoding=Decoding(temperature=TEMPERATURE, top_k=TOP_K, seed=session.seed),
    )
    written = {
        model: [(records[id]["text"], records[id]["finish_reason"]) for id in prompts]
        for model, records in answers.items()
    }
    result = measure_texts(written, seed=session.seed)
    drawn = (
        f"{count_of(len(prompts), 'response')} of at most {MAX_NEW_TOKENS} tokens, drawn at temperature {TEMPERATURE} "
        f"among the {TOP_K} likeliest tokens, seed {session.seed}."
    )
    return {**result, "notes": [" ".join([drawn, *result["notes"]])]}


def text_openings(limit: int, seed: int) -> dict[str, str]:
    """The first ``limit`` prompts by id, no two alike; a smaller limit gives a prefix of a larger one."""
    prompts: dict[str, str] = {}
    for index in count():
        if len(prompts) >= min(limit, NUM_OPENINGS):
            break
        text = _FORMS[index % len(_FORMS)](Random(f"openings 1 {seed} {index}"))
        prompts.setdefault(content_id("opening", text), text)
    return prompts
