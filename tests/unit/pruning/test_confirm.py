"""What prune checks outside the goal: which checks a model can be asked, and that both models are compared by item."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layercut.pruning.budget import ITEMS, checks_for
from layercut.pruning.confirm import SIDE_EFFECTS
from layercut.pruning.job import Pruned
from layercut.runs.directory import RunFolder
from layercut.runs.prune import PruneResult
from layercut.tasks.suites import SIDE_EFFECTS as TASKS
from tests.unit.pruning.conftest import run
from tests.unit.pruning.test_job import found


@pytest.mark.parametrize(
    ("has_template", "context", "asked"), [(True, 512, TASKS[:3]), (True, None, TASKS[:3]), (True, 511, ()),
                                           (False, 512, ())]
)  # fmt: skip
def test_no_long_texts_and_no_model_that_takes_no_conversations(
    has_template: bool, context: int | None, asked: tuple[str, ...]
) -> None:
    model: Any = SimpleNamespace(has_chat_template=has_template, context_length=context)
    assert {cell.task.name: len(cell.samples) for cell in checks_for(model, 0)} == dict.fromkeys(asked, ITEMS)


def test_the_checkpoint_is_compared_with_the_original_on_the_same_items(
    model: Path, choices: Path, whole: Pruned, tmp_path: Path
) -> None:
    done = run(model, choices, tmp_path / "run", no_side_effects=False)
    checked = done.result.side_effects
    assert [effect.task for effect in checked] == ["endings", "same_language", "instructions"]
    for effect in checked:
        models = [
            RunFolder.open(done.folder / "side_effects" / name).records(effect.task, "short")
            for name in ("uncut", done.result.chosen.name)
        ]
        assert [record["id"] for record in models[0]] == [record["id"] for record in models[1]]
        means = [sum(record["metrics"]["accuracy"] for record in records) / ITEMS for records in models]
        assert (effect.uncut.value, effect.cut.value, effect.cut.n) == (*means, ITEMS)
        assert not effect.is_shown  # its layers do nothing
    assert whole.result.side_effects == () and SIDE_EFFECTS in done.result.seconds
    ours, others = found(done), found(whole)
    both = ours.keys() & others.keys() - {"side_effects"}
    assert {name: ours[name] for name in both} == {name: others[name] for name in both}
    assert PruneResult.load(done.folder) == done.result
    assert done.checkpoint is not None
    card = (done.checkpoint / "README.md").read_text("utf-8")
    verdict, effects = card.split("\n---\n", 1)[1].split("\n\n")[1:3]
    assert verdict.startswith("**Passed") and effects == "**Side effects:** none shown (3 checks, 72 items)."
