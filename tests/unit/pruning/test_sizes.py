"""The path of sizes: thinner MLPs, layers or both, at equal bytes; and that a stop changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.engine.plain import PlainEngine
from layercut.errors import InputError
from layercut.progress import silent
from layercut.pruning.job import prune_model
from layercut.pruning.path import TRACES, PlanPath
from layercut.pruning.pruned import Pruned
from layercut.pruning.settings import PruneSettings
from layercut.pruning.sizes import SizePath, Sizes
from layercut.report.first import first_of_prune
from layercut.selection.answers import ObjectiveTask
from layercut.selection.search_journal import SearchJournal
from layercut.selection.trace_damage import correct_traces
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from tests.support.pruning import choice_file, spare_model, wide_model, written_file
from tests.support.tiny import save_tiny
from tests.unit.pruning.test_job import Stopped, found, stopped_after


def run(model: Path, file: Path, out: Path, said: Any = None, **settings: Any) -> Pruned:
    wanted = {"tasks": (str(file),), "keep": 0.8, "items": 40, "units": "width", "smaller": 0.2, **settings}
    return prune_model(
        ModelSettings(model=str(model), device="cpu"),
        PruneSettings(**wanted),
        out=out,
        console=Console(quiet=True),
        say=said or (lambda text: None),
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, set[int]]]:
    return wide_model(tmp_path_factory.mktemp("models") / "wide")


@pytest.fixture(scope="module")
def choices(wide: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return choice_file(tmp_path_factory.mktemp("data") / "mine.jsonl", wide[0])


@pytest.fixture(scope="module")
def whole(wide: Any, choices: Path, tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    return run(wide[0], choices, tmp_path_factory.mktemp("whole") / "run")


def test_channels_that_do_nothing_are_found_and_confirmed(whole: Pruned, wide: Any) -> None:
    result = whole.result
    assert [step.name for step in result.path] == ["size-5", "size-10", "size-15", "size-20"]
    assert all(one.passed and one.kept[0].kept is not None and one.kept[0].kept.value == 1 for one in result.tested)
    assert result.verdict == "passed" and result.chosen.name == "size-20" and result.checkpoint == "model"
    channels = whole.plan.channels
    assert channels is not None and result.chosen.mlp == channels.share > 0.4
    for layer, used in wide[1].items():
        assert used <= set(channels.kept[layer])
    assert whole.model.config.intermediate_size == channels.num_kept
    size = result.size
    assert 0.75 < size["cut"].disk_bytes / size["uncut"].disk_bytes < 0.85
    assert "% of the MLP channels the model keeps at least 80%" in result.why
    shown = first_of_prune(result)
    assert dict(shown.facts)["removed"] == result.chosen.label
    assert "at most 20% of the weights' bytes" in dict(shown.facts)["asked for"]


def test_selection_items_choose_and_report_items_confirm(whole: Pruned, choices: Path) -> None:
    report = {one.id for one in load_task(str(choices)).samples("report", None)}
    chosen = set(whole.plan.scores["selection_items"]["mine.jsonl"]["ids"])
    assert chosen and not chosen & report


def test_stopped_anywhere_and_resumed_is_uninterrupted(
    wide: Any, choices: Path, whole: Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped_after(monkeypatch, 10**9) as count:
        run(wide[0], choices, tmp_path / "count")
    for number, writes in enumerate(range(1, count[0], max(1, count[0] // 4))):
        out = tmp_path / f"stopped-{number}"
        with pytest.raises(Stopped), stopped_after(monkeypatch, writes):
            run(wide[0], choices, out)
        assert found(run(wide[0], choices, out)) == found(whole), f"stopped after {writes} of {count[0]} writes"


def test_shares_give_the_bytes_that_were_asked_for(wide: Any) -> None:
    handle = ModelHandle(ModelSettings(model=str(wide[0]), device="cpu"))
    sizes = Sizes(handle)
    for removed, smaller in (((), 0.1), ((2,), 0.2), ((1, 4), 0.35)):
        share = sizes.share(removed, smaller)
        assert share is not None
        path = a_path(handle, tiny_task(wide[0]))
        cut = plan_cut(wide[0], SizePath(handle, layers=False)._plan(path, removed, share))
        assert cut.bytes_after == pytest.approx((1 - smaller) * cut.bytes_before, abs=0.02 * cut.bytes_before)
    assert sizes.share((0, 1, 2, 3), 0.05) is None and sizes.share((), 0.9) is None


def tiny_task(model: Path) -> ObjectiveTask:
    task = load_task(str(written_file(model.parent / "written.jsonl", model)))
    return ObjectiveTask(task=task, readout=task.readouts[0], limit=16)


def a_path(handle: ModelHandle, part: ObjectiveTask) -> PlanPath:
    return PlanPath(handle.engine, [part], decoding=Decoding(), journal=SearchJournal(), progress=silent)


def test_both_takes_what_damages_right_answers_least_at_equal_bytes(tmp_path: Path) -> None:
    """In a model whose two layers do nothing, a layer goes first; its bytes are made up to the size by channels."""
    model = spare_model(tmp_path / "spare")
    handle = ModelHandle(ModelSettings(model=str(model), device="cpu"))
    part = tiny_task(model)
    path = a_path(handle, part)
    sizes = SizePath(handle, layers=True)
    found = sizes.next_plan(path, (), 0.16)
    requests = correct_traces(path.objective).requests[:TRACES]
    engine = PlainEngine(handle.loaded)

    def damage(removed: tuple[int, ...]) -> float:
        plan = sizes._plan(path, removed, sizes.sizes.share(removed, 0.16) or 0)
        answers = [
            one for _, batch in engine.divergences_under(requests, [plan], CutPlan(num_layers=6)) for one in batch
        ]
        return sum(one.kl for one in answers) / sum(one.num_tokens for one in answers)

    tried = [(), *((layer,) for layer in path.proposed((), 2))]
    assert found.num_candidates == 3 and found.plan.removed == min(tried, key=damage) != ()


def test_a_model_of_experts_loses_layers_alone_and_says_so(tmp_path: Path) -> None:
    model = save_tiny("mixtral", tmp_path / "experts")
    file, said = choice_file(tmp_path / "mine.jsonl", model), []
    done = run(model, file, tmp_path / "run", said.append, units="both", smaller=0.05, keep=0.5, heal="none", items=12)
    assert [one.name for one in done.result.tested] == ["depth-1"] and done.result.goal.smaller is None
    assert any("layers alone are removed: mlp.experts" in line for line in said)
    with pytest.raises(InputError, match="mlp.experts"):
        run(model, file, tmp_path / "width", units="width", items=12)


def test_a_seam_solves_for_every_thinner_layer(wide: Any, choices: Path, tmp_path: Path) -> None:
    done = run(wide[0], choices, tmp_path / "run", heal="seam", smaller=0.05)
    assert done.result.path[0].tried[1].healing == "seam"
    if done.checkpoint is not None and done.result.chosen.healing:
        (healing,) = json.loads((done.checkpoint / "plan.json").read_text())["healing"]
        assert len(healing["seams"]) == 6


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"units": "layer", "smaller": 0.2}, "say `units` both"),
        ({"max_depth": "3", "smaller": 0.2}, "say `units` both"),
        ({"units": "both", "max_depth": "3"}, "say `smaller` 20%"),
        ({"units": "width", "remove": "2 layers"}, "say `smaller` 20%"),
        ({"units": "hight"}, "units"),
    ],
)
def test_settings_that_contradict_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        PruneSettings(use="copy", **given)


def test_the_sizes_are_steps_and_the_most() -> None:
    assert PruneSettings(use="copy").wanted_units == "both"
    assert PruneSettings(use="copy", max_depth="3").wanted_units == "layer"
    assert PruneSettings(use="copy", units="both").sizes == (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    assert PruneSettings(use="copy", units="both", smaller="12%").sizes == (0.05, 0.1, 0.12)
