from __future__ import annotations

import sys

import pytest

from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.study.handle import ModelHandle
from layercut.study.settings import ModelSettings
from tests.support.tiny import save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny"))


def test_the_shared_engine_is_the_default_and_gets_its_memory(tiny: str) -> None:
    engine = ModelHandle(ModelSettings(model=tiny, device="cpu", batch_size=3, cache_gib=0.5)).engine
    assert isinstance(engine, SharedEngine)
    assert engine.describe()["batch_size"] == 3
    assert engine.cache_gib == 0.5


def test_the_plain_engine_imports_no_other(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "layercut.engine.shared", None)  # importing it would raise
    engine = ModelHandle(ModelSettings(model=tiny, device="cpu", batch_size=3, engine="plain")).engine
    assert isinstance(engine, PlainEngine)
    assert engine.describe()["batch_size"] == 3


def test_the_description_names_the_weights_and_not_the_memory(tiny: str) -> None:
    described = ModelHandle(ModelSettings(model=tiny, engine="shared", cache_gib=4)).describe()
    assert described == ModelHandle(ModelSettings(model=tiny, engine="shared")).describe()
    assert described["engine"] == "shared"
    assert len(described["model_hash"]) == 16
