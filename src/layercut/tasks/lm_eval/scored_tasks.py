"""Tasks of lm-eval that are scored by likelihood: ChoiceTask (multiple choice, with four more readouts) and RollingTask
(whole documents, ``loglikelihood_rolling``, such as wikitext)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods, Message
from layercut.tasks import grading
from layercut.tasks.base import GENERATED, LOG_LIKELIHOOD, Readout, Sample, Score
from layercut.tasks.lm_eval.subject import Asked, Item, Subject, SubjectsTask, options_and_gold

_WISHES = {"short": (grading.SHORT, 16), "chain": (grading.CHAIN, 512)}  # what is asked for, and the longest answer
BITS = "neg_bits_per_byte"  # minus the bits that a document takes per byte, so that higher is better
_SHOWN = 200  # characters of a document that stand for its question and answer
_FINDERS = {"short": grading.read_short_text, "chain": grading.read_chain_text}


class ChoiceSubject(Subject):
    """A multiple-choice or log-likelihood task: continuations to be scored."""

    def parts(self, doc: Mapping[str, Any]) -> tuple[str, tuple[str, ...], str]:
        """Question, options and right option of a row as people would write them.

        Without the description of the subject and the mark where the answer stands; of Winogrande, the sentence with
        its gap and what may fill it.
        """
        options, gold = options_and_gold(self.task, doc, lambda: self.name)
        if not self.task.multiple_input:
            question = self.task.doc_to_text(doc)
            return str(question).rstrip().removesuffix("Answer:").rstrip(), options, gold
        length = next((i for i, letters in enumerate(zip(*options, strict=False)) if len(set(letters)) > 1), 0)
        same = options[0][: options[0].rfind(" ", 0, length) + 1]
        fillings = tuple(option[len(same) :] for option in options)
        return f"{same}_ {self.task.doc_to_target(doc)}", fillings, fillings[options.index(gold)]

    def listed(self, doc: Mapping[str, Any]) -> str:
        """The question with its options, which some (MMLU's) list already."""
        question, options, _ = self.parts(doc)
        return (
            question
            if "".join(options) == grading.LETTERS[: len(options)]
            else f"{question}\n{grading.lettered_options(options)}"
        )

    def _item(self, doc: Mapping[str, Any], split: str, number: int) -> Item:
        options, gold = options_and_gold(self.task, doc, lambda: self._where(split, number))
        request = self._asked(doc, (), chat=False)
        examples = self._draw(doc, split)
        for example in examples:
            options_and_gold(self.task, example, lambda: f"a worked example of {self.name}")
        question = self.parts(doc)[0] if self.task.multiple_input else str(request.prompts[0])
        return Item(doc, question, request, (gold,), options, examples)

    def _asked(self, doc: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], *, chat: bool) -> Asked:
        context = self._context(doc, examples, chat=chat)
        requests = self.task.construct_requests(doc, context, apply_chat_template=chat)
        pairs = [request.args for request in (requests if isinstance(requests, list) else [requests])]
        return Asked(tuple(prompt for prompt, _ in pairs), tuple(str(text) for _, text in pairs))


class ChoiceTask(SubjectsTask):
    """Multiple-choice and log-likelihood items.

    ``rank``: the metrics of the task's own file that are numbers per item, mostly ``acc`` (the most likely choice) and
    ``acc_norm`` (the likelihood divided by the choice's length in characters); of a log-likelihood task (LAMBADA),
    whether the right continuation is the likeliest token by token.
    ``gold``: log-likelihood of the right option per token, in nats. No accuracy; it has no chance level.
    ``token``: the options are listed with letters, in the worked examples too, and the likeliest letter is the answer.
    ``short`` and ``chain``: the same list in the model's chat format, without worked examples; see
    ``grading.read_short_text`` and ``grading.read_chain_text`` for what counts. A question that lists lettered options
    already (MMLU) is shown unchanged.
    """

    readouts: tuple[Readout, ...] = ("rank",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._has_options = self._subjects[0].task.OUTPUT_TYPE == "multiple_choice"
        self._requests: dict[tuple[str, Readout], GenerationRequest | LikelihoodRequest] = {}

    @property
    def extra_readouts(self) -> tuple[Readout, ...]:
        return ("gold", "token", *GENERATED) if self._has_options else ("gold",)

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """lm-eval's contexts and continuations for ``rank`` and ``gold``, lettered options for the others."""
        key = (sample.id, readout)
        if key not in self._requests:  # kept, because lm-eval's templates take milliseconds an item
            self._requests[key] = self._request(sample, readout)
        return self._requests[key]

    def _request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        subject, item = sample.data["subject"], sample.data["item"]
        if readout in ("rank", "gold"):
            prompts, texts = subject.asked(item)
            if readout == "gold":
                right = item.options.index(item.gold) if item.options else 0
                prompts, texts = prompts[right : right + 1], texts[right : right + 1]
            own = () if len(set(prompts)) == 1 else prompts
            return LikelihoodRequest(id=sample.id, prompt=prompts[0], continuations=texts, prompts=own)
        if readout == "token":
            shown = [(doc, *subject.parts(doc)[1:]) for doc in item.examples]  # row, options, right option
            examples = [
                f"{subject.listed(doc)}\nAnswer: {grading.LETTERS[options.index(gold)]}\n\n"
                for doc, options, gold in shown
            ]
            return LikelihoodRequest(
                id=sample.id,
                prompt=f"{''.join(examples)}{subject.listed(item.doc)}\nAnswer:",
                continuations=tuple(f" {letter}" for letter in grading.LETTERS[: len(item.options)]),
            )
        wish, longest = _WISHES[readout]
        return GenerationRequest(
            id=sample.id,
            prompt=(Message("user", f"{subject.listed(item.doc)}\n\n{wish}"),),
            max_new_tokens=self._max_new_tokens or longest,
        )

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        """lm-eval's metrics for ``rank``, the headline the first of its task file; else see the class."""
        subject, doc = sample.data["subject"], sample.data["item"].doc
        if isinstance(answer, Completion):
            return grading.grade_option(sample, _FINDERS[readout](answer.text, subject.parts(doc)[1]), answer)
        if readout in ("gold", "token"):
            return grading.grade_gold(sample, answer) if readout == "gold" else grading.grade_rank(sample, answer)
        best = answer.log_likelihoods.index(max(answer.log_likelihoods[: len(sample.options) or None]))
        choice = sample.options[best] if sample.options else (sample.gold if answer.is_greedy[0] else "")
        results = list(zip(answer.log_likelihoods, answer.is_greedy, strict=True))
        metrics = subject.task.process_results(doc, results)
        own = {name: float(metrics[name]) for name in self._metrics}
        return Score(own, choice, "right" if own[self._metrics[0]] else "wrong")

    def draft(self, sample: Sample, readout: Readout) -> str:
        """The letter, for short answers."""
        return grading.LETTERS[sample.gold_index] if readout == "short" else ""

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """1 / number of choices, averaged over the items; where letters are chosen, at least the share of the most
        common right letter. None for ``gold``."""
        if readout == "gold":
            return {}
        if not self._has_options or readout == "rank":
            return grading.guessing_chance(samples, "rank" if self._has_options else "short", self._metrics)
        return grading.letter_chance(samples)


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
