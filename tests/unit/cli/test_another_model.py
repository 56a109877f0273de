"""Plans made for another model, checkpoints that were cut before, and those that others made: all are called so."""

from pathlib import Path

import pytest

from layercut import api
from layercut.errors import InputError
from layercut.models.sources import describe_source, resolve_source
from layercut.surgery.plan import CutPlan
from tests.support.foreign import passthrough
from tests.support.tiny import save_tiny


def hash_of(model: Path) -> str:
    return describe_source(resolve_source(str(model))).model_hash


@pytest.fixture
def plan(tmp_path) -> Path:
    """Made for another model of the same depth."""
    other = save_tiny("llama", tmp_path / "other", seed=1)
    made = CutPlan(num_layers=6, removed=(4, 1), criterion="mine", model="other", model_hash=hash_of(other))
    made.save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def commands(model: Path, plan: Path, out: Path) -> dict[str, tuple[object, ...]]:
    prompts = out.parent / "prompts.txt"
    prompts.write_text("one\n")
    return {
        "cut": ("cut", model, "--remove", plan, "--out", out),
        "eval": ("eval", model, "--remove", plan, "--tasks", "copy", "--limit", 2, "--out", out),
        "generate": ("generate", model, "--remove", plan, "--prompts", prompts, "--max-new-tokens", 2, "--out", out),
        "diagnose": ("diagnose", model, plan, "--only", "degeneration", "--limit", 2, "--out", out),
    }  # fmt: skip


@pytest.mark.parametrize("verb", ["cut", "eval", "generate", "diagnose"])
def test_every_verb_refuses_it(layercut, tiny, plan, tmp_path, verb):
    refused = layercut(*commands(tiny, plan, tmp_path / "out")[verb])
    assert refused.code == 1 and f"another model, other ({CutPlan.load(plan).model_hash})" in refused.said
    assert "name them: " in refused.said and refused.said.endswith(" 1,4.")
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_from_python_too(tiny, plan, tmp_path):
    with pytest.raises(InputError, match="made for another model"):
        api.cut(str(tiny), CutPlan.load(plan), tmp_path / "cut")


def test_a_plan_of_this_model_is_written_as_before(layercut, tiny, tmp_path):
    CutPlan(num_layers=6, removed=(4,), model="x", model_hash=hash_of(tiny)).save(tmp_path / "plan.json")
    layercut.done(*commands(tiny, tmp_path / "plan.json", tmp_path / "cut")["cut"])
    assert (tmp_path / "cut" / "plan.json").read_bytes() == (tmp_path / "plan.json").read_bytes()


def test_a_healing_with_another_teacher_is_refused(layercut, tiny, tmp_path):
    save_tiny("llama", tmp_path / "other", seed=1)
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    layercut.done("cut", tiny, "--remove", "2", "--out", tmp_path / "cut")
    given = ("--teacher", tmp_path / "other", "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "healed")
    refused = layercut("heal", tmp_path / "cut", *given, "--method", "seam", "--keep-unfinished", "--held-out", 0)
    assert refused.code == 1
    assert f"was cut from {tiny} ({hash_of(tiny)})" in refused.said


def test_a_cut_checkpoint_is_never_called_uncut(layercut, tiny, tmp_path):
    cut, asked = tmp_path / "tiny4", ("--tasks", "copy", "--limit", 2, "--out")
    layercut.done("cut", tiny, "--remove", "4,2", "--out", cut)
    pruned = f"a pruned checkpoint ({tiny} without 2 of 6 decoder layers: 2,4), 4 decoder layers"
    for command in (
        ("eval", cut, *asked, tmp_path / "runs" / "run"),
        ("diagnose", cut, "reverse:1", "--only", "degeneration", "--limit", 2, "--dry-run"),
        ("generate", cut, "--prompt", "one", "--max-new-tokens", 2),
    ):
        assert pruned in layercut(*command).said, command[0]
    assert "uncut, 6 decoder layers" in layercut("eval", tiny, *asked, tmp_path / "whole").said
    compared = layercut("compare", tmp_path / "whole", tmp_path / "runs" / "run").said
    assert "(33.3%): 2,4; a pruned" in compared
    assert "removes 1 of 4" in layercut("cut", cut, "--remove", "0", "--out", tmp_path / "tiny3").said
    card = (tmp_path / "tiny3" / "README.md").read_text()
    assert "| model that was cut |" in card and "| original model |" not in card
    assert "without 2 of 6 decoder layers: 2,4" in card
    assert "0), 3 decoder layers" in layercut("eval", tmp_path / "tiny3", *asked, tmp_path / "r3").said


def test_a_model_without_a_plan_is_compared_by_what_it_writes(layercut, tiny, tmp_path):
    other = passthrough(tiny, [(0, 4), (2, 6)], tmp_path / "other")
    layercut.done("diagnose", tiny, other, "--only", "arithmetic", "--limit", "2", "--out", tmp_path / "run")
    assert "other: another model, 8 decoder layers" in (tmp_path / "run" / "diagnose.md").read_text()


def test_a_plan_that_was_made_for_another_model_decides_nothing(layercut, tiny, tmp_path):
    stranger = save_tiny("llama", tmp_path / "stranger", seed=5)
    cut, twice = tmp_path / "cut", tmp_path / "twice"
    layercut.done("cut", stranger, "--remove", "1", "--out", cut)
    layercut.done("cut", cut, "--remove", "0", "--out", twice)
    asked = ("--only", "arithmetic", "--limit", "2", "--dry-run")
    # Only what the checkpoint itself was cut from is said, whatever it is compared with.
    said = layercut("diagnose", tiny, twice, *asked).said
    assert "without 1 of 6 decoder layers: 1, then without 1 of 5 decoder layers: 0)" in said


def test_runs_of_two_models_without_a_common_plan_say_so(layercut, tiny, tmp_path):
    other = passthrough(tiny, [(0, 2), (4, 6)], tmp_path / "other", noise=0.3)
    asked = ("--tasks", "brackets", "--readouts", "rank", "--limit", 4, "--out")
    layercut.done("eval", tiny, *asked, tmp_path / "parent")
    ran = layercut("eval", other, *asked, tmp_path / "child", "--against", tmp_path / "parent")
    assert ran.code == 0 and "no plan is known" in ran.words, ran.err
    assert "no plan is known" in layercut("compare", tmp_path / "child", tmp_path / "parent").words
