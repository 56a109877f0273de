"""Perplexity: remove first the layers whose removal raises the loss on text least; and searches by a loss on text."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

from layercut.engine.base import Engine, LikelihoodRequest, Wanted
from layercut.errors import InputError
from layercut.progress import Progress, show_nothing
from layercut.runs.settings import settings_hash
from layercut.selection import CRITERIA
from layercut.selection.base import Context, Objective, Selection, by_importance, chosen_settings, engine_and_text
from layercut.selection.greedy import as_json, remove_greedily
from layercut.selection.search_journal import JournalQuestion, SearchJournal
from layercut.surgery.plan import CutPlan

Measure = Literal["nll", "kl"]
_VERSIONS = {"nll": 1, "divergence": 2}
"""Versions of the readouts, raised by any change that can alter a record's numbers."""


class TextObjective(Objective):
    """Minus a plan's mean per token, in nats: ``nll`` of the plan, or ``kl`` from the original, which gives both."""

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[LikelihoodRequest],
        *,
        name: str,
        measure: Measure,
        journal: SearchJournal | None = None,
        progress: Progress = show_nothing,
    ) -> None:
        """``requests`` are texts, each with one continuation, which alone is measured; ``name`` is the journal's."""
        self._engine, self._requests = engine, list(requests)
        self._measure, self._name = measure, name
        self._journal, self._progress = journal or SearchJournal(), progress
        self._ids = [request.id for request in requests]
        self._uncut = CutPlan(num_layers=engine.num_layers)
        content = [(request.prompt, request.continuations) for request in requests]
        self._texts_hash = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        readout = "nll" if measure == "nll" else "divergence"
        self._question = JournalQuestion(
            task=name,
            readout=readout,
            model_hash=engine.describe()["model_hash"],
            version=_VERSIONS[readout],
            settings_hash=settings_hash({"texts": self._texts_hash}),  # all of them: they decide who shares a batch
            decoding=None,
        )

    def describe(self) -> Mapping[str, Any]:
        return {
            "texts": self._name,
            "measure": self._measure,
            "num_texts": len(self._requests),
            "texts_hash": self._texts_hash,
        }

    def values(self, plans: Sequence[CutPlan]) -> list[float]:
        """Higher is better. Minus infinity where a token of the text has probability 0."""
        return [-self._means(records)[self._measure] for records in self.records(plans)]

    def means(self, plan: CutPlan) -> dict[str, float]:
        """The measures of the same run, per token; ``nll`` comes with ``kl``."""
        (records,) = self.records([plan])
        return self._means(records)

    def num_tokens(self) -> int:
        (records,) = self.records([self._uncut])
        return sum(record["num_tokens"] for record in records)

    def _means(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        num_tokens = sum(record["num_tokens"] for record in records)
        # Exactly rounded, so that the order of the batches does not matter; None stands for infinity.
        return {
            measure: math.fsum(math.inf if record[measure] is None else record[measure] for record in records)
            / num_tokens
            for measure in get_args(Measure)
            if measure in records[0]
        }

    def records(self, plans: Sequence[CutPlan]) -> list[list[dict[str, Any]]]:
        """For each plan a record per text, from the journal or the engine: sums over tokens, with ``num_tokens``."""
        parts = {plan.key: self._journal.part(self._question, plan, self._ids) for plan in plans}
        known = {key: {record["id"] for record in part.records} for key, part in parts.items()}
        total = len(parts) * len(self._ids)
        self._progress(self._name, sum(map(len, known.values())), total)
        if not all(part.is_complete for part in parts.values()):
            for plan, fresh in self._ask(plans, lambda plan, text: text not in known[plan.key]):
                parts[plan.key].append(fresh)
                known[plan.key].update(record["id"] for record in fresh)
                self._progress(self._name, sum(map(len, known.values())), total)
        assert all(part.is_complete for part in parts.values()), f"the engine left texts of {self._name} out"
        return [parts[plan.key].records for plan in plans]

    def _ask(self, plans: Sequence[CutPlan], wanted: Wanted) -> Iterator[tuple[CutPlan, list[dict[str, Any]]]]:
        # The engine gets all texts and plans, the known ones too, so that its batches equal those of an uninterrupted
        # search.
        if self._measure == "nll":
            for plan, scored in self._engine.ask(self._requests, plans, wanted=wanted):
                yield plan, [_record(text.id, text.num_tokens[0], nll=-text.log_likelihoods[0]) for text in scored]
            return
        for plan, compared in self._engine.compare(self._requests, plans, self._uncut, wanted):
            yield plan, [_record(text.id, text.num_tokens, nll=text.nll, kl=text.kl) for text in compared]


def select_by_text(context: Context, objective: TextObjective, search: str) -> Selection:
    """Choose layers by an objective on text: ``one_shot``, by the rise without each alone, or ``greedy``."""
    if search == "greedy":
        selection = remove_greedily(context, objective)
    else:
        uncut = CutPlan(num_layers=context.num_layers)
        alone = {layer: CutPlan(num_layers=context.num_layers, removed=(layer,)) for layer in context.candidates}
        value, *values = objective.values([uncut, *alone.values()])
        importance = {layer: value - without for layer, without in zip(alone, values, strict=True)}
        for layer, rise in importance.items():
            if not math.isfinite(rise):
                raise InputError(
                    f"without layer {layer} the loss is infinite; protect the layer, or load another dtype."
                )
        without = {str(layer): finite_or_none(objective.means(plan)) for layer, plan in alone.items()}
        selection = by_importance(
            context, importance, {"uncut": finite_or_none(objective.means(uncut)), "without": without}
        )
    about = {"objective": dict(objective.describe()), "num_tokens": objective.num_tokens()}
    return selection._replace(details={**about, **selection.details})


def finite_or_none(values: Mapping[str, float]) -> dict[str, float | None]:
    """As JSON holds them, which has no NaN."""
    return {name: as_json(value) for name, value in values.items()}


def _record(text: str, num_tokens: int, **sums: float) -> dict[str, Any]:
    return {"id": text, "num_tokens": num_tokens, **finite_or_none(sums)}


def choose_by_loss(context: Context) -> Selection:
    """Choose decoder layers by the loss on calibration text.

    Perplexity is exp of the mean of -ln p(token) over all tokens of the text, each text on its own and from its first
    token on, after the BOS token (or the EOS token where there is none). Song et al., "SLEB", arXiv:2402.09025, removes
    greedily; Kim et al., "Shortened LLaMA", arXiv:2402.02834, ranks once. SLEB's code keeps the first and the last
    layer (``--protect first:1,last:1``); here all are candidates.

    Settings:
        search: ``greedy`` (default, SLEB's) removes the layer whose absence hurts least and repeats, N * C - N * (N -
            1) / 2 runs over the text for N of C candidates. ``one_shot`` skips each layer alone and removes those of
            the least rise, C runs.

    Every text is measured once per plan and kept in the run folder's journal.

    Details: those of ``select_by_text``; ``search``, ``perplexity`` and ``uncut_perplexity``, and ``calibration`` with
    ``source``, ``content_hash``, ``num_texts`` and ``num_tokens``.

    Raises:
        InputError: an unknown setting or value, no engine or no text, or losses that are not numbers.
    """
    chosen = chosen_settings("perplexity", context.settings, search=CRITERIA["perplexity"].searches)
    engine, calibration = engine_and_text(context, "perplexity")
    texts = calibration.texts
    requests = [LikelihoodRequest(id=str(i), prompt="", continuations=(text,)) for i, text in enumerate(texts)]
    source = {**asdict(calibration), "num_texts": len(texts)}
    del source["texts"]
    with SearchJournal(context.folder) as journal:
        objective = TextObjective(
            engine, requests, name="calibration", measure="nll", journal=journal, progress=context.progress
        )
        selection = select_by_text(context, objective, chosen["search"])
        details = {**chosen, "calibration": source, **selection.details}
        plans = [CutPlan(num_layers=context.num_layers, removed=removed) for removed in ((), selection.removed)]
        for name, value in zip(("uncut_perplexity", "perplexity"), objective.values(plans), strict=True):
            details[name] = math.exp(-value) if -value < 700 else None  # None: too large for a float
    return selection._replace(details=details)
