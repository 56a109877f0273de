"""Find the plan of each size, from that of the size before; all of it is measured on selection items.

Where layers alone go, three sieves choose the next one, each on what the one before lets through:

1. Trace damage of each layer alone, the divergence on the original model's right answers: a third of all layers, once
   for all sizes. Where nothing is written, block influence on right answers.
2. Trace damage under each plan; the best ``CANDIDATES``.
3. Task scores, raced. Of equals the one with the least trace damage wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from layercut.engine.base import Decoding, Engine, LikelihoodRequest
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.evidence.intervals import clusters_of
from layercut.evidence.paired import compare_paired
from layercut.progress import Progress
from layercut.pruning.budget import CANDIDATES, FEWEST_FRESH, HEALING_ITEMS
from layercut.pruning.speed import Sizes
from layercut.runs.prune import TaskKept, as_estimated
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.calibration import Calibration
from layercut.selection.channels import answers_as_texts, keep_needed_channels, rank_channels, texts_as_read
from layercut.selection.criteria import block_influence
from layercut.selection.greedy import place_of_highest
from layercut.selection.objective import TaskObjective, TaskRecords
from layercut.selection.perplexity import TextObjective
from layercut.selection.search_journal import SearchJournal
from layercut.selection.task_criteria import correct_traces, first_traces, right_answers
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import GENERATED, is_generated
from layercut.tasks.selected_items import SELECTION_ITEMS, record_items

CRITERION = "prune"  # criterion of the plans of a path
TRACES, ALONE = 16, 8
"""Right answers of each task that trace damage reads and channels are ranked on, and of each layer alone. Eight ranked
channels as well as 32 (SmolLM2, docs/experiments/width_choice.md).
"""
_TEXTS = 8  # right answers of each task that block influence reads
LAYERS = 2  # layers that are tried at each size beside thinner MLPs alone
_FEWEST = 8  # layers that the first sieve lets through at least


class PlanPath:
    """The search over one model and goal. What it measures is kept in the journal, so that nothing is asked twice."""

    def __init__(
        self,
        engine: Engine,
        parts: Sequence[ObjectiveTask],
        *,
        decoding: Decoding,
        journal: SearchJournal,
        progress: Progress,
        general: Sequence[ObjectiveTask] = (),
    ) -> None:
        """Nothing is measured yet.

        Args:
            parts: the tasks of the goal, on each of which the original model is above chance.
            general: requests outside the goal, whose answers choose channels and heal with those to the goal's tasks.
        """
        self.parts = tuple(parts)
        self._general, self._uncut = tuple(general), CutPlan(num_layers=engine.num_layers)
        self._seed, self._journal, self._progress = decoding.seed, journal, progress
        self._objective_of = partial(
            TaskObjective, decoding=decoding, normalise="chance", journal=journal, progress=progress
        )
        self.objective = self._objective_of(engine, parts)

    def plan(self, removed: Sequence[int], base: CutPlan, channels: Channels | None = None) -> CutPlan:
        """The plan that removes these layers and keeps these channels, with the items that it was chosen on."""
        scores = {SELECTION_ITEMS: record_items(self.objective.items)} if removed or channels else {}
        tasks = [part.describe() for part in self.parts]
        settings = {"objective": tasks, "seed": self._seed, "num_remove": len(removed)}
        if channels is not None and self._general:
            settings["general"] = [part.describe() for part in self._general]
        return replace(
            base, removed=tuple(removed), channels=channels, criterion=CRITERION, settings=settings, scores=scores
        )

    # Which plan is next

    def next_layer(self, removed: Sequence[int]) -> int:
        """The next layer to remove.

        Raises:
            InputError: no layer is left, or no pruned model gives finite scores.
        """
        layers = self.proposed(removed, CANDIDATES)[::-1]
        return layers[self._best_by_score([self._cut(removed, layer) for layer in layers])]

    def best(self, plans: Sequence[CutPlan]) -> int:
        """The place of the plan that damages right answers least; where nothing is written, of the best score."""
        if not self.traces:
            return self._best_by_score(plans)
        negative = self._damage(plans, TRACES)
        return max(range(len(plans)), key=lambda place: (negative[place], -place))

    def _best_by_score(self, plans: Sequence[CutPlan]) -> int:
        candidates = self.objective.round(plans).candidates
        values = [float("-inf") if plan.value is None else plan.value for plan in candidates]
        best = place_of_highest(values)
        if values[best] == float("-inf"):
            raise InputError("no pruned model has a finite score; load the model with another `dtype`.")
        return best

    def proposed(self, removed: Sequence[int], most: int) -> list[int]:
        """Layers that may go next, the best one first."""
        left = [layer for layer in self._alone if layer not in removed]
        left = left[: max(_FEWEST, len(self._alone) // 3)]
        if not left:
            raise InputError(f"no layer can be removed beside {sorted(removed)}; ask for less.")
        if removed and self.traces and len(left) > most:
            left = self._by_damage(removed, left, TRACES)
        return left[:most]

    @cached_property
    def _alone(self) -> list[int]:
        """Layers that may go, by what the model loses without each of them alone, the least first."""
        context = Context(
            num_layers=self._uncut.num_layers,
            num_remove=1,
            engine=self.objective.engine,
            calibration=Calibration(texts=self.read_texts(), num_tokens=0, source="selection items", content_hash=""),
            progress=self._progress,
        ).with_first_protected()
        if self.traces:
            return self._by_damage((), context.candidates, ALONE)
        influence = block_influence(context).importance
        return sorted(influence, key=lambda layer: (influence[layer], -layer))

    def _by_damage(self, removed: Sequence[int], layers: Sequence[int], num_traces: int) -> list[int]:
        """The layers by trace damage beside what is removed, the least first; of equals the later one."""
        values = self._damage([self._cut(removed, layer) for layer in layers], num_traces)
        negative = dict(zip(layers, values, strict=True))
        return sorted(layers, key=lambda layer: (-negative[layer], -layer))

    def _damage(self, plans: Sequence[CutPlan], num_traces: int) -> list[float]:
        """The negative divergence of each plan on right answers."""
        requests = first_traces(self.traces, num_traces)
        objective = TextObjective(
            self.objective.engine, requests, name="traces", measure="kl", journal=self._journal, progress=self._progress
        )
        return objective.values(plans)

    def _cut(self, removed: Sequence[int], layer: int) -> CutPlan:
        return CutPlan(num_layers=self._uncut.num_layers, removed=(*removed, layer))

    # What a model keeps

    def kept(self, plan: CutPlan, seed: int, healed: Engine | None = None) -> tuple[TaskKept, ...]:
        """The retained score of each task on selection items, of a plan or of a healed model."""
        answers = self.objective.known
        if healed is not None:
            plan, answers = CutPlan(num_layers=healed.num_layers), self._objective_of(healed, self.parts).known
        answers.complete(range(len(self.parts)), [plan], whole=False, progress=self._progress)
        kept = []
        for place, (part, score) in enumerate(zip(self.parts, self.objective.uncut, strict=True)):
            records = (
                self.objective.known.part(place, self._uncut, whole=True).records,
                answers.part(place, plan).records,
            )
            before, after = ([float(record["metrics"][score.metric]) for record in of_model] for of_model in records)
            pairs = compare_paired(before, after, chance=score.chance, seed=seed, clusters=clusters_of(records[0]))
            share = pairs.retention if score.chance is None else pairs.retention_above_chance
            kept.append(
                TaskKept(
                    task=part.task.name,
                    readout=part.readout,
                    uncut=as_estimated(pairs.uncut),
                    cut=as_estimated(pairs.cut),
                    kept=None if share is None else as_estimated(share),
                    correlation=correlation_of(before, after),
                )
            )
        return tuple(kept)

    # What the original model answers

    def healing_answers(self) -> list[TaskRecords]:
        """The original model's whole answers to further selection items, which no plan is judged on.

        Of a task with fewer than ``FEWEST_FRESH`` further ones, its answers to the items that plans are judged on: a
        healed model then looks better on them than it is, which report items are not affected by.
        """
        fresh = []
        for part, judged in zip(self.parts, self.objective.samples, strict=True):
            more = part.task.samples("selection", 2 * len(judged))[len(judged) :]
            fresh.append((more if len(more) >= FEWEST_FRESH else judged)[:HEALING_ITEMS])
        return self.objective.answers(self._uncut, samples=fresh)

    @cached_property
    def general(self) -> list[TaskRecords]:
        """The original model's answers to requests outside the goal; empty where the goal alone counts."""
        if not self._general:
            return []
        return self._objective_of(self.objective.engine, self._general).answers(self._uncut, GENERATED)

    @cached_property
    def traces(self) -> dict[str, list[LikelihoodRequest]]:
        """By task, the original model's right answers; empty where no task is written."""
        if not any(is_generated(part.readout) for part in self.parts):
            return {}
        return correct_traces(self.objective).by_task

    def read_texts(self) -> tuple[str, ...]:
        """Questions with their right answers, of tasks that are ranked."""
        return tuple(
            f"{sample.question} {sample.gold}" for samples in self.objective.samples for sample in samples[:_TEXTS]
        )


class SizePath:
    """Finds the plan of each size, from that of the size before."""

    def __init__(self, model: ModelHandle, sizes: Sizes, *, layers: bool) -> None:
        """Nothing is measured yet. Without ``layers`` MLPs alone become thinner."""
        self._model, self._layers, self.sizes = model, layers, sizes
        self._ranked: dict[tuple[int, ...], dict[int, tuple[int, ...]]] = {}

    def next_plan(self, path: PlanPath, removed: tuple[int, ...], smaller: float) -> CutPlan:
        """The plan that is smaller by this share and removes these layers at least.

        Args:
            path: the measurements, over the model in memory.

        Raises:
            InputError: no plan is as small.
        """
        if self.sizes.mlp is None:
            while len(removed) < self.sizes.count_layers(smaller):
                removed = (*removed, path.next_layer(removed))
            return CutPlan(num_layers=self._model.num_layers, removed=removed)
        tried = [removed]
        if self._layers:
            tried += [(*removed, layer) for layer in path.proposed(removed, LAYERS)]
        shares = {layers: self.sizes.share(layers, smaller) for layers in tried}
        plans = [self._plan(path, layers, share) for layers, share in shares.items() if share is not None]
        if not plans:
            raise InputError(f"no plan of this model is {smaller:.0%} smaller; ask for less.")
        return plans[0] if len(plans) == 1 else plans[path.best(plans)]

    def _plan(self, path: PlanPath, removed: tuple[int, ...], share: float) -> CutPlan:
        if removed not in self._ranked:
            loaded = self._model.loaded
            texts = {
                name: answers_as_texts(loaded, requests[:TRACES]) for name, requests in path.traces.items() if requests
            }
            read = texts or {"selection items": texts_as_read(loaded, path.read_texts())}
            if path.general:  # as one more task
                general = {answered.task.task.name: right_answers(answered) for answered in path.general}
                read["general requests"] = answers_as_texts(loaded, first_traces(general, TRACES))
            self._ranked[removed] = rank_channels(loaded, removed, read)
        assert self.sizes.mlp is not None, "layers alone are removed"
        channels = keep_needed_channels(self.sizes.mlp, self._ranked[removed], share)
        return CutPlan(num_layers=self._model.num_layers, removed=removed, channels=channels)


def correlation_of(before: Sequence[float], after: Sequence[float]) -> float:
    """Pearson's, with half an item added to each of the four outcomes, as the paired intervals have it."""
    pairs = np.array([[*before, 1.0, 1.0, 0.0, 0.0], [*after, 1.0, 0.0, 1.0, 0.0]])
    return float(np.corrcoef(np.repeat(pairs, [2] * len(before) + [1] * 4, axis=1))[0, 1])
