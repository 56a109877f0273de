"""Cuts that answer a cell together: one call of the engine, whose steps hold the rows of all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from layercut.engine.base import Decoding, Engine
from layercut.runs.directory import RunFolder
from layercut.study.store import Answered, CellStore
from layercut.study.work import StudyArm
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell
from layercut.tasks.evaluate import Questions, ask_under


class Peer(NamedTuple):
    """A cut that answers a cell with others."""

    place: int  # number of the cell among the study's pieces
    run: RunFolder
    plan: CutPlan
    identity: Mapping[str, Any]  # what decides its answers


def can_share(cell: Cell, engine: Engine) -> bool:
    """True if an engine answers a cell under many plans at once, each item once."""
    return engine.shares_work and cell.num_samples == 1


def peers_of(arm: StudyArm, arms: Sequence[StudyArm]) -> Iterator[StudyArm]:
    """The cuts that may answer with ``arm``, itself among them: of the same seed, and chosen without a search or by the
    same one, so that none waits for another search."""
    return (one for one in arms if not (one.healing or one.is_uncut) and _search(one) == _search(arm))


def _search(arm: StudyArm) -> tuple[int, int, str]:
    return arm.seed, arm.cost, arm.search if arm.cost else ""


def answer_together(
    cell: Cell,
    peers: Sequence[Peer],
    engine: Engine,
    decoding: Decoding,
    store: CellStore,
    counted: Callable[[int, int], None],
) -> Mapping[int, Answered]:
    """Have the plans answer what neither their journals nor other studies hold.

    Args:
        peers: of different layers.
        counted: called with a peer's place and the number of its new answers.

    Returns:
        By place, what was reused and asked; a peer's time is its share of the answers.
    """
    place_of = {peer.plan.key: peer.place for peer in peers}
    new = dict.fromkeys(place_of.values(), 0)

    def answered(plan: CutPlan, _: object, fresh: Sequence[Mapping[str, Any]]) -> None:
        place = place_of[plan.key]
        new[place] += len(fresh)
        counted(place, len(fresh))

    with ExitStack() as held:
        journals = [held.enter_context(peer.run.journal(cell.task.name, cell.readout)) for peer in peers]
        ids = [sample.id for sample in cell.samples]
        reused = {
            peer.place: store.fill(journal, peer.identity, ids, exclude=peer.run.path)
            for peer, journal in zip(peers, journals, strict=True)
        }
        began = time.monotonic()
        questions = Questions(cell.task, cell.samples, {cell.readout: journals}, answered)
        ask_under(engine, [peer.plan for peer in peers], [questions], decoding=decoding, early=False)
    each = (time.monotonic() - began) / max(1, sum(new.values()))
    return {place: Answered(reused[place], num, each * num) for place, num in new.items()}
