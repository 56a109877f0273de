"""Other models beside the plans of layercut prune: the same report items, and which one a user should take."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from layercut.errors import InputError
from layercut.evidence.comparison import compare_runs
from layercut.evidence.fixed_sequence import DepthEvidence, judge_depth
from layercut.pruning.job import Pruned
from layercut.pruning.outcome import answer_with_others, describe_fastest
from layercut.report.first import first_of_prune, versus_table
from layercut.runs.directory import RunFolder
from layercut.runs.prune import Alternative, Estimated, PruneResult, Served, TaskKept, TimedSpeed
from layercut.settings import ModelSettings
from tests.unit.pruning.conftest import run


@pytest.fixture(scope="module")
def others(model: Path, tmp_path_factory) -> tuple[str, str]:
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
def weighed(model: Path, choices: Path, others: tuple[str, str], tmp_path_factory) -> tuple[Pruned, Pruned]:
    """The same run without other models and, afterwards, with them."""
    out = tmp_path_factory.mktemp("weighed") / "run"
    return run(model, choices, out), run(model, choices, out, versus=others)


def test_other_models_answer_the_same_report_items(weighed, others):
    before, after = weighed
    small, wrong = after.result.versus
    assert (small.model, wrong.model) == others
    assert small.passed and small.kept[0].kept is not None and small.kept[0].kept.value > 0.9
    assert wrong.verdict == "shown to fail" and small.level == 0.975
    assert wrong.level == pytest.approx(0.95), "the one that passed hands its part of the error on"
    assert small.disk_bytes < 0.6 * wrong.disk_bytes
    for one in after.result.versus:
        ids = [(folder / "samples/mine.jsonl.rank.jsonl").read_text() for folder in (after.folder / one.run,)]
        assert len(ids[0].splitlines()) == 40 == one.kept[0].uncut.n
    assert after.result.tested == before.result.tested, "they change nothing about the plans"
    assert PruneResult.load(after.folder) == after.result


def test_each_model_is_compared_once_and_judged_once_at_each_level(model, choices, others, tmp_path, monkeypatch):
    compared, judged = list[str](), list[tuple[str, float]]()

    def compare(uncut: RunFolder, cuts: Sequence[RunFolder], **settings: Any) -> Any:
        compared.extend(folder.name for folder in cuts)
        return compare_runs(uncut, cuts, **settings)

    def judge(step: DepthEvidence, wanted: Any, keep: float, error: float, *settings: Any) -> Any:
        judged.append((step.plan, error))
        return judge_depth(step, wanted, keep, error, *settings)

    monkeypatch.setattr("layercut.pruning.confirm.compare_runs", compare)
    monkeypatch.setattr("layercut.evidence.fixed_sequence.judge_depth", judge)
    result = run(model, choices, tmp_path / "run", versus=others).result
    assert compared == [plan.name for plan in result.tested] + [Path(other.run).name for other in result.versus]
    assert len(judged) == len({*judged}) and {plan for plan, _ in judged} == {
        *(plan.name for plan in result.tested),
        *(other.run for other in result.versus),
    }


def test_the_answer_says_what_to_take(weighed, others):
    before, after = weighed
    assert "Do not prune" not in before.result.why
    assert f"Do not prune for size: {others[0]} passes with" in after.result.why
    taken = [line[0].text for line in versus_table(after.result).rows if line[0].style == "strong"]
    assert {*taken} == {others[0]}, "smaller, and as good as any"
    assert not versus_table(before.result).rows
    assert any("10 %" in part for part in first_of_prune(after.result).behind if isinstance(part, str))


def test_every_model_is_timed_by_turns_with_the_original(weighed):
    before, after = weighed
    assert [one.run for one in before.result.served] == [before.result.chosen.name], "there is nothing to choose"
    plans = [one.name for one in after.result.tested]
    assert [one.run for one in after.result.served] == [*plans, *(one.run for one in after.result.versus)]
    known = next(one for one in after.result.served if one.run == before.result.chosen.name)
    assert known == before.result.served[0], "a plan is not timed again"
    for one in after.result.served:
        assert one.request.ratio.n == 5 and one.memory_bytes > 0 and one.cache_bytes_per_token > 0
    assert "The fastest that passes is" in after.result.fastest and not before.result.fastest


def test_named_at_the_start_they_share_the_error_with_the_plans(model, choices, others, weighed, tmp_path):
    _, after = weighed
    found = run(model, choices, tmp_path / "run", versus=others).result
    assert found.error == pytest.approx(0.05) and after.result.error == pytest.approx(0.1)
    assert [one.level for one in found.versus] == pytest.approx([1 - 0.05 / 3, 0.95]), "all plans passed"
    assert [one.kept[0].kept for one in found.versus] == [one.kept[0].kept for one in after.result.versus]
    assert [one.passed for one in found.tested] == [True]
    bounds = [one.tested[-1].kept[0].bound or 0 for one in (found, after.result)]
    assert bounds[0] < bounds[1], "a plan has half of the error, after one model passed"


def test_asked_again_nothing_is_computed(weighed, model, choices, others):
    _, after = weighed
    stamps = {file: file.stat().st_mtime_ns for file in after.folder.rglob("*.jsonl")}
    again = run(model, choices, after.folder, versus=others)
    assert again.result == after.result
    assert stamps == {file: file.stat().st_mtime_ns for file in after.folder.rglob("*.jsonl")}


def test_a_model_that_is_not_there_is_refused_before_anything_is_asked(model, choices, tmp_path):
    with pytest.raises(InputError, match=r"`versus` .*nowhere"):
        run(model, choices, tmp_path / "run", versus=(str(tmp_path / "nowhere"),))
    assert not (tmp_path / "run").exists()


def test_a_gguf_file_runs_in_llama_cpp(model):
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (layercut[llama-cpp])")
    from layercut.pruning.speed import other_model, run_of
    from tests.unit.models.gguf_maker import write_gguf

    file = write_gguf(model.parent / "tiny.gguf")
    handle = other_model(ModelSettings(model=str(model), device="cpu", dtype="bfloat16"), str(file))
    assert handle.settings.engine == "llama.cpp" and handle.settings.dtype == "auto"
    assert handle.disk_bytes(handle.plan()) == file.stat().st_size and run_of("a/tiny.gguf") == "versus/a-tiny.gguf"


def alternative(name: str, disk_bytes: int, *, passed: bool) -> Alternative:
    share = Estimated(value=0.95, low=0.9, high=1.0, n=100)
    kept = TaskKept(task="sums", readout="rank", uncut=share, cut=share, kept=share, passed=passed)
    verdict = "passed" if passed else "undecided"
    return Alternative(
        model=name, run=name, disk_bytes=disk_bytes, level=0.95, kept=(kept,), passed=passed, verdict=verdict
    )


def test_the_smallest_that_passes_is_named():
    both = [alternative("large", 900, passed=True), alternative("tiny", 100, passed=False)]
    assert answer_with_others("Why.", [], 500, is_passed=True) == "Why."
    said = "Why. large passes too, with 900 bytes; the plan has 500 bytes."
    assert answer_with_others("Why.", both, 500, is_passed=True) == said
    assert answer_with_others("Why.", both, 500, is_passed=False).startswith(
        "Do not prune for size: large passes with 900 bytes, and keeps 95 [90, 100] % of sums"
    )
    assert answer_with_others("Why.", both[1:], 500, is_passed=True).startswith(
        "Why. No other model that was named passes: tiny keeps 95 [90, 100] % of sums"
    )


def timed(share: float, low: float, high: float) -> Served:
    one = Estimated(value=1.0, n=7)
    ratio = Estimated(value=share, low=low, high=high, n=7)
    speed = TimedSpeed(name="request", unit="s", better="lower", batch_size=1, uncut=one, cut=one, ratio=ratio)
    return Served(run="a", speed=(speed,), memory_bytes=1, cache_bytes_per_token=1.0)


def test_a_speed_is_reached_missed_or_too_near_to_tell():
    slow, fast = ("slow", timed(0.9, 0.88, 0.92)), ("fast", timed(0.8, 0.78, 0.82))
    found = "The fastest that passes is fast: 1.25 [1.22, 1.28] times the original's speed a request."
    assert describe_fastest([slow, fast], None) == found
    assert describe_fastest([slow, fast], 1.2).endswith("a request, as asked.")
    assert describe_fastest([slow, fast], 1.25).endswith("too near to the 1.25 asked for to tell.")
    assert describe_fastest([slow, fast], 1.5).endswith("less than the 1.5 asked for.")
    assert "nothing is 1.5 times as fast" in (none := describe_fastest([], 1.5)) and "layercut draft" in none
    assert not describe_fastest([], None)


def test_a_model_named_later_leaves_those_named_before_alone(model, choices, others, tmp_path):
    first = run(model, choices, tmp_path / "run", versus=others[:1]).result
    both = run(model, choices, tmp_path / "run", versus=others).result
    assert first.error == pytest.approx(0.05) and both.error == pytest.approx(0.1)
    assert both.tested == first.tested and both.versus[0] == first.versus[0]
    assert [one.model for one in both.versus] == list(others) and both.versus[1].level == pytest.approx(0.95)
