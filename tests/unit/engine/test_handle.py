import sys

import pytest

from layercut.engine.base import Decoding, GenerationRequest
from layercut.engine.handle import ModelHandle
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.selection.specs import plan_of
from layercut.settings import ModelSettings
from tests.support.engines import completions
from tests.support.fake_vllm import FakeVllm
from tests.support.tiny import NUM_LAYERS, save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny"))


def test_the_shared_engine_is_the_default_and_gets_its_memory(tiny):
    engine = ModelHandle(ModelSettings(model=tiny, device="cpu", batch_size=3, cache_gib=0.5)).engine
    assert isinstance(engine, SharedEngine)
    assert (engine.describe()["batch_size"], engine.cache_gib) == (3, 0.5)
    # The description names the weights and not the memory.
    described = ModelHandle(ModelSettings(model=tiny, engine="shared", cache_gib=4)).describe()
    assert described == ModelHandle(ModelSettings(model=tiny, engine="shared")).describe()
    assert described["engine"] == "shared"
    assert len(described["model_hash"]) == 16


def test_the_plain_engine_imports_no_other(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "layercut.engine.shared", None)  # importing it would raise
    engine = ModelHandle(ModelSettings(model=tiny, device="cpu", batch_size=3, engine="plain")).engine
    assert type(engine) is PlainEngine
    assert engine.describe()["batch_size"] == 3


def test_vllm_reads_the_weights_itself(tiny, monkeypatch):
    fake = FakeVllm(NUM_LAYERS)
    for name in ("vllm", "vllm.platforms", "vllm.distributed"):
        monkeypatch.setitem(sys.modules, name, fake)  # type: ignore[arg-type]
    monkeypatch.setattr("layercut.models.loading.load_model", lambda *_, **__: pytest.fail("loaded twice"))
    handle = ModelHandle(ModelSettings(model=tiny, device="cpu", engine="vllm", batch_size=3, cache_gib=0.5))
    request = GenerationRequest(id="a", prompt="x", max_new_tokens=2)
    ((answer,),) = completions(handle.engine, [request], plan_of(handle, "0,3", 0), Decoding())
    assert answer.num_new_tokens == 2
    assert handle.reader is handle.weightless
    assert fake.started[0]["path"] == tiny
    assert (fake.started[0]["max_num_seqs"], fake.started[0]["kv_cache_memory_bytes"]) == (3, 2**29)


def test_a_server_is_for_evaluating():
    with pytest.raises(InputError, match="only be evaluated"):
        ModelHandle(ModelSettings(model="m", engine="openai", base_url="http://localhost:1/v1"))
