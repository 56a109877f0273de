"""ChoiceTask: multiple-choice items of one or more subjects, with five readouts.

``rank`` is lm-eval's own score. The others ask the same items: ``gold`` scores the right option alone, ``token`` lists
the options with letters and compares the letters, ``short`` and ``chain`` let a chat model write the letter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods, Message
from layercut.tasks import lettered
from layercut.tasks.base import GENERATED, Readout, Sample, Score
from layercut.tasks.grading import grade_gold, grade_rank, grade_text, guessing
from layercut.tasks.lm_eval.subject import ChoiceSubject
from layercut.tasks.lm_eval.subjects_task import SubjectsTask

VERSION = 1  # raised by any change here that can move scores. lm-eval's own versions stand in the settings.
SHORT_TOKENS = 16
CHAIN_TOKENS = 512


class ChoiceTask(SubjectsTask[ChoiceSubject]):
    """Multiple-choice and log-likelihood items; where they come from, see SubjectsTask.

    ``rank``: the metrics of the task's own file that are numbers per item, mostly ``acc`` (the most likely choice) and
    ``acc_norm`` (the likelihood divided by the choice's length in characters); of a log-likelihood task (LAMBADA),
    whether the right continuation is the likeliest token by token.
    ``gold``: log-likelihood of the right option per token, in nats. No accuracy; it has no chance level.
    ``token``: the options are listed with letters, in the worked examples too, and the likeliest letter is the answer.
    ``short`` and ``chain``: the same list in the model's chat format, without worked examples; see
    ``lettered.find_short`` and ``lettered.find_chain`` for what counts. Where the question lists lettered options
    already (MMLU), it is shown unchanged.
    """

    version = VERSION
    readouts: tuple[Readout, ...] = ("rank",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._has_options = self._subjects[0].task.OUTPUT_TYPE == "multiple_choice"
        self._requests: dict[tuple[str, Readout], GenerationRequest | LikelihoodRequest] = {}

    @property
    def extra_readouts(self) -> tuple[Readout, ...]:
        """Readouts that are asked only by name."""
        return ("gold", "token", *GENERATED) if self._has_options else ("gold",)

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """lm-eval's contexts and continuations for ``rank`` and ``gold``, lettered options for the others."""
        key = (sample.id, readout)
        if key not in self._requests:
            self._requests[key] = self._request(sample, readout)
        return self._requests[key]

    def _request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        subject, item = sample.data["subject"], sample.data["item"]
        if readout in ("rank", "gold"):
            asked = subject.asked(item)
            prompts, texts = asked.prompts, asked.continuations
            if readout == "gold":
                right = item.options.index(item.gold) if item.options else 0
                prompts, texts = prompts[right : right + 1], texts[right : right + 1]
            one = len(set(prompts)) == 1
            return LikelihoodRequest(
                id=sample.id, prompt=prompts[0], continuations=texts, prompts=() if one else prompts
            )
        if readout == "token":
            examples = "".join(f"{_listed(subject, doc)} {_letter(subject, doc)}\n\n" for doc in item.examples)
            return LikelihoodRequest(
                id=sample.id,
                prompt=examples + _listed(subject, item.doc),
                continuations=tuple(f" {letter}" for letter in lettered.letters(item.options)),
            )
        wish = lettered.SHORT if readout == "short" else lettered.CHAIN
        usual = SHORT_TOKENS if readout == "short" else CHAIN_TOKENS
        return GenerationRequest(
            id=sample.id,
            prompt=(Message("user", f"{_with_options(subject, item.doc)}\n\n{wish}"),),
            max_new_tokens=self._max_new_tokens or usual,
        )

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        """lm-eval's metrics for ``rank``, the headline the first of its task file; else see the class."""
        if isinstance(answer, Completion):
            options = sample.data["subject"].parts(sample.data["item"].doc)[1]
            found = lettered.find_short(answer.text, options) if readout == "short" else None
            found = lettered.find_chain(answer.text, options) if readout == "chain" else found
            named = sample.options[lettered.LETTERS.index(found.letter)] if found else ""
            return grade_text(named, bool(named) and named == sample.gold, answer)
        if readout in ("gold", "token"):
            return grade_gold(sample, answer) if readout == "gold" else grade_rank(sample, answer)
        best = answer.log_likelihoods.index(max(answer.log_likelihoods[: len(sample.options) or None]))
        choice = sample.options[best] if sample.options else (sample.gold if answer.is_greedy[0] else "")
        results = list(zip(answer.log_likelihoods, answer.is_greedy, strict=True))
        metrics = sample.data["subject"].task.process_results(sample.data["item"].doc, results)
        headline = {name: float(metrics[name]) for name in self._metrics}
        return Score(headline, choice, "right" if headline[self._metrics[0]] else "wrong")

    def draft(self, sample: Sample, readout: Readout) -> str:
        """The letter, for short answers."""
        return lettered.LETTERS[sample.gold_index] if readout == "short" else ""

    def answer_start(self, sample: Sample, readout: Readout, text: str) -> int | None:
        """Characters before the letter or the words that answer; None where there is no answer."""
        find = lettered.find_short if readout == "short" else lettered.find_chain
        found = find(text, sample.data["subject"].parts(sample.data["item"].doc)[1])
        return None if found is None else found.start

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """1 / number of choices, averaged over the items; where letters are chosen, at least the share of the most
        common right letter. None for ``gold``."""
        if readout == "gold":
            return {}
        if not self._has_options:
            return guessing(samples, "short", self._metrics)
        if readout == "rank":
            return guessing(samples, readout, self._metrics)
        share = Counter(sample.gold_index for sample in samples).most_common(1)[0][1] / len(samples)
        return {"accuracy": max(share, guessing(samples, "rank", ["accuracy"])["accuracy"])}


def _with_options(subject: ChoiceSubject, doc: Mapping[str, Any]) -> str:
    question, options, _ = subject.parts(doc)
    return question if lettered.are_letters(options) else f"{question}\n{lettered.lettered(options)}"


def _listed(subject: ChoiceSubject, doc: Mapping[str, Any]) -> str:
    return f"{_with_options(subject, doc)}\nAnswer:"


def _letter(subject: ChoiceSubject, doc: Mapping[str, Any]) -> str:
    _, options, gold = subject.parts(doc)
    return lettered.LETTERS[options.index(gold)]
