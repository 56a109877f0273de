"""Degeneration: does a model repeat itself, never stop, or write nothing at all?

Measure E2 of arXiv:2602.01997, with every response counted. There, texts shorter than n words have no Rep-n and texts
of one sentence no Self-BLEU, so the worst responses are excluded. Here they count as responses without repetition, and
the share of empty ones is reported too. Self-BLEU is given both ways: see ``self_bleu`` and ``paper_self_bleu``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from random import Random
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from layercut.diagnostics.measures import examples_of, rows_of
from layercut.diagnostics.session import Answers, DiagnosticSession, SessionModel
from layercut.engine.base import Decoding, GenerationRequest
from layercut.evidence.diagnosis import Diagnosis, MeasureRow
from layercut.tasks.few_shot import content_id
from layercut.text.counting import counted

NAME = "degeneration"
MAX_NEW_TOKENS = 128
TEMPERATURE, TOP_K = 0.9, 50
FEWEST_REPEATS = 3
LONGEST_UNIT = 200
LOOPS = 0.25
"""A response loops if its longest loop is at least this share of it, and at least ``LEAST_LOOP`` characters."""
LEAST_LOOP = 40
NUM_OPENINGS = 60
"""Prompts at most; more would repeat topics."""

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
_PAPER_ORDER = 4
_WORD = re.compile(r"\w+|[^\w\s]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def degeneration(session: DiagnosticSession) -> Diagnosis:
    """Let every model continue beginnings of stories, letters and explanations, and measure what it writes.

    Drawn at temperature 0.9 among the 50 likeliest tokens, as in the paper, with the same noise for all models. Greedy
    decoding makes even intact small models loop.
    """
    prompts = openings(session.limit, session.seed)
    session.came("openings", prompts)
    answers = continuations(session, prompts, session.arms)
    looks = {arm.name: [look(answers[arm.name][id]) for id in prompts] for arm in session.arms}

    def values(name: str) -> dict[str, list[float]]:
        return {arm: [float(found[name]) for found in of_arm] for arm, of_arm in looks.items()}

    papers = {arm.name: [paper_self_bleu(answers[arm.name][id]["text"]) for id in prompts] for arm in session.arms}
    rows = [
        *rows_of(session, NAME, "loops", values("loops"), better="lower", headline=True),
        *rows_of(session, NAME, "empty", values("empty"), better="lower", headline=True),
        *rows_of(session, NAME, "Rep-4", values("rep_4"), better="lower", headline=True),
        *rows_of(session, NAME, "Rep-3", values("rep_3"), better="lower"),
        *rows_of(session, NAME, "Rep-2", values("rep_2"), better="lower"),
        *rows_of(session, NAME, "Self-BLEU-4", values("self_bleu"), better="lower"),
        *(row for arm in session.cuts for row in _paper_rows(session, arm.name, papers)),
        *rows_of(session, NAME, "distinct-1", values("distinct_1")),
        *rows_of(session, NAME, "distinct-2", values("distinct_2")),
        *rows_of(session, NAME, "longest loop", values("loop_share"), better="lower"),
        *rows_of(session, NAME, "no end within the limit", values("endless"), better="lower"),
        *rows_of(session, NAME, "length", values("words"), unit="words"),
    ]
    scored = _counts(papers, lambda score: score is not None)
    short = _counts(looks, lambda found: found["words"] < 4)
    single = _counts(looks, lambda found: found["sentences"] < 2)
    notes = [
        f"{counted(len(prompts), 'response')} of at most {MAX_NEW_TOKENS} tokens, drawn at temperature {TEMPERATURE} "
        f"among the {TOP_K} likeliest tokens, seed {session.seed}. Shorter than four words, counted as without "
        f"repetition: {short}. A single sentence, counted as Self-BLEU 0: {single}.",
        "Self-BLEU-4 (paper) leaves out responses without two sentences of four words; it compares those that both "
        f"models have. Responses that have one: {scored}.",
    ]
    finish = {arm.name: dict(Counter(answers[arm.name][id]["finish_reason"] for id in prompts)) for arm in session.arms}
    uncut = session.uncut.name
    examples = examples_of(
        session,
        NAME,
        [(id, text, "") for id, text in prompts.items()],
        answers,
        lambda arm, place: _broken(looks[arm][place]) and not _broken(looks[uncut][place]),
    )
    return {"rows": rows, "data": {"finish": finish}, "examples": examples, "notes": notes}


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


def continuations(session: DiagnosticSession, prompts: dict[str, str], arms: Sequence[SessionModel]) -> Answers:
    """Sampled continuations of the prompts, by model."""
    requests = [GenerationRequest(id=id, prompt=text, max_new_tokens=MAX_NEW_TOKENS) for id, text in prompts.items()]
    decoding = Decoding(temperature=TEMPERATURE, top_k=TOP_K, seed=session.seed)
    return session.completions("degeneration.written", requests, arms, decoding)


def look(record: dict[str, Any]) -> dict[str, float]:
    """All measures of one response."""
    text = record["text"]
    words = words_of(text)
    loop = longest_loop(text)
    return {
        **{f"rep_{n}": repetition(words, n) for n in (2, 3, 4)},
        **{f"distinct_{n}": distinct(words, n) for n in (1, 2)},
        "self_bleu": self_bleu(text),
        "loop_share": loop / len(text) if text else 0.0,
        "loops": loop >= max(LEAST_LOOP, LOOPS * len(text)),
        "empty": not text.strip(),
        "endless": record["finish_reason"] == "length",
        "words": len(words),
        "sentences": len(sentences_of(text)),
    }


def words_of(text: str) -> list[str]:
    """Words and signs of punctuation, in lower case."""
    return _WORD.findall(text.lower())


def sentences_of(text: str) -> list[str]:
    """Sentences and lines that have a word in them."""
    return [part for part in _SENTENCE.split(text) if _WORD.search(part)]


def repetition(words: Sequence[str], n: int) -> float:
    """Rep-n: 1 - distinct n-grams / n-grams, from 0 (none comes twice) to nearly 1; 0 for fewer than n words.

    Welleck et al., "Neural Text Generation with Unlikelihood Training", arXiv:1908.04319 (seq-rep-n).

    >>> repetition("a b a b a b".split(), 2), repetition("a".split(), 2)
    (0.6, 0.0)
    """
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(words: Sequence[str], n: int) -> float:
    """distinct-n: distinct n-grams / words; 0 for no words. Li et al., arXiv:1510.03055.

    >>> distinct("a b a b".split(), 1)
    0.5
    """
    return len({tuple(words[i : i + n]) for i in range(len(words) - n + 1)}) / len(words) if words else 0.0


def self_bleu(text: str) -> float:
    """Intra-response Self-BLEU-4: the mean BLEU-4 of each sentence against the others, 0 to 1; 0 for fewer than two.

    Zhu et al., "Texygen", arXiv:1802.01886, within one response as in arXiv:2602.01997. BLEU is sacrebleu's, with its
    exponential smoothing and effective order, so that short sentences have one too.
    """
    sentences = sentences_of(text)
    if len(sentences) < 2:
        return 0.0
    bleu = BLEU(lowercase=True, effective_order=True)
    scores = [
        bleu.sentence_score(sentence, [*sentences[:index], *sentences[index + 1 :]]).score
        for index, sentence in enumerate(sentences)
    ]
    return float(np.mean(scores)) / 100


def paper_self_bleu(text: str) -> float | None:
    """Intra-response Self-BLEU-4 as arXiv:2602.01997 computes it, 0 to 1; None where it has none.

    In small letters, sentences by NLTK's Punkt and words by NLTK; BLEU-4 of each sentence against the others with
    Chen and Cherry's first smoothing (0.1 in place of no match), without effective order. Sentences of fewer than four
    words take no part, and a response without two sentences has no score. Line breaks end no sentence. Punkt is used
    without its list of English abbreviations, which would have to be fetched: "e.g." ends a sentence here.

    >>> round(paper_self_bleu("A cat sat on a mat. A cat sat on a rug."), 3), paper_self_bleu("A cat sat on a mat.")
    (0.643, None)
    """
    from nltk.tokenize import word_tokenize
    from nltk.tokenize.punkt import PunktSentenceTokenizer
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    sentences = [word_tokenize(one, preserve_line=True) for one in PunktSentenceTokenizer().tokenize(text.lower())]
    scores = []
    for index, sentence in enumerate(sentences):
        others = [other for place, other in enumerate(sentences) if place != index and len(other) >= _PAPER_ORDER]
        if len(sentence) >= _PAPER_ORDER and others:
            scores.append(sentence_bleu(others, sentence, smoothing_function=SmoothingFunction().method1))
    return float(np.mean(scores)) if scores else None


def _paper_rows(session: DiagnosticSession, arm: str, scores: dict[str, list[float | None]]) -> list[MeasureRow]:
    """One pruned model against the original one, on the responses that have a score in both."""
    pairs = [
        (before, after)
        for before, after in zip(scores[session.uncut.name], scores[arm], strict=True)
        if before is not None and after is not None
    ]
    values = {session.uncut.name: [before for before, _ in pairs], arm: [after for _, after in pairs]}
    return rows_of(session, NAME, "Self-BLEU-4 (paper)", values, better="lower")


def longest_loop(text: str) -> int:
    """Characters of the longest stretch that is one unit, of at most 200 characters, at least three times in a row.

    Searched in characters, so that a loop inside one endless word is seen as well. White space alone is no loop.

    >>> longest_loop("so it goes and goes and goes and goes."), longest_loop("abab"), longest_loop("haaaaa")
    (32, 0, 5)
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    longest = 0
    for period in range(1, min(LONGEST_UNIT, len(codes) // FEWEST_REPEATS) + 1):
        same = np.concatenate([[False], codes[period:] == codes[:-period], [False]])
        edges = np.flatnonzero(np.diff(same.astype(np.int8)))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            length = int(end - start) + period
            if length > longest and length >= FEWEST_REPEATS * period and text[start : start + length].strip():
                longest = length
    return longest


def _counts(values: Mapping[str, Sequence[Any]], counts: Callable[[Any], bool]) -> str:
    """The number of values of each arm that count, as text."""
    return ", ".join(f"{arm} {sum(map(counts, of_arm))}" for arm, of_arm in values.items())


def _broken(found: dict[str, float]) -> bool:
    return bool(found["loops"] or found["empty"])
