"""The path of sizes: thinner MLPs, layers or both, at equal bytes; and that a stop changes nothing."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.engine.plain import PlainEngine
from layercut.errors import InputError
from layercut.progress import show_nothing
from layercut.pruning.job import Pruned
from layercut.pruning.path import TRACES, PlanPath, SizePath
from layercut.pruning.settings import PruneSettings
from layercut.pruning.speed import Sizes
from layercut.report.first import first_of_prune
from layercut.selection.answers import ObjectiveTask
from layercut.selection.search_journal import SearchJournal
from layercut.selection.task_criteria import correct_traces
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from tests.support.pruning import choice_file, spare_model, wide_model, written_file
from tests.support.tiny import CONFIGS, save_tiny
from tests.unit.pruning.conftest import run as prune
from tests.unit.pruning.test_job import found, in_legs


def run(model: Path, file: Path, out: Path, **more: Any) -> Pruned:
    return prune(model, file, out, **{"units": "width", "smaller": 0.2, **more})


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> tuple[Path, dict[int, set[int]]]:
    return wide_model(tmp_path_factory.mktemp("models") / "wide")


@pytest.fixture(scope="module")
def choices(wide: Any, tmp_path_factory) -> Path:
    return choice_file(tmp_path_factory.mktemp("data") / "mine.jsonl", wide[0])


@pytest.fixture(scope="module")
def whole(wide: Any, choices: Path, tmp_path_factory) -> Pruned:
    return run(wide[0], choices, tmp_path_factory.mktemp("whole") / "run")


def test_channels_that_do_nothing_are_found_and_confirmed(whole, wide):
    result = whole.result
    assert [step.name for step in result.path] == ["size-10", "size-15", "size-20"]
    assert all(one.passed and one.kept[0].kept is not None and one.kept[0].kept.value == 1 for one in result.tested)
    assert result.verdict == "passed" and result.chosen.name == "size-20" and result.checkpoint == "model"
    channels = whole.plan.channels
    assert channels is not None and result.chosen.mlp == channels.share > 0.4
    for layer, used in wide[1].items():
        assert used <= set(channels.kept[layer])
    assert whole.model.config.intermediate_size == channels.num_kept
    size = result.size
    assert 0.75 < size["cut"].disk_bytes / size["uncut"].disk_bytes < 0.85
    assert "% of the MLP channels" in result.why
    shown = first_of_prune(result)
    assert dict(shown.facts)["removed"] == result.chosen.label
    assert "at most 20% of the weights' bytes" in dict(shown.facts)["asked for"]


def test_one_size_alone_is_the_plan_that_the_path_finds(wide, choices, whole, tmp_path):
    done = run(wide[0], choices, tmp_path / "run", one_size=True)
    assert [step.name for step in done.result.path] == [one.name for one in done.result.tested] == ["size-20"]
    assert done.plan.removed == whole.plan.removed and done.plan.channels == whole.plan.channels
    assert done.result.tested[0].kept == whole.result.tested[-1].kept and done.result.verdict == "passed"
    assert {one.name for one in (tmp_path / "run").glob("size-*")} == {"size-20"}


def test_stopped_anywhere_and_resumed_is_uninterrupted(wide, choices, whole, tmp_path, monkeypatch):
    ended, stops = in_legs(monkeypatch, lambda: run(wide[0], choices, tmp_path), tmp_path, legs=(2, 11, 17))
    assert found(ended) == found(whole) and stops > 2


def test_shares_give_the_bytes_that_were_asked_for(wide):
    handle = handle_of(wide[0])
    sizes, path = Sizes(handle), path_on(handle, wide[0])
    for removed, smaller in (((), 0.1), ((2,), 0.2), ((1, 4), 0.35)):
        share = sizes.share(removed, smaller)
        assert share is not None
        cut = plan_cut(wide[0], SizePath(handle, sizes, layers=False)._plan(path, removed, share))
        assert cut.bytes_after == pytest.approx((1 - smaller) * cut.bytes_before, abs=0.02 * cut.bytes_before)
    assert sizes.share((0, 1, 2, 3), 0.05) is None and sizes.share((), 0.9) is None


def handle_of(model: Path) -> ModelHandle:
    return ModelHandle(ModelSettings(model=str(model), device="cpu"))


def path_on(handle: ModelHandle, model: Path) -> PlanPath:
    """On a file that the model answers right."""
    task = load_task(str(written_file(model.parent / "written.jsonl", model)))
    part = ObjectiveTask(task=task, readout=task.readouts[0], limit=16)
    return PlanPath(handle.engine, [part], decoding=Decoding(), journal=SearchJournal(), progress=show_nothing)


def test_both_takes_what_damages_right_answers_least_at_equal_bytes(tmp_path):
    """In a model whose two layers do nothing, a layer goes first; its bytes are made up to the size by channels."""
    model = spare_model(tmp_path / "spare")
    handle = handle_of(model)
    path, sizes = path_on(handle, model), SizePath(handle, Sizes(handle), layers=True)
    chosen = sizes.next_plan(path, (), 0.16)
    requests = correct_traces(path.objective).requests[:TRACES]
    engine = PlainEngine(handle.loaded)

    def damage(removed: tuple[int, ...]) -> float:
        plan = sizes._plan(path, removed, sizes.sizes.share(removed, 0.16) or 0)
        answers = [one for _, batch in engine.compare(requests, [plan], CutPlan(num_layers=6)) for one in batch]
        return sum(one.kl for one in answers) / sum(one.num_tokens for one in answers)

    tried = [(), *((layer,) for layer in path.proposed((), 2))]
    assert chosen.removed == min(tried, key=damage) != ()


def test_a_model_of_experts_loses_channels_of_each(tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIGS, "mixtral", CONFIGS["mixtral"] | {"intermediate_size": 128})  # steps of 8 are fine
    model = save_tiny("mixtral", tmp_path / "experts")
    file = choice_file(tmp_path / "mine.jsonl", model)
    done = run(model, file, tmp_path / "run", one_size=True, keep=0.1, items=12)
    (step,) = done.result.path
    assert [one.healing for one in step.tried] == [None]  # experts have no one last matrix to solve for
    plan = CutPlan.load(tmp_path / "run" / "plans" / "size-20.json")
    assert plan.channels is not None and set(plan.channels.mlps.values()) == {4}
    assert Sizes(handle_of(model)).share((), 0.2) == pytest.approx(plan.channels.share, abs=0.1)


def test_a_model_whose_mlps_cannot_be_thinned_loses_layers_alone_and_says_so(tmp_path, monkeypatch):
    small = {"vocab_size": 260, "hidden_size": 32, "n_layer": 6, "n_head": 4, "pad_token_id": 256, "eos_token_id": 259}
    monkeypatch.setitem(CONFIGS, "bloom", small)
    model = save_tiny("bloom", tmp_path / "bloom")
    file, said = choice_file(tmp_path / "mine.jsonl", model), []
    done = run(
        model, file, tmp_path / "run", say=said.append, units="both", smaller=0.16, keep=0.5, heal="none", items=12
    )
    assert [one.name for one in done.result.tested] == ["size-15"]
    assert any("layers alone are removed: " in line and "no MLP whose width" in line for line in said)
    with pytest.raises(InputError, match="no MLP whose width"):
        run(model, file, tmp_path / "width", units="width", items=12)


def test_a_seam_solves_for_every_thinner_layer(wide, choices, tmp_path):
    done = run(wide[0], choices, tmp_path / "run", heal="seam", smaller=0.05)
    assert done.result.path[0].tried[1].healing == "seam"
    if done.checkpoint is not None and done.result.chosen.healing:
        (healing,) = json.loads((done.checkpoint / "plan.json").read_text())["healing"]
        assert len(healing["seams"]) == 6


def test_the_sizes_are_steps_and_the_most(wide):
    sizes = Sizes(handle_of(wide[0]))
    assert sizes.wanted(PruneSettings(use="copy", units="both")) == (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    assert sizes.wanted(PruneSettings(use="copy", units="both", smaller="12%")) == (0.05, 0.1, 0.12)
    for units in ("both", "width"):
        with pytest.raises(InputError, match="99% smaller: embeddings and attention stay"):
            sizes.wanted(PruneSettings(use="copy", units=units, smaller="99%"))


def test_the_sizes_of_layers_alone_are_whole_layers(wide):
    """At most what was asked for, and as many as a speed needs."""
    sizes = Sizes(handle_of(wide[0]), thins=False)

    def wanted(**given: Any) -> list[float]:
        shares = sizes.wanted(PruneSettings(use="copy", units="layer", **given))
        assert [sizes.count_layers(share) for share in shares] == list(range(1, len(shares) + 1))
        return [*shares]

    layer, report = wanted(smaller=0.2)[0], plan_cut(wide[0], CutPlan(num_layers=6, removed=(2,)))
    assert layer == pytest.approx(1 - report.bytes_after / report.bytes_before, abs=1e-4)
    assert [len(wanted(smaller=share)) for share in (layer + 0.001, 2 * layer - 0.01, 0.5)] == [1, 1, 3]
    assert len(wanted(faster=1 / (1 - 1.1 * layer))) == 2, "one layer alone is forecast to be slower than asked for"
    with pytest.raises(InputError, match=r"a layer has 14.\d% of the bytes"):
        wanted(smaller=0.1)
    with pytest.raises(InputError, match="90% smaller: embeddings and attention stay"):
        wanted(smaller=0.9)


def test_a_speed_gives_the_sizes(wide):
    """Time goes with what a token passes through: all weights but a table of embeddings that has a head beside it."""
    sizes = Sizes(handle_of(wide[0]))
    model = AutoModelForCausalLM.from_pretrained(wide[0])
    assert model.config.tie_word_embeddings and sizes.wanted(PruneSettings(use="copy", faster=1.25))[-1] == 0.2
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    model.save_pretrained(wide[0].parent / "untied")
    untied = Sizes(handle_of(wide[0].parent / "untied"))
    table = model.lm_head.weight.nbytes
    assert untied.total == sizes.total + table
    assert sizes.wanted(PruneSettings(use="copy", faster=1.2)) == (0.05, 0.1, 0.15, 0.17)
    less = untied.wanted(PruneSettings(use="copy", faster=1.2))[-1]
    assert less == math.ceil(100 * (1 - 1 / 1.2) * sizes.total / untied.total) / 100 < 0.17, "a table is not read"
    assert sizes.wanted(PruneSettings(use="copy", faster=1.1, smaller=0.25))[-1] == 0.25
    with pytest.raises(InputError, match=r"`faster` 9 needs about 8\d% fewer bytes, and at most 60%"):
        sizes.wanted(PruneSettings(use="copy", faster=9.0))
    with pytest.raises(InputError, match=r"`faster` 1.5 needs about 34% fewer bytes, and at most 10%"):
        sizes.wanted(PruneSettings(use="copy", faster=1.5, smaller="10%"))


def test_a_speed_that_was_asked_for_becomes_bytes_and_is_measured(wide, choices, tmp_path):
    result = run(wide[0], choices, tmp_path / "run", smaller=None, faster=1.2).result
    assert [step.name for step in result.path] == ["size-10", "size-15", "size-17"]
    assert (result.goal.faster, result.goal.smaller) == (1.2, 0.17)
    assert result.path_ended == "17 % fewer bytes was the most that was tried; a smaller model may pass too"
    asked = run(wide[0], choices, tmp_path / "asked", smaller=0.17, one_size=True).result
    assert asked.path_ended == "You asked for 17 % at most; a smaller model may pass too"
    assert asked.verdict != "passed" or asked.why.endswith(f" {asked.path_ended}.")
    assert re.search(
        r"times the original's speed a request, (as asked|less than the 1.2 asked|too near to the 1.2)", result.fastest
    )
