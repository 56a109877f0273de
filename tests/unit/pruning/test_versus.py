"""Other models beside the plans of layercut prune: the same report items, and which one a user should take."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from layercut.errors import InputError
from layercut.pruning.pruned import Pruned
from layercut.pruning.verdict import beside
from layercut.report.first import first_of_prune
from layercut.report.front import front_figure, front_table
from layercut.runs.prune import Alternative, Estimated, PruneResult, TaskKept
from layercut.settings import ModelSettings
from tests.unit.pruning.test_job import run


@pytest.fixture(scope="module")
def others(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The model in half as many bytes, and one whose head says the opposite."""
    folder = tmp_path_factory.mktemp("others")
    small, wrong = folder / "small", folder / "wrong"
    for path in (small, wrong):
        shutil.copytree(model, path)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    loaded.to(torch.bfloat16).save_pretrained(small)
    loaded.lm_head.weight.data.neg_()
    loaded.float().save_pretrained(wrong)
    return str(small), str(wrong)


@pytest.fixture(scope="module")
def weighed(
    model: Path, choices: Path, others: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pruned, Pruned]:
    """The same run without other models and, afterwards, with them."""
    out = tmp_path_factory.mktemp("weighed") / "run"
    return run(model, choices, out), run(model, choices, out, versus=others)


def test_other_models_answer_the_same_report_items(weighed: tuple[Pruned, Pruned], others: tuple[str, str]) -> None:
    before, after = weighed
    small, wrong = after.result.versus
    assert (small.model, wrong.model) == others
    assert small.passed and small.kept[0].kept is not None and small.kept[0].kept.value > 0.9
    assert wrong.verdict == "shown to fail" and small.level == wrong.level == 0.975
    assert small.disk_bytes < 0.6 * wrong.disk_bytes
    for one in after.result.versus:
        ids = [(folder / "samples/mine.jsonl.rank.jsonl").read_text() for folder in (after.folder / one.run,)]
        assert len(ids[0].splitlines()) == 40 == one.kept[0].uncut.n
    assert after.result.tested == before.result.tested, "they change nothing about the plans"
    assert PruneResult.load(after.folder) == after.result


def test_the_answer_says_what_to_take(weighed: tuple[Pruned, Pruned], others: tuple[str, str]) -> None:
    before, after = weighed
    assert "Do not prune" not in before.result.why
    assert f"Do not prune for size: {others[0]} passes with" in after.result.why
    rows = front_table(after.result).rows
    assert [row[0] for row in rows if row[-1] == "yes"] == [others[0]], "smaller, and as good as any"
    figure = front_figure(after.result)
    assert figure is not None and front_figure(before.result) is None
    drawn = figure.panels[0].spec["data"]["values"]
    assert [point["series"] for point in drawn].count("other models") == 1 and len(drawn) == len(rows)
    assert any("97.5%" in part for part in first_of_prune(after.result).behind if isinstance(part, str))


def test_asked_again_nothing_is_computed(
    weighed: tuple[Pruned, Pruned], model: Path, choices: Path, others: tuple[str, str]
) -> None:
    _, after = weighed
    stamps = {file: file.stat().st_mtime_ns for file in after.folder.rglob("*.jsonl")}
    again = run(model, choices, after.folder, versus=others)
    assert again.result == after.result
    assert stamps == {file: file.stat().st_mtime_ns for file in after.folder.rglob("*.jsonl")}


def test_a_model_that_is_not_there_is_refused_before_anything_is_asked(
    model: Path, choices: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"`versus` .*nowhere"):
        run(model, choices, tmp_path / "run", versus=(str(tmp_path / "nowhere"),))
    assert not (tmp_path / "run").exists()


def test_a_gguf_file_runs_in_llama_cpp(model: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (layercut[llama-cpp])")
    from layercut.pruning.versus import other_model, run_of, weight_bytes
    from tests.unit.models.gguf_maker import write_gguf

    file = write_gguf(model.parent / "tiny.gguf")
    handle = other_model(ModelSettings(model=str(model), device="cpu", dtype="bfloat16"), str(file))
    assert handle.settings.engine == "llama.cpp" and handle.settings.dtype == "auto"
    assert weight_bytes(handle) == file.stat().st_size and run_of("a/tiny.gguf") == "versus/a-tiny.gguf"


def alternative(name: str, disk_bytes: int, *, passed: bool) -> Alternative:
    share = Estimated(value=0.95, low=0.9, high=1.0, n=100)
    kept = TaskKept(task="sums", readout="rank", uncut=share, cut=share, kept=share, passed=passed)
    verdict = "passed" if passed else "undecided"
    return Alternative(
        model=name, run=name, disk_bytes=disk_bytes, level=0.95, kept=(kept,), passed=passed, verdict=verdict
    )


def test_the_smallest_that_passes_is_named() -> None:
    both = [alternative("large", 900, passed=True), alternative("tiny", 100, passed=False)]
    assert beside("Why.", [], 500, is_passed=True) == "Why."
    said = "Why. large passes too, with 900 bytes; the plan has 500 bytes."
    assert beside("Why.", both, 500, is_passed=True) == said
    assert beside("Why.", both, 500, is_passed=False).startswith(
        "Do not prune for size: large passes with 900 bytes, and keeps sums"
    )
    assert beside("Why.", both[1:], 500, is_passed=True).startswith(
        "Why. No other model that was named passes: tiny keeps sums 95 %"
    )
