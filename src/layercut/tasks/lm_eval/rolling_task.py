"""RollingTask: tasks of lm-eval that score whole documents (``loglikelihood_rolling``), such as wikitext."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.tasks.base import LOG_LIKELIHOOD, Readout, Sample, Score
from layercut.tasks.lm_eval.subject import Asked, Item, Subject, SubjectsTask

BITS = "neg_bits_per_byte"  # minus the bits that a document takes per byte, so that higher is better
_SHOWN = 200


class RollingSubject(Subject):
    """One task of lm-eval whose rows are documents."""

    def _item(self, doc: Mapping[str, Any], split: str, number: int) -> Item:
        (text,) = self.task.construct_requests(doc, "").args
        shown = str(text).strip()[:_SHOWN]
        return Item(doc, shown, Asked((str(text),)), (shown,))


class RollingTask(SubjectsTask):
    """Documents; where they come from, see SubjectsTask. A document's question and answer are its first 200 characters.

    ``gold``: the log-likelihood of the whole document after the BOS token, or the EOS token where there is no BOS. A
    document that is longer than the model's context is scored in windows, as in lm-eval. Per document
    ``log_likelihood`` (nats per token, which depends on the tokenizer) and ``neg_bits_per_byte`` (minus bits per byte,
    by lm-eval's own count of bytes, which does not). Their means weigh each document alike; lm-eval's numbers, which
    weigh words or bytes alike, are ``over_items``. No chance level.
    """

    readouts: tuple[Readout, ...] = ("gold",)

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """The document, behind nothing."""
        (text,) = sample.data["item"].asked.prompts
        return LikelihoodRequest(id=sample.id, prompt="", continuations=(text,), rolling=True)

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        """Log-likelihood per token and bits per byte."""
        assert isinstance(answer, Likelihoods)
        total = math.fsum(answer.log_likelihoods)
        metrics = {LOG_LIKELIHOOD: total / sum(answer.num_tokens)}
        if BITS in self._metrics:
            metrics[BITS] = -_over(sample, "bits_per_byte", [_parts(sample, total)["bits_per_byte"]])
        right = all(answer.is_greedy)
        return Score(metrics, sample.gold if right else "", "right" if right else "wrong")

    def over_items(
        self, samples: Sequence[Sample], readout: Readout, records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """lm-eval's own numbers over all documents, such as word perplexity; nothing for a group."""
        if len(self._subjects) > 1:
            return {}
        parts = [
            _parts(sample, math.fsum(record["log_likelihoods"]))
            for sample, record in zip(samples, records, strict=True)
        ]
        return {metric: _over(samples[0], metric, [part[metric] for part in parts]) for metric in parts[0]}

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """None: no guess has a likelihood to compare with."""
        return {}


def rolling_metrics(task: Any) -> list[str]:
    """The metrics of a document, from those of the task's file."""
    return [LOG_LIKELIHOOD, *([BITS] if "bits_per_byte" in task.aggregation() else [])]


def _parts(sample: Sample, total: float) -> Mapping[str, Any]:
    """Per metric, what lm-eval adds up over documents: the log-likelihood in nats, and words or bytes."""
    return sample.data["subject"].task.process_results(sample.data["item"].doc, (total,))  # type: ignore[no-any-return]


def _over(sample: Sample, metric: str, parts: Sequence[Any]) -> float:
    return float(sample.data["subject"].task.aggregation()[metric](parts))
