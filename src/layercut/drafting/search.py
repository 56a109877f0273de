"""Search plans for the highest forecast speed-up: layers, MLP channels, or both.

Three paths, each scored by the forecast on the same answers: thinner MLPs alone, in steps; layers alone, one after the
other; and from the best of both, the neighbours that remove one layer more or less, or some channels more or less,
until none is faster. A draft need not be good, it must be right often and cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from layercut.drafting.agreement import Agreements, WrittenAnswer
from layercut.drafting.forecast import best_window
from layercut.drafting.times import StepTimes
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan

WIDTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # shares of the MLP channels that go, of the plans without them alone
STEP = 0.1
TRIED = 3  # layers that are tried in each round beside those that are gone
WORSE = 4  # rounds of the path of layers that may be slower than the fastest plan so far, of any kind
DEEPEST = 0.75
ROUNDS = 12  # rounds among neighbours at most
WIDTH, DEPTH, BOTH, OTHER = "channels", "layers", "both", "model"


class TriedDraft(NamedTuple):
    """One plan of the search."""

    removed: tuple[int, ...]
    share: float  # of the MLP channels, that goes
    window: int
    speedup: float  # forecast on the answers of the search
    channels: Channels | None = None  # the channels that stay, of a plan that was given; others follow from their share
    name: str = ""  # of another model, in place of a plan

    @property
    def kind(self) -> str:
        """Removed layers and channels; or that it is another model."""
        if self.name:
            return OTHER
        return BOTH if self.removed and self.share else DEPTH if self.removed else WIDTH


@dataclass(frozen=True, kw_only=True)
class DraftSearch:
    """One search over a model in memory."""

    agreements: Agreements
    answers: Sequence[WrittenAnswer]
    first: Sequence[WrittenAnswer]  # a few of them, by which each layer alone is ranked
    times: StepTimes
    most: int  # longest window
    candidates: Sequence[int]  # layers that may go
    plan: Callable[[Sequence[int], float], CutPlan]  # the plan without these layers and this share of the channels
    fits: Callable[[CutPlan], bool]  # return True for a plan under which the model can be run
    has_channels: bool  # MLPs can be thinned

    def run(self) -> list[TriedDraft]:
        """All plans that were tried, the fastest of each kind among them; of equals the first."""
        found: list[TriedDraft] = []
        if self.has_channels:
            found += self._try([((), share) for share in WIDTHS])
        ranked = self._alone()
        found += self._depths(ranked, max((one.speedup for one in found), default=0.0))
        best = _fastest(found)
        for _ in range(ROUNDS):
            known = {(tuple(sorted(one.removed)), one.share) for one in found}
            new = [one for one in self._neighbours(best, ranked) if (tuple(sorted(one[0])), one[1]) not in known]
            found += self._try(new)
            if _fastest(found) == best:
                break
            best = _fastest(found)
        return found

    def _alone(self) -> list[int]:
        """Layers, the one first whose absence changes the fewest tokens."""
        plans = [self.plan([layer], 0.0) for layer in self.candidates]
        usable = [one for one in zip(self.candidates, plans, strict=True) if self.fits(one[1])]
        found = self.agreements.of([plan for _, plan in usable], self.first)
        missed = {
            layer: sum(not hit for one in answers for hit in one.agrees)
            for (layer, _), answers in zip(usable, found, strict=True)
        }
        return sorted(missed, key=lambda layer: (missed[layer], -layer))

    def _depths(self, ranked: Sequence[int], best: float) -> list[TriedDraft]:
        """One layer more each round, the fastest of a few by the first answers."""
        found: list[TriedDraft] = []
        removed: tuple[int, ...] = ()
        worse = 0
        while worse < WORSE and len(removed) < DEEPEST * len(self.candidates):
            new = [(*removed, layer) for layer in ranked if layer not in removed][:TRIED]
            tried = self._try([(layers, 0.0) for layers in new], self.first)
            if not tried:
                break
            removed = _fastest(tried).removed
            (one,) = self._try([(removed, 0.0)])
            found.append(one)
            worse = 0 if one.speedup > best else worse + 1
            best = max(best, one.speedup)
        return found

    def _neighbours(self, one: TriedDraft, ranked: Sequence[int]) -> list[tuple[tuple[int, ...], float]]:
        more = [layer for layer in ranked if layer not in one.removed][:TRIED]
        near = [((*one.removed, layer), one.share) for layer in more]
        near += [(tuple(two for two in one.removed if two != layer), one.share) for layer in one.removed]
        if self.has_channels:
            shares = (round(one.share + step, 2) for step in (-STEP, -STEP / 2, STEP / 2, STEP))
            near += [(one.removed, share) for share in shares if 0 <= share < 1]
        return [(removed, share) for removed, share in near if removed or share]

    def _try(
        self, wanted: Sequence[tuple[tuple[int, ...], float]], answers: Sequence[WrittenAnswer] = ()
    ) -> list[TriedDraft]:
        plans = [(removed, share, self.plan(removed, share)) for removed, share in wanted]
        usable = [one for one in plans if self.fits(one[2])]
        found = self.agreements.of([plan for *_, plan in usable], answers or self.answers)
        return [
            TriedDraft(removed, share, *best_window(answers, self.times.cost(plan), self.most, self.times.prompt))
            for (removed, share, plan), answers in zip(usable, found, strict=True)
        ]


def _fastest(found: Sequence[TriedDraft]) -> TriedDraft:
    return max(found, key=lambda one: one.speedup)


def fastest_of_each(found: Sequence[TriedDraft]) -> list[TriedDraft]:
    """The fastest plan, and the fastest of each other kind."""
    best = [
        _fastest(of_kind) for kind in (WIDTH, DEPTH, BOTH) if (of_kind := [one for one in found if one.kind == kind])
    ]
    return sorted(best, key=lambda one: -one.speedup)
