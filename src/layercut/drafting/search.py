"""Search of the plan that makes the fastest draft, on answers of the original model that plans read.

Three paths, each scored by the forecast on the same answers: thinner MLPs alone, in steps; layers alone, one after the
other; and from the best of both, the neighbours that remove one layer more or less, or some channels more or less,
until none is faster. A draft need not be good, it must be right often and cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from layercut.drafting.forecast import BOTH, DEPTH, WIDTH, StepTimes, TriedDraft, WrittenAnswer, best_window, part_name
from layercut.engine.base import GREEDY, GenerationRequest, LikelihoodRequest
from layercut.engine.rows import generation_row
from layercut.engine.stopping import stop_tokens
from layercut.errors import InputError
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.search_journal import JournalPart, JournalQuestion, SearchJournal
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import check_plan
from layercut.tasks.base import Split, is_generated

if TYPE_CHECKING:
    from layercut.engine.handle import ModelHandle
    from layercut.progress.bars import StageProgress

WIDTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # shares of the MLP channels that plans without them alone remove
STEP = 0.1
TRIED = 3  # layers that each round tries to remove
WORSE = 4  # rounds of the path of layers that may be slower than the fastest plan so far, of any kind
DEEPEST = 0.75
ROUNDS = 12  # rounds among neighbours at most


class AnswerReader:
    """A model that writes and reads answers under plans; what a journal holds is not computed again."""

    def __init__(self, model: ModelHandle, journal: SearchJournal, progress: StageProgress) -> None:
        """Nothing is asked yet."""
        self.model, self._journal, self.progress = model, journal, progress

    def write(self, part: ObjectiveTask, split: Split, limit: int) -> list[WrittenAnswer]:
        """Answers of the model to the first items of a task; those without a token are left out.

        Raises:
            InputError: a task that is not answered by writing, or one without such items.
        """
        if not is_generated(part.readout):
            raise InputError(
                f"{part.label} is not written, so there is nothing to draft; name a task that is, such as gsm8k."
            )
        samples = part.task.samples(split, limit)
        if not samples:
            raise InputError(f"{part.task.name} has no {split} items.")
        requests = [
            replace(cast("GenerationRequest", part.task.request(sample, part.readout)), settled=None, draft="")
            for sample in samples
        ]
        uncut, name = CutPlan(num_layers=self.model.num_layers), part_name(part)
        known = self.part(name, "answers", uncut, [request.id for request in requests])
        if not known.is_complete:
            done = {record["id"] for record in known.records}
            self.progress(part.label, len(done), len(requests))
            for _, batch in self.model.engine.ask(requests, [uncut], GREEDY, lambda _, item: item not in done):
                known.append([{"id": reply.id, "tokens": list(reply.tokens)} for reply in batch])
                self.progress(part.label, len(known.records), len(requests))
        tokens = {record["id"]: tuple(record["tokens"]) for record in known.records}
        loaded = self.model.loaded
        stops = stop_tokens(loaded.tokenizer, loaded.model.generation_config)
        answers = []
        for request in [request for request in requests if tokens[request.id]]:
            row, answer = generation_row(loaded, request), tokens[request.id]
            # An answer that a text ended, and not a token, is written without that text again: to its length.
            limit = row.limit if answer[-1] in stops else len(answer)
            answers.append(WrittenAnswer(request.id, name, row.prompt, answer, limit))
        return answers

    def read(self, plans: Sequence[CutPlan], answers: Sequence[WrittenAnswer]) -> list[list[WrittenAnswer]]:
        """For each plan the answers, with the tokens at which it agrees.

        Raises:
            InputError: an engine that does not report the likeliest tokens.
        """
        # The name of an answer in the journal has its length, as its beginning may have been read alone.
        requests = [
            LikelihoodRequest(
                id=f"{answer.task}.{answer.id}.{len(answer.tokens)}",
                prompt="",
                continuations=("",),
                tokens=(answer.prompt, answer.tokens),
            )
            for answer in answers
        ]
        ids = [request.id for request in requests]
        parts = {plan.key: self.part("plans", "agreement", plan, ids) for plan in plans}
        left = {key: {*ids} - {record["id"] for record in part.records} for key, part in parts.items()}
        total = len(parts) * len(ids)
        self.progress("answers read", total - sum(map(len, left.values())), total)
        if any(left.values()):
            unread = {plan.key: plan for plan in plans if left[plan.key]}
            answered = self.model.engine.ask(
                requests, [*unread.values()], GREEDY, lambda plan, item: item in left[plan.key]
            )
            for plan, replies in answered:
                if not all(reply.hits and len(reply.hits[0]) == reply.num_tokens[0] for reply in replies):
                    raise InputError(
                        "this engine does not say which tokens are the likeliest; use `engine` shared or plain."
                    )
                agrees = {reply.id: "".join("01"[hit] for hit in reply.hits[0]) for reply in replies}
                parts[plan.key].append([{"id": item, "agrees": bits} for item, bits in agrees.items()])
                left[plan.key] -= {*agrees}
                self.progress("answers read", total - sum(map(len, left.values())), total)
        return [
            [
                answer._replace(agrees=[bit == "1" for bit in record["agrees"]])
                for answer, record in zip(answers, parts[plan.key].records, strict=True)
            ]
            for plan in plans
        ]

    def try_drafts(
        self, drafts: Sequence[TriedDraft], answers: Sequence[WrittenAnswer], times: StepTimes, most: int
    ) -> list[TriedDraft]:
        """The drafts with their best windows, of at most ``most`` tokens, and the speed-ups on these answers."""
        read = self.read([draft.plan for draft in drafts], answers)
        best = [best_window(agreed, times.cost(draft), most) for draft, agreed in zip(drafts, read, strict=True)]
        return [
            draft._replace(window=window, speedup=speedup)
            for draft, (window, speedup) in zip(drafts, best, strict=True)
        ]

    def part(self, name: str, readout: Any, plan: CutPlan, ids: Sequence[str], settings: str = "") -> JournalPart:
        """Known records of a plan, and the place for more."""
        question = JournalQuestion(
            task=name,
            readout=readout,
            model_hash=self.model.metadata.model_hash,
            version=1,
            settings_hash=settings,
            decoding=None,
        )
        return self._journal.part(question, plan, ids)


def search_drafts(
    reader: AnswerReader,
    answers: Sequence[WrittenAnswer],
    first: Sequence[WrittenAnswer],
    times: StepTimes,
    most: int,
    thin: Callable[[float], Channels] | None,
) -> list[TriedDraft]:
    """All plans that were tried, the fastest of each kind among them; of equals the first.

    Args:
        first: a few of the answers, by which each layer alone is ranked.
        most: the longest window.
        thin: gives the channels without about a share of them; None where the MLPs cannot be thinned.
    """

    def attempt(
        wanted: Collection[tuple[tuple[int, ...], float]], texts: Sequence[WrittenAnswer] = answers
    ) -> list[TriedDraft]:
        drafts = [
            TriedDraft(draft_plan(reader.model, removed, thin(share) if share and thin else None), share)
            for removed, share in wanted
        ]
        return reader.try_drafts([draft for draft in drafts if can_run(reader.model, draft.plan)], texts, times, most)

    drafts = attempt([((), share) for share in WIDTHS]) if thin else []
    candidates = Context(num_layers=reader.model.num_layers, num_remove=1).with_first_protected().candidates
    layers = _rank_layers(reader, candidates, first)
    fastest = max((draft.speedup for draft in drafts), default=0.0)
    drafts += _remove_layers(attempt, layers, first, fastest, DEEPEST * len(candidates))
    best = _fastest(drafts)
    for _ in range(ROUNDS):
        known = {(frozenset(draft.plan.removed), draft.share) for draft in drafts}
        near = _neighbours(best, layers, thin is not None)
        drafts += attempt([(removed, share) for removed, share in near if (frozenset(removed), share) not in known])
        if _fastest(drafts) == best:
            break
        best = _fastest(drafts)
    return drafts


def fastest_of_each(drafts: Sequence[TriedDraft]) -> list[TriedDraft]:
    """The fastest plan, and the fastest of each other kind."""
    by_kind = [[draft for draft in drafts if draft.kind == kind] for kind in (WIDTH, DEPTH, BOTH)]
    return sorted(map(_fastest, filter(None, by_kind)), key=lambda draft: -draft.speedup)


def draft_plan(model: ModelHandle, removed: Sequence[int], channels: Channels | None = None) -> CutPlan:
    """The plan without these layers, and with these MLP channels alone."""
    return replace(model.plan(), removed=tuple(removed), channels=channels, criterion="draft")


def can_run(model: ModelHandle, plan: CutPlan) -> bool:
    """True for a plan under which the model can be run."""
    try:
        check_plan(model.loaded.model, plan)
    except InputError:
        return False
    return True


def _rank_layers(reader: AnswerReader, candidates: Sequence[int], first: Sequence[WrittenAnswer]) -> list[int]:
    """Layers, the one first whose absence changes the fewest tokens."""
    plans = [draft_plan(reader.model, [layer]) for layer in candidates]
    plans = [plan for plan in plans if can_run(reader.model, plan)]
    missed = {
        plan.removed[0]: sum(not hit for answer in answers for hit in answer.agrees)
        for plan, answers in zip(plans, reader.read(plans, first), strict=True)
    }
    return sorted(missed, key=lambda layer: (missed[layer], -layer))


def _remove_layers(
    attempt: Callable[..., list[TriedDraft]],
    layers: Sequence[int],
    first: Sequence[WrittenAnswer],
    best: float,
    deepest: float,
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


def _neighbours(draft: TriedDraft, layers: Sequence[int], has_channels: bool) -> list[tuple[tuple[int, ...], float]]:
    removed, share = draft.plan.removed, draft.share
    near = [((*removed, layer), share) for layer in layers if layer not in removed][:TRIED]
    near += [(tuple(other for other in removed if other != layer), share) for layer in removed]
    if has_channels:
        shares = [round(share + step, 2) for step in (-STEP, -STEP / 2, STEP / 2, STEP)]
        near += [(removed, new) for new in shares if 0 <= new < 1]
    return [(layers, share) for layers, share in near if layers or share]


def _fastest(drafts: Sequence[TriedDraft]) -> TriedDraft:
    return max(drafts, key=lambda draft: draft.speedup)
