"""Search of the plan that makes the fastest draft, on answers of the original model that plans read.

How fast a draft would be is forecast: rounds follow exactly from an answer's tokens, seconds from measured steps. Three
paths, by the forecast on the same answers: thinner MLPs, in steps; layers, one after the other; and from the best
of both, neighbours with a layer or some channels more or less, until none is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from pydantic import BaseModel

from layercut.engine.base import LikelihoodRequest
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.pruning.speed import TimeParts
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.channels import keep_needed_channels, rank_channels
from layercut.selection.written_answers import AnswerWriter, WrittenAnswer
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import check_plan_on_model
from layercut.surgery.width import MlpWidth, mlp_width_in

ASKED = 32  # selection items of each task that the original model answers
SEARCHED, FIRST, TOKENS = 1024, 256, 128
"""Tokens of each task that the search reads, and of each layer alone; and of each answer at most."""
RANKED = 16  # answers of each task by which channels are ranked
WIDTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # shares of the MLP channels that plans without them alone remove
STEP = 0.1
TRIED = 3  # layers that each round tries to remove
WORSE = 4  # rounds of the path of layers that may be slower than the fastest plan so far, of any kind
DEEPEST = 0.75
ROUNDS = 12  # rounds among neighbours at most


class TriedDraft(NamedTuple):
    """A plan as a draft, with its best window on the answers that chose it."""

    plan: CutPlan
    share: float = 0.0  # of the MLP channels, that the plan was to remove
    window: int = 0
    speedup: float = 0.0  # forecast on those answers
    agrees: float = 0.0  # share of their tokens at which its likeliest token is the same

    @property
    def stays(self) -> tuple[float, float]:
        """Shares that the plan leaves, of the layers and of the MLP channels in them."""
        return len(self.plan.kept) / self.plan.num_layers, 1 - self.mlp

    @property
    def mlp(self) -> float:
        """Share of the MLP channels that the plan removes."""
        return self.plan.channels.share if self.plan.channels else 0.0


Wanted = tuple[tuple[int, ...], float]  # layers and share of the MLP channels to remove
Attempt = Callable[..., list[TriedDraft]]


class StepTimes(BaseModel, frozen=True, extra="forbid"):
    """Measured seconds of the steps of one model and of its plans, which have layers as a share of all."""

    prompt: int  # tokens of the prompt that was read
    check: tuple[float, ...]  # of a step of the original model over 1, 2, 3 ... tokens
    step: TimeParts  # of a step over one token, by what a plan leaves
    read: TimeParts  # to read the prompt, by what a plan leaves


def find_rounds(agrees: Sequence[bool], window: int, limit: int) -> list[int]:
    """The rounds that write an answer, as transformers' assisted generation runs them: the tokens that each proposes.

    A round is a pass of the original model, which writes one token more than it accepts; the last one of ``limit``
    tokens is always its own.
    """
    rounds = []
    place, end = 0, len(agrees)
    while place < end:
        most = min(window, max(limit - place - 1, 0))
        accepted = 0
        while accepted < most and place + accepted < end and agrees[place + accepted]:
            accepted += 1
        has_ended = accepted > 0 and place + accepted == end and end < limit
        rounds.append(accepted if has_ended else most)
        place += accepted + 1
    return rounds


def forecast_seconds(answer: WrittenAnswer, draft: TriedDraft, window: int, times: StepTimes) -> tuple[float, float]:
    """Seconds of one answer without a draft and with it."""
    rounds = find_rounds(answer.agrees, window, answer.limit)
    share = len(answer.prompt) / times.prompt
    # Reading the prompt gives the first token, of the draft as well. The first round is checked in the same pass.
    read, draft_read = times.read.seconds(1), times.read.seconds(*draft.stays)
    drafted = share * (read + draft_read) + max(sum(rounds) - 1, 0) * times.step.seconds(*draft.stays)
    drafted += sum(times.check[proposed] for proposed in rounds) - times.check[rounds[0]]
    return share * read + (len(answer.agrees) - 1) * times.check[0], drafted


def best_window(answers: Sequence[WrittenAnswer], draft: TriedDraft, most: int, times: StepTimes) -> tuple[int, float]:
    """The window from 1 to ``most`` with the highest speed-up of all answers, and that; of equals the shorter one."""
    speedups = {}
    for window in range(1, most + 1):
        plain, drafted = zip(*(forecast_seconds(answer, draft, window, times) for answer in answers), strict=True)
        speedups[window] = sum(plain) / sum(drafted)
    return max(speedups.items(), key=lambda item: (item[1], -item[0]))


class AnswerReader(AnswerWriter):
    """A model that also reads answers under plans."""

    def read(self, plans: Sequence[CutPlan], answers: Sequence[WrittenAnswer]) -> list[list[WrittenAnswer]]:
        """For each plan the answers, with the tokens at which it agrees."""
        requests = [
            LikelihoodRequest(
                # The name has the length of the answer, as its beginning may have been read alone.
                id=f"{answer.id}.{len(answer.tokens)}",
                prompt="",
                continuations=("",),
                tokens=(answer.prompt, answer.tokens),
            )
            for answer in answers
        ]
        by_plan = self._ask(
            "answers read",
            ("plans", "agreement"),
            requests,
            plans,
            lambda reply: {"agrees": "".join("01"[hit] for hit in reply.hits[0])},
        )
        return [
            [
                answer._replace(agrees=[bit == "1" for bit in record["agrees"]])
                for answer, record in zip(answers, records, strict=True)
            ]
            for records in by_plan
        ]

    def try_drafts(
        self, drafts: Sequence[TriedDraft], answers: Sequence[WrittenAnswer], times: StepTimes, most: int
    ) -> list[TriedDraft]:
        """The drafts with their best windows, of at most ``most`` tokens, and the speed-ups on these answers."""
        tried = []
        for draft, agreed in zip(drafts, self.read([draft.plan for draft in drafts], answers), strict=True):
            window, speedup = best_window(agreed, draft, most, times)
            hits = [hit for answer in agreed for hit in answer.agrees]
            tried.append(draft._replace(window=window, speedup=speedup, agrees=sum(hits) / len(hits)))
        return tried


def choose_drafts(
    reader: AnswerReader, parts: Sequence[ObjectiveTask], named: CutPlan | None, most: int, times: StepTimes
) -> tuple[list[TriedDraft], int]:
    """The plan that was named, or the fastest of each kind that a search found; and how many plans were tried.

    ``most``: tokens that a draft may propose at once.
    """
    model, answers = reader.model, [reader.write(part, "selection", ASKED) for part in parts]
    texts, mlp = _beginnings(answers, SEARCHED), mlp_of(model)
    if named is not None:
        plan = draft_plan(model, named.removed, named.channels)
        check_plan_on_model(model.loaded.model, plan)
        return reader.try_drafts([TriedDraft(plan)], texts, times, most), 0

    @cache
    def ranked() -> dict[int, tuple[int, ...]]:
        reader.progress.begin("search", "ranking channels")
        read = {own[0].task: [(*answer.prompt, *answer.tokens) for answer in own[:RANKED]] for own in answers}
        return rank_channels(model.loaded, (), read, progress=reader.progress)

    def attempt(wanted: Collection[Wanted], texts: Sequence[WrittenAnswer] = texts) -> list[TriedDraft]:
        drafts = [
            TriedDraft(
                draft_plan(model, removed, keep_needed_channels(mlp, ranked(), share) if mlp and share else None), share
            )
            for removed, share in wanted
        ]
        drafts = [draft for draft in drafts if can_run(model, draft.plan)]
        return reader.try_drafts(drafts, texts, times, most)

    drafts = _search_drafts(reader, attempt, _beginnings(answers, FIRST), mlp is not None)
    fastest: dict[tuple[bool, bool], TriedDraft] = {}
    for draft in sorted(drafts, key=lambda draft: -draft.speedup):
        fastest.setdefault((bool(draft.plan.removed), bool(draft.share)), draft)
    return list(fastest.values()), len(drafts)


def _beginnings(answers: Sequence[Sequence[WrittenAnswer]], tokens: int) -> list[WrittenAnswer]:
    """The beginnings of the first answers of each task, until they have this many tokens."""
    texts = []
    for of_task in answers:
        left = tokens
        for answer in of_task:
            if left > 0:
                texts.append(answer._replace(tokens=answer.tokens[:TOKENS]))
                left -= len(texts[-1].tokens)
    return texts


def _search_drafts(
    reader: AnswerReader, attempt: Attempt, first: Sequence[WrittenAnswer], has_channels: bool
) -> list[TriedDraft]:
    """All plans that were tried; layers are ranked by the tokens of the ``first`` answers that miss each one alone."""
    drafts = attempt([((), share) for share in WIDTHS]) if has_channels else []
    reader.progress.begin("search", "trying plans")
    candidates = Context(num_layers=reader.model.num_layers, num_remove=1).with_first_protected().candidates
    alone = [draft_plan(reader.model, [layer]) for layer in candidates]
    alone = [plan for plan in alone if can_run(reader.model, plan)]
    missed = {
        plan.removed[0]: sum(not hit for answer in answers for hit in answer.agrees)
        for plan, answers in zip(alone, reader.read(alone, first), strict=True)
    }
    layers = sorted(missed, key=lambda layer: (missed[layer], -layer))
    fastest = max((draft.speedup for draft in drafts), default=0.0)
    drafts += _remove_layers(attempt, layers, first, fastest, DEEPEST * len(candidates))
    best = _fastest(drafts)
    for _ in range(ROUNDS):
        known = {(frozenset(draft.plan.removed), draft.share) for draft in drafts}
        near = _neighbours(best, layers, has_channels)
        drafts += attempt([(removed, share) for removed, share in near if (frozenset(removed), share) not in known])
        if _fastest(drafts) == best:
            break
        best = _fastest(drafts)
    return drafts


def draft_plan(model: ModelHandle, removed: Sequence[int], channels: Channels | None = None) -> CutPlan:
    """The plan without these layers, and with these MLP channels alone."""
    return replace(model.plan(), removed=tuple(removed), channels=channels, criterion="draft")


def can_run(model: ModelHandle, plan: CutPlan) -> bool:
    """True for a plan under which the model can be run."""
    try:
        check_plan_on_model(model.loaded.model, plan)
    except InputError:
        return False
    return True


def mlp_of(model: ModelHandle) -> MlpWidth | None:
    """The MLP channels of a model; None where its MLPs cannot be thinned."""
    try:
        return mlp_width_in(model.loaded.model)
    except InputError:
        return None


def _remove_layers(
    attempt: Attempt, layers: Sequence[int], first: Sequence[WrittenAnswer], best: float, deepest: float
) -> list[TriedDraft]:
    """One layer more each round, the fastest of a few by the first answers."""
    path: list[TriedDraft] = []
    removed: tuple[int, ...] = ()
    worse = 0
    while worse < WORSE and len(removed) < deepest:
        deeper = [((*removed, layer), 0.0) for layer in layers if layer not in removed][:TRIED]
        tried = attempt(deeper, first)
        if not tried:
            break
        removed = _fastest(tried).plan.removed
        path += attempt([(removed, 0.0)])
        worse = 0 if path[-1].speedup > best else worse + 1
        best = max(best, path[-1].speedup)
    return path


def _neighbours(draft: TriedDraft, layers: Sequence[int], has_channels: bool) -> list[Wanted]:
    removed, share = draft.plan.removed, draft.share
    near = [((*removed, layer), share) for layer in layers if layer not in removed][:TRIED]
    near += [(tuple(other for other in removed if other != layer), share) for layer in removed]
    if has_channels:
        shares = [round(share + step, 2) for step in (-STEP, -STEP / 2, STEP / 2, STEP)]
        near += [(removed, new) for new in shares if 0 <= new < 1]
    return [(layers, share) for layers, share in near if layers or share]


def _fastest(drafts: Sequence[TriedDraft]) -> TriedDraft:
    return max(drafts, key=lambda draft: draft.speedup)
