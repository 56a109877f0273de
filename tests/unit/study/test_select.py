from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Decoding
from layercut.errors import InputError
from layercut.selection.base import Context, Selection, silent
from layercut.selection.objective import ObjectiveTask
from layercut.study.select import CalibrationSettings, Selected, folder_settings, select_layers
from layercut.study.settings import ModelSettings
from layercut.study.sweep import sweep_settings
from tests.support.search import NeedyTask
from tests.support.tiny import save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny"))


def select(model: str, out: Path, criterion: str, **wish: Any) -> Selected:
    settings = ModelSettings(model=model, device="cpu")
    return select_layers(
        settings, criterion=criterion, num_remove=1, out=out, progress=silent, say=lambda text: None, **wish
    )


def test_a_sweep_has_the_settings_of_a_search_on_the_same_objective() -> None:
    model = {"model": "m", "batch_size": 4}
    parts, drawn = [ObjectiveTask(task=NeedyTask(), readout="short", limit=8)], Decoding(temperature=0.7, seed=3)
    settings = folder_settings(model, parts, drawn, CalibrationSettings())
    assert list(settings) == ["model", "batch_size", "objective", "decoding", "calibration", "seed"]
    assert (settings["model"], settings["calibration"], settings["seed"]) == ("m", None, 3)
    assert sweep_settings(model, parts, drawn, "selection") == settings
    assert sweep_settings(model, parts, drawn, "report") == {**settings, "split": "report"}
    text = CalibrationSettings(source="a.txt")
    wanted = {"source": "a.txt", "num_texts": 16, "max_tokens": 256}
    assert folder_settings(model, parts, drawn, text) == {**settings, "calibration": wanted}


def test_where_a_layer_stands_needs_no_model(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("layercut.models.loading.load_model", load)
    assert select(tiny, tmp_path / "run", "reverse").plan.removed == (5,)
    with pytest.raises(AssertionError, match="the model was loaded"):
        select(tiny, tmp_path / "other", "magnitude")
    with pytest.raises(InputError, match="trace_damage chooses layers by task scores; say which tasks: --objective"):
        select(tiny, tmp_path / "third", "trace_damage")
    assert not (tmp_path / "third").exists()


SEEN: list[Context] = []


def own_criterion(context: Context) -> Selection:
    SEEN.append(context)
    return Selection((context.candidates[0],))


def test_ones_own_criterion_gets_the_model_and_no_text_unless_it_is_asked_for(tiny: str, tmp_path: Path) -> None:
    assert select(tiny, tmp_path / "run", f"{__name__}:own_criterion", settings={"depth": 2}).plan.removed == (0,)
    (tmp_path / "text.txt").write_text("one text\n")
    text = CalibrationSettings(source=str(tmp_path / "text.txt"), max_tokens=16)
    select(tiny, tmp_path / "run-on-text", f"{__name__}:own_criterion", calibration=text)
    without, with_text = SEEN[-2:]
    assert without.loaded is not None
    assert without.engine is not None
    assert without.calibration is without.objective is None
    assert without.settings == {"depth": 2}
    assert with_text.calibration is not None


@pytest.mark.parametrize(
    ("protect", "recorded", "removed"), [(None, None, 5), ("none", [], 5), ("5,last:2", [4, 5], 3)]
)
def test_a_plan_says_which_layers_were_protected(
    tiny: str, tmp_path: Path, protect: str | None, recorded: list[int] | None, removed: int
) -> None:
    plan = select(tiny, tmp_path / "run", "reverse", protect=protect).plan
    assert plan.settings.get("protect") == recorded
    assert plan.removed == (removed,)
