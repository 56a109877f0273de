"""XSum: one-sentence summaries of news articles, graded by ROUGE with stemming.

Narayan et al., "Don't Give Me the Details, Just the Summary!", arXiv:1808.08745; data set ``EdinburghNLP/xsum``. ROUGE
by Google's ``rouge-score``: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.

A sample problem: an article that begins "The ex-Reading defender denied fraudulent trading charges relating to the
Sodje Sports Foundation" with the gold summary "Former Premier League footballer Sam Sodje has appeared in court
alongside three brothers accused of charity fraud."
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from layercut.engine.base import Completion, GenerationRequest, Likelihoods, Message
from layercut.tasks.base import Readout, Sample, Score, content_id
from layercut.tasks.data_files import DataRow, text_field
from layercut.tasks.grading import outcome_of
from layercut.tasks.selected_items import RowsTask

VERSION = 1  # raised by any change of the prompt or the grading
METRICS = ("rougeL", "rouge1", "rouge2")

_WISH = "Write a concise one-sentence summary of this article, and nothing else."
_SENTENCE = re.compile(r".+?[.!?](?=\s|$)|.+", re.DOTALL)


def _sample(row: DataRow) -> Sample:
    document, summary = text_field(row, "document"), text_field(row, "summary")
    return Sample(id=content_id("xsum", document, summary), question=document, gold=summary)


@dataclass(frozen=True, kw_only=True)
class XSum(RowsTask):
    """XSum read out as a short free answer.

    Selection items come from ``validation`` and report items from ``test``; a single local file is halved.

    Metrics: F1 of ROUGE-L (the headline), ROUGE-1 and ROUGE-2 against the gold summary, from 0 to 1, with Porter
    stemming. Case and all but letters and digits do not count. The whole completion is graded, so that what a model
    adds to its sentence costs precision.

    The class of an answer: ``right`` where its ROUGE-L is at least that of the article's own first sentence, which
    needs no model; ``no_answer`` where nothing is written. No early verdict: every further word moves the score.
    """

    hub_splits = ("validation", "test")
    selection = ("validation", "train")
    chance_items = 1000  # chance is computed on at most this many items of a split: a ROUGE takes a millisecond

    name: str = "xsum"
    version: int = VERSION
    dataset: str = "EdinburghNLP/xsum"
    sample: Callable[[DataRow], Sample] = _sample
    max_new_tokens: int = 64  # longest summary
    readouts: tuple[Readout, ...] = ("short",)

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest:
        """One user turn: the article and what is wanted."""
        prompt = (Message("user", f"{sample.question}\n\n{_WISH}"),)
        return GenerationRequest(id=sample.id, prompt=prompt, max_new_tokens=self.max_new_tokens)

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        assert isinstance(answer, Completion)
        summary = answer.text.strip()
        scores = rouge_scores(summary, sample.gold)
        right = (
            bool(summary) and scores["rougeL"] >= rouge_scores(lead_sentence(sample.question), sample.gold)["rougeL"]
        )
        return Score(scores, summary, outcome_of(right=right, answer=summary, finish_reason=answer.finish_reason))

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """Mean ROUGE of the article's first sentence, which needs no model."""
        scores = [rouge_scores(lead_sentence(sample.question), sample.gold) for sample in samples]
        return {metric: sum(score[metric] for score in scores) / len(scores) for metric in METRICS}


def rouge_scores(summary: str, gold: str) -> dict[str, float]:
    """F1 of ROUGE-L, ROUGE-1 and ROUGE-2, from 0 to 1."""
    scores = _scorer().score(gold, summary)
    return {metric: float(scores[metric].fmeasure) for metric in METRICS}


def lead_sentence(article: str) -> str:
    """The first sentence: up to the first full stop, question or exclamation mark with white space behind it."""
    match = _SENTENCE.match(article.lstrip())
    return match[0].strip() if match else ""


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(METRICS), use_stemmer=True)
