"""Advice: right at the stated confidence, none where none is shown, and never more than the readouts can say."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layercut.errors import InputError
from layercut.evidence.comparison import ComparedRun, ComparisonRow
from layercut.evidence.paired import PairedItems, compare_paired
from layercut.evidence.study import KEEP, Advice, judge_plans, study_results
from layercut.evidence.uses import named_use
from layercut.report.advice_text import advice_answer, advice_evidence, bounds_table, checkpoint_words, how_plans_tested
from layercut.report.first import first_of_study
from layercut.report.reports import write_reports
from layercut.report.writers import markdown_of
from layercut.runs.directory import RunFolder
from layercut.surgery.plan import CutPlan
from tests.support.near_chance import kept_pairs
from tests.support.pages import write_prune
from tests.support.run_builder import Result, build_run

CHANCE = 0.1


def advice_page(advice: Advice) -> str:
    """What is shown, in Markdown."""
    return markdown_of([advice_answer(advice), advice_evidence(advice), bounds_table(advice), how_plans_tested(advice)])


def advice_on(folder: Path, use: str = "all", keep: float = KEEP) -> Advice:
    """Of a study's folder."""
    return judge_plans(study_results(folder).rows, named_use(use), keep=keep)


def row(
    name: str, depth: int, task: str, retention: float, rng: Any = None, *, n: int = 400, readout: str = "short"
) -> ComparisonRow:
    before, after = kept_pairs(retention, n, rng, chance=CHANCE)
    compared = ComparedRun(name=name, num_layers=30, removed=tuple(range(depth)))
    return ComparisonRow(
        uncut=ComparedRun(name="uncut", num_layers=30), cut=compared, task=task, version=1, readout=readout,
        metric="accuracy", is_headline=True, is_share=True, chance=CHANCE, limit=None, seed=0,
        values=compare_paired(before, after, chance=CHANCE, num_resamples=100), uncut_outcomes={}, cut_outcomes={},
        note="", items=PairedItems(before, after, None),
    )  # fmt: skip


def simulated(seed: int, truths: dict[str, tuple[float, float]]) -> Advice:
    """Plans p1, p2, ... of growing depth with these true retentions on two tasks."""
    rng = np.random.default_rng(seed)
    rows = [
        row(name, depth, task, retention, rng)
        for depth, (name, kept) in enumerate(truths.items(), start=1)
        for task, retention in zip(("gsm8k", "arithmetic"), kept, strict=True)
    ]
    return judge_plans(rows, named_use("math"), keep=0.9, seed=seed, num_resamples=2000)


def test_refutations_hold_at_the_stated_confidence(monkeypatch):
    """As recommendations do, see evidence/test_fixed_sequence.py."""
    monkeypatch.setattr("layercut.evidence.fixed_sequence.items_to_decide", lambda *_, **__: None)  # most of the time
    drawn = [simulated(seed, {"a": (0.9, 0.9), "b": (0.9, 1.0)}) for seed in range(100)]
    assert sum(any(plan.verdict == "shown to fail" for plan in advice.plans) for advice in drawn) <= 5


def test_the_deepest_plan_that_passed_is_recommended():
    advice = simulated(1, {"shallow": (1.0, 1.0), "deep": (0.99, 0.99), "deepest": (0.3, 1.0)})
    assert [plan.arm.name for plan in advice.plans] == ["deepest", "deep", "shallow"]
    assert [plan.verdict for plan in advice.plans] == ["shown to fail", "passed", "passed"]
    assert advice.recommended is advice.plans[1]
    assert advice.plans[1].low == min(one.low for one in advice.plans[1].tasks if one.low is not None)
    text = advice_page(advice)
    assert "remove 2 layers" in text and "`deep` keeps 98 % [94, 103] of gsm8k" in text
    assert re.search(r"\| deepest \| 3 layers \| gsm8k \| .* \| shown to fail \|", text)


def test_of_equally_deep_plans_the_higher_lower_bound_is_recommended():
    rows = [row("a", 3, "copy", 0.97), row("b", 3, "copy", 1.01)]
    advice = judge_plans(rows, named_use("copy"), keep=0.8)
    assert [plan.verdict for plan in advice.plans] == ["passed", "passed"]
    assert advice.num_paths == 2
    assert advice.recommended is not None and advice.recommended.arm.name == "b"


def test_none_is_an_answer():
    advice = simulated(2, {"a": (0.5, 1.0), "b": (1.0, 0.2)})
    assert advice.recommended is None
    text = advice_page(advice)
    assert "no plan passed 90 %" in text and "`a` keeps 53 % [46, 61] of gsm8k" in text
    assert re.search(r"\| b \| 2 layers \| gsm8k \| .* \| not tested \|", text)


def test_undecided_plans_come_with_the_items_that_would_settle_them():
    rng = np.random.default_rng(3)
    advice = judge_plans([row("a", 2, "gsm8k", 0.97, n=60)], named_use("math"), keep=0.9)
    (one,) = advice.plans[0].tasks
    assert (advice.recommended, one.verdict) == (None, "undecided")
    assert one.items_needed > 60
    assert re.search(
        r"Best: plan `a` keeps 97 % \[85, 110\] of gsm8k .*; about \d+ items of each task would", advice_page(advice)
    )
    # As many items as were named do settle it, mostly.
    drawn = [[row("a", 2, "gsm8k", 0.97, rng, n=one.items_needed)] for _ in range(20)]
    settled = [judge_plans(rows, named_use("math"), keep=0.9).recommended for rows in drawn]
    assert settled.count(None) <= 10


def test_a_plan_that_was_not_run_on_everything_is_not_recommended():
    rows = [row("a", 2, "gsm8k", 1.0), row("a", 2, "arithmetic", 1.0), row("b", 4, "gsm8k", 1.0)]
    advice = judge_plans(rows, named_use("math"), keep=0.8)
    assert advice.recommended is not None and advice.recommended.arm.name == "a"
    assert advice.plans[0].missing == ("arithmetic (short)",)
    assert "| b | 4 layers | arithmetic (short) |  | not run | - | - | undecided | - |" in advice_page(advice)


def test_ranked_answers_do_not_speak_for_written_ones():
    ranked = [row("a", 2, "gsm8k", 1.0, readout="rank")]
    math = judge_plans(ranked, named_use("math"), keep=0.8)
    assert not math.plans[0].tasks and "there is no evidence" in advice_page(math)
    everything = judge_plans(ranked, named_use("all"), keep=0.8)
    assert everything.recommended is not None and "**Likelihood only:**" in advice_page(everything)
    both = judge_plans([*ranked, row("a", 2, "gsm8k", 1.0)], named_use("all"), keep=0.8)
    assert len(both.plans[0].tasks) == 2 and "Likelihood only" not in advice_page(both)
    written = judge_plans([row("a", 2, "gsm8k", 1.0)], named_use("classify"), keep=0.8)
    assert not written.plans[0].tasks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use": "maths"}, "unknown use 'maths'. Did you mean math"),
        ({"keep": 1.5}, "`keep` 1.5 is not a share"),
        ({"use": "summarize"}, "no measured task covers summarize, only guessing, arithmetic"),
    ],
)
def test_what_cannot_be_answered_is_one_line(study, settings, message):
    with pytest.raises(InputError, match=message):
        write_reports(study, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """One plan that keeps all of the sums and one that loses them; a task at chance."""
    root = tmp_path_factory.mktemp("runs") / "study"
    at_chance = Result(task="guessing", readout="rank", score=0.25, n=150)

    def results(score: float) -> list[Result]:
        return [at_chance, Result(task="arithmetic", readout="short", score=score, n=150, chance=0.05)]

    build_run(root / "uncut", results(0.97), num_parameters=1_000_000)
    build_run(root / "light", results(0.97), removed=(9, 8), num_parameters=900_000)
    build_run(root / "heavy", results(0.3), removed=(9, 8, 7, 6), num_parameters=800_000)
    return root


def test_a_study_folder_is_judged_for_a_use(study):
    advice = advice_on(study)
    assert [(plan.arm.name, plan.verdict) for plan in advice.plans] == [("heavy", "shown to fail"), ("light", "passed")]
    (one,) = advice.plans[1].tasks
    assert one.low is not None and one.low >= 0.9, "the task at chance decides nothing"
    assert "1.0M to 900.0k parameters (-10.0%)" in advice_answer(advice)
    report = write_reports(study, use="math", keep=0.1)["report"].read_text()
    assert "**For writing calculations, remove 4 layers:** plan `heavy` keeps" in report
    assert "For everything that was measured, remove 2 layers" in write_reports(study)["report"].read_text()


@pytest.mark.parametrize(
    ("use", "part", "whole", "retention", "answer"),
    [("summarize", "copy", "xsum", 1.0, "cut"), ("code", "brackets", "mbpp_plus", 0.3, "none")],
)
def test_a_use_that_is_judged_by_a_proxy_says_so(use, part, whole, retention, answer):
    def asked(*tasks: str) -> Advice:
        rows = [row("cut", 2, task, retention) for task in tasks]
        return judge_plans(rows, named_use(use), keep=0.9, num_resamples=2000)

    note = f"Judged by a proxy: {part}, a part of {named_use(use).what}. "
    by_proxy = asked(part)
    assert (by_proxy.recommended is None) == (answer == "none") and note in advice_answer(by_proxy)
    assert "proxy" not in advice_page(asked(part, whole))


def test_the_plans_of_a_criterion_are_one_path_and_healed_ones_another():
    names = {"search-1": 1, "search-2": 2, "search-4": 4, "search-1+seam": 1, "search-2+seam": 2}
    names |= {"light": 1, "heavy": 3}
    rows = []
    for name, depth in names.items():
        compared = row(name, depth, "gsm8k", 0.3 if name == "search-2" else 1.0)
        plan, _, healing = name.partition("+")
        rows.append(replace(compared, cut=replace(compared.cut, plan=plan, healing=healing)))
    advice = judge_plans(rows, named_use("math"), keep=0.9, num_resamples=2000)
    assert {plan.arm.name: (plan.path, plan.verdict) for plan in reversed(advice.plans)} == {
        "search-1": ("search-N", "passed"),
        "search-2": ("search-N", "shown to fail"),
        "search-4": ("search-N", "not tested"),
        "search-1+seam": ("search-N+seam", "passed"),
        "search-2+seam": ("search-N+seam", "passed"),
        "light": ("explicit", "passed"),
        "heavy": ("explicit", "passed"),
    }
    assert advice.recommended is not None and advice.recommended.arm.name == "heavy"
    assert "3 paths share" in advice_page(advice)
    (not_tested,) = (plan for plan in advice.plans if plan.verdict == "not tested")
    assert not_tested.level == pytest.approx(1 - 0.05 / 3), "its bound has its path's share of the error"


def test_the_checkpoint_is_a_folder_or_a_command(study):
    plan = advice_on(study).plans[1]
    made = "layercut cut bundled:smollm2-135m --remove light/plan.json --out light/checkpoint"
    assert checkpoint_words(study, plan.arm) == f"not kept; `{made}` writes it"
    (study / "light" / "checkpoint").mkdir()
    assert checkpoint_words(study, plan.arm) == "`light/checkpoint`"
    (study / "light" / "checkpoint").rmdir()


def of_a_healed_checkpoint(run: RunFolder, *, then: tuple[int, ...] = ()) -> None:
    """Turns the run into one of a checkpoint that lost layers 5, 8 and 10 of the original model and was healed."""
    step = {"model": "bundled:smollm2-135m", "model_hash": "5a3c0de1f00d", "num_layers": 30, "removed": [10, 5, 8]}
    earlier = [step | {"healed": ["seam", "lora"]}]
    plan = CutPlan(num_layers=27, removed=then, model="healed/checkpoint", model_hash="0ther", earlier=earlier)
    (run.path / "metrics.json").write_text(json.dumps(run.metrics() | {"plan": plan.to_dict()}))


def test_runs_of_healed_checkpoints_are_judged_by_what_is_gone_in_all(tmp_path):
    result = [Result(task="copy", readout="short", score=1.0, n=150, chance=0.0)]
    build_run(tmp_path / "uncut", result)
    of_a_healed_checkpoint(build_run(tmp_path / "healed", result))
    of_a_healed_checkpoint(build_run(tmp_path / "deeper", [replace(result[0], score=0.0)]), then=(0, 5))
    advice = advice_on(tmp_path, use="copy")
    assert {plan.arm.name: (plan.arm.removed, plan.arm.num_layers) for plan in advice.plans} == {
        "healed": ((10, 5, 8), 30),
        "deeper": ((10, 5, 8, 0, 6), 30),  # 5 of the 27 that were left
    }
    assert "remove 3 layers:** healed plan `healed`" in advice_page(advice)
    facts = dict(first_of_study(study_results(tmp_path)).facts)
    assert facts["checkpoint"] == "`healed/checkpoint`"
    assert facts["layers removed"] == "5,8,10 (3 of 30), healed (seam+lora)"


def test_a_healed_plan_names_its_checkpoint(tmp_path):
    result = [Result(task="copy", readout="short", score=1.0, n=150, chance=0.0)]
    build_run(tmp_path / "uncut", result)
    cut = build_run(tmp_path / "search-3+seam", result, removed=(3, 4, 5))
    metrics = cut.metrics() | {"arm": {"plan": "search-3", "healing": "seam", "seed": 0}}
    (cut.path / "metrics.json").write_text(json.dumps(metrics))
    advice = advice_on(tmp_path, use="copy")
    assert "remove 3 layers:** healed plan `search-3+seam`" in advice_page(advice)
    assert "`checkpoints: true`" in checkpoint_words(tmp_path, advice.plans[0].arm)
    (tmp_path / "search-3" / "heal-seam" / "checkpoint").mkdir(parents=True)
    assert checkpoint_words(tmp_path, advice.plans[0].arm) == "`search-3/heal-seam/checkpoint`"


def test_a_folder_of_prune_is_judged_by_its_own_use_alone(tmp_path):
    folder = write_prune(tmp_path / "run")
    for how in ({"use": "math"}, {"keep": 0.8}):
        with pytest.raises(InputError, match="no `use` and `keep`; prune judges its plans by its own"):
            write_reports(folder, **how)  # type: ignore[arg-type]
