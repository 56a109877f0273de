"""What prune checks outside the goal: which checks a model can be asked, and that both models are compared by item."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from layercut.engine.rows import Reader
from layercut.pruning.budget import ITEMS, checks_for
from layercut.pruning.confirm import SIDE_EFFECTS
from layercut.pruning.job import Pruned
from layercut.runs.directory import RunFolder
from layercut.runs.prune import PruneResult
from layercut.tasks.suites import SIDE_EFFECTS as TASKS
from tests.support.loaded import tiny_loaded
from tests.unit.pruning.conftest import run
from tests.unit.pruning.test_job import found


def names(reader: Reader | SimpleNamespace) -> dict[str, int]:
    model = SimpleNamespace(read=lambda kind, asked, read: read(reader))
    return {cell.task.name: len(cell.samples) for cell in checks_for(model, 0)}  # type: ignore[arg-type]


def test_long_texts_are_left_out() -> None:
    short = tiny_loaded("llama")  # 512 tokens, each a byte
    assert set(names(short)) == {"endings", "same_language", "instructions"}
    long = SimpleNamespace(name="long", tokenizer=short.tokenizer, context_length=100_000, dtype="float32")
    assert names(long) == dict.fromkeys(TASKS[:3], ITEMS)


def test_a_model_that_takes_no_conversations_is_not_asked() -> None:
    loaded = tiny_loaded("qwen2")
    template, loaded.tokenizer.chat_template = loaded.tokenizer.chat_template, None
    try:
        assert names(loaded) == {}
    finally:
        loaded.tokenizer.chat_template = template


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
