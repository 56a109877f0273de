from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Decoding
from layercut.errors import InputError
from layercut.progress import show_nothing
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context, Selection
from layercut.selection.objective import TaskObjective
from layercut.selection.select import Selected, SelectionRequest, count_greedy_plans, folder_settings, select_layers
from layercut.selection.specs import LayerSpec
from layercut.settings import CalibrationSettings, ModelSettings, TaskSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.selected_items import SELECTION_ITEMS, record_items
from tests.support.search import NeedyTask
from tests.support.tiny import save_tiny
from tests.unit.conftest import Run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


def select(model: Path, out: Path, criterion: str | None, **wish: Any) -> Selected:
    settings = ModelSettings(model=str(model), device="cpu")
    say = wish.pop("say", lambda text: None)
    request = SelectionRequest(remove=LayerSpec.parse(wish.pop("remove", "1 layer")), criterion=criterion, **wish)
    return select_layers(settings, request, out=out, progress=show_nothing, say=say)


def test_what_is_read_is_said_with_its_time(tiny, tmp_path):
    said: list[str] = []
    text = CalibrationSettings(num_texts=2, max_tokens=16)
    select(tiny, tmp_path / "run", "block_influence", calibration=text, say=said.append)
    assert re.fullmatch(r"calibration: .* 2 texts, \d+ tokens.*", said[0])
    assert re.fullmatch(r"block_influence: .* \(\d+ s\)", said[1])


def test_the_settings_of_a_search_are_its_model_objective_and_text():
    model = {"model": "m", "batch_size": 4}
    parts, drawn = [ObjectiveTask(task=NeedyTask(), readout="short", limit=8)], Decoding(temperature=0.7, seed=3)
    settings = folder_settings(model, parts, drawn, CalibrationSettings())
    assert list(settings) == ["model", "batch_size", "objective", "decoding", "calibration", "seed"]
    assert (settings["model"], settings["calibration"], settings["seed"]) == ("m", None, 3)
    text = CalibrationSettings(source="a.txt")
    wanted = {"source": "a.txt", "num_texts": 16, "max_tokens": 256}
    assert folder_settings(model, parts, drawn, text) == {**settings, "calibration": wanted}


def test_where_a_layer_stands_needs_no_model(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("layercut.models.loading.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    assert select(tiny, tmp_path / "run", "reverse").plan.removed == (5,)
    with pytest.raises(pytest.fail.Exception, match="was loaded"):
        select(tiny, tmp_path / "other", "block_influence")
    with pytest.raises(InputError, match="name the tasks: `objective`"):
        select(tiny, tmp_path / "third", "trace_damage")
    assert not (tmp_path / "third").exists()


SEEN: list[Context] = []


def own_criterion(context: Context) -> Selection:
    SEEN.append(context)
    return Selection((context.candidates[0],))


def test_ones_own_criterion_gets_the_model_and_no_text_unless_it_is_asked_for(tiny, tmp_path):
    assert select(tiny, tmp_path / "run", f"{__name__}:own_criterion", settings={"depth": 2}).plan.removed == (0,)
    (tmp_path / "text.txt").write_text("one text\n")
    text = CalibrationSettings(source=str(tmp_path / "text.txt"), max_tokens=16)
    select(tiny, tmp_path / "run-on-text", f"{__name__}:own_criterion", calibration=text)
    without, with_text = SEEN[-2:]
    assert without.loaded is not None and without.engine is not None
    assert without.calibration is without.objective is None
    assert without.settings == {"depth": 2}
    assert with_text.calibration is not None


@pytest.mark.parametrize(
    ("protect", "recorded", "removed"), [(None, None, 5), ("none", [], 5), ("5,last:2", [4, 5], 3)]
)
def test_a_plan_says_which_layers_were_protected(tiny, tmp_path, protect, recorded, removed):
    plan = select(tiny, tmp_path / "run", "reverse", protect=protect).plan
    assert plan.settings.get("protect") == recorded
    assert plan.removed == (removed,)


def test_a_number_of_held_out_items_without_effect_is_said(tiny, tmp_path):
    said: list[str] = []
    select(tiny, tmp_path / "run", "reverse", held_out=5, say=said.append)
    assert len(said) == 1 and "`held_out` 5 has no" in said[0]


def choosing_by_items(context: Context) -> Selection:
    assert isinstance(context.objective, TaskObjective)
    return Selection((1,), details={SELECTION_ITEMS: record_items(context.objective.items)})


def test_a_plan_that_was_chosen_by_items_is_scored_on_others(tiny, tmp_path):
    tasks = [TaskSettings(task="brackets", readouts=("rank",), limit=4)]
    wish = {"tasks": tasks, "held_out": 3}
    plan = select(tiny, tmp_path / "run", f"{__name__}:choosing_by_items", **wish).plan
    held_out = plan.scores["held_out"]
    (row,) = held_out["rows"]
    assert (row["selected"]["n"], row["held_out"]["n"]) == (4, 3)
    items = [sample.id for sample in load_task("brackets").samples("selection", 7)]
    assert held_out["items"]["brackets"]["ids"] == sorted(items[4:])
    assert CutPlan.load(tmp_path / "run" / "plan.json").scores["held_out"] == held_out
    lines = (tmp_path / "run" / "samples" / "brackets.rank.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 7
    # Another number goes on in the same folder, and none asks nothing.
    fewer = select(tiny, tmp_path / "run", f"{__name__}:choosing_by_items", tasks=tasks, held_out=0).plan
    assert "held_out" not in fewer.scores


def test_mlp_channels_are_chosen_on_the_original_models_right_answers(tiny, tmp_path):
    said: list[str] = []
    wish: dict[str, Any] = {"tasks": [TaskSettings(task="copy", limit=16)], "held_out": 0}
    with pytest.raises(InputError, match="answers none of the selection items"):
        select(tiny, tmp_path / "none", None, remove="mlp:0.25", **wish)
    with pytest.raises(InputError, match="leaves 48 in steps of 2"):
        select(tiny, tmp_path / "few", None, remove="mlp:0.001")
    assert not (tmp_path / "few").exists()
    text = CalibrationSettings(num_texts=2, max_tokens=16)
    wanted: dict[str, Any] = {"calibration": text, "say": said.append}
    found = select(tiny, tmp_path / "run", None, remove="2 mlp:0.25", **wanted).plan
    assert found.removed == (2,) and found.channels is not None and found.channels.num_kept == 36
    assert found.criterion == "explicit" and found.settings["channels"] == "rms"
    assert found.scores["channels"]["num_tokens"] == {"generated": found.settings["calibration"]["num_tokens"]}
    assert re.fullmatch(r"MLP channels ranked by rms on \d+ tokens of generated \(\d+ s\)", said[-1])
    assert CutPlan.load(tmp_path / "run/plan.json") == found
    assert (tmp_path / "run/plans/explicit-1-mlp-0.25.json").is_file()
    both = select(
        tiny, tmp_path / "run", "block_influence", remove="2 layers mlp:0.25", channels="wanda", **wanted
    ).plan
    assert len(both.removed) == 2 and both.criterion == "block_influence" and both.settings["channels"] == "wanda"


TASKS = ("--objective", "arithmetic,copy", "--limit", "3")


def dry(layercut: Run, *words: object) -> dict[str, Any]:
    ran = layercut(*words, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_a_search_counts_its_plans_items_and_held_out_items(layercut, tiny, tmp_path):
    words = ("select", tiny, "--criterion", "task_accuracy", "--remove", "2 layers", *TASKS, "--race", "off")
    said = dry(layercut, *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    search = [step for step in said["steps"] if "plans" in step["name"]]
    held_out = [step for step in said["steps"] if "held out" in step["name"]]
    assert [step["items"] for step in search] == [30, 30] and [step["items"] for step in held_out] == [6, 6]
    assert said["disk_bytes"] > 0 and said["memory_bytes"] > 2**30
    assert count_greedy_plans(5, 1) == 5 and count_greedy_plans(5, 2) == 9 and count_greedy_plans(29, 5) == 135


@pytest.mark.parametrize(
    ("criterion", "more", "items"),
    [
        ("reverse", (), []),
        ("block_influence", (), [4, 4]),
        ("perplexity", (), [4, 12 * 4]),
        ("perplexity", ("--set", "search=one_shot"), [4, 7 * 4]),
        ("trace_damage", TASKS, [3, 18, 3, 18]),
    ],
)
def test_every_criterion_has_its_count(layercut, tiny, tmp_path, criterion, more, items):
    text = ("--calibration-texts", 4, "--calibration-tokens", 16)
    words = ("select", tiny, "--criterion", criterion, "--remove", "2 layers", *text, *more, "--out", tmp_path / "run")
    assert [step["items"] for step in dry(layercut, *words)["steps"]] == items
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_asks_what_it_said(layercut, tiny, tmp_path):
    words = ("sweep", tiny, *TASKS, "--layers", "1-3", "--out", tmp_path / "run")
    said = layercut(*words, "--dry-run")
    assert said.code == 0 and not (tmp_path / "run").exists()
    for words_of_it in ("4 plans: 12 items", "disk: ", "memory: ", "would write to"):
        assert words_of_it in said.out
    assert layercut(*words).code == 0
    files = (tmp_path / "run" / "samples").glob("*.jsonl")
    assert sum(len(file.read_text("utf-8").splitlines()) for file in files) == 24
