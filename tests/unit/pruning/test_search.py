"""Which way of making a plan's model is tested."""

from __future__ import annotations

from layercut.pruning.search import _best
from layercut.runs.prune import Estimated, TaskKept, Tried


def tried(healing: str | None, kept: float, nll: float | None = None) -> Tried:
    value = Estimated(value=kept, n=100)
    return Tried(
        healing=healing, nll=nll, kept=(TaskKept(task="copy", readout="short", uncut=value, cut=value, kept=value),)
    )


def test_of_a_plan_and_its_healings_right_answers_decide() -> None:
    plain, seam, trained = tried(None, 0.90, 0.30), tried("seam", 0.87, 0.25), tried("seam+lora", 0.89, 0.20)
    assert _best([plain, seam, trained]) == trained
    assert _best([plain]) == plain


def test_scores_decide_where_nothing_is_written_and_in_older_runs() -> None:
    assert _best([tried(None, 0.90), tried("seam", 0.92)]).healing == "seam"
    assert _best([tried(None, 0.90), tried("seam", 0.90)]).healing is None, "of equals the one that is not healed"
    assert _best([tried(None, 0.90), tried("seam", 0.87, 0.2)]).healing is None, "one of them was not read"
