"""Timing a model: every token is counted, and the model stays whole."""

import pytest

from layercut.engine.handle import ModelHandle
from layercut.engine.timing import NUM_NEW_TOKENS, CheckpointTimer
from layercut.errors import InputError
from layercut.pruning.settings import Profile
from layercut.pruning.speed import other_model, timer_of
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan
from tests.support.pruning import spare_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return spare_model(tmp_path_factory.mktemp("models") / "spare")


@pytest.mark.parametrize(("prompt", "middle"), [(8, 12), (8, 8)])
def test_keys_and_values_are_those_of_all_tokens_before_the_timed_ones(model, prompt, middle):
    loaded = ModelHandle(ModelSettings(model=str(model), device="cpu")).loaded
    config, num_layers = loaded.model.config, len(loaded.model.model.layers)
    found = CheckpointTimer(loaded, CutPlan(num_layers=num_layers, removed=(2,)))(3, prompt, middle, 0)
    each = 2 * config.num_key_value_heads * (config.hidden_size // config.num_attention_heads) * 4
    assert found.cache_bytes == 3 * middle * (num_layers - 1) * each
    assert min(found) > 0 and len(loaded.model.model.layers) == num_layers


def test_a_gguf_file_is_timed_in_llama_cpp(model, tmp_path):
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (layercut[llama-cpp])")
    from tests.unit.models.gguf_maker import write_gguf

    file = write_gguf(tmp_path / "tiny.gguf")
    handle = other_model(ModelSettings(model=str(model), device="cpu", batch_size=2), str(file))
    timer = timer_of(handle)
    found = timer(2, 12, 16, 0)
    assert min(found) > 0 and timer.weight_bytes == file.stat().st_size
    own = ModelHandle(ModelSettings(model=str(file), device="cpu"))
    thin = timer_of(own, CutPlan(num_layers=6, removed=(1, 2)), Profile(2, 12, 8, "llama.cpp"))
    assert thin.weight_bytes < timer.weight_bytes
    assert thin(2, 12, 16, 0).cache_bytes == found.cache_bytes * 4 // 6
    with pytest.raises(InputError, match=r"do not fit into .* tokens of context"):
        timer(2, 10**6, 8, 0)
    handle.release()


def test_llama_cpp_reads_a_prompt_anew_once_and_writes_behind_what_it_holds(tmp_path, monkeypatch):
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (layercut[llama-cpp])")
    from layercut.engine.llamacpp import ServerInProcess
    from tests.unit.models.gguf_maker import write_gguf

    asked, ask = [], ServerInProcess.ask

    def ask_and_note(self, prompt, **options):
        asked.append((len(prompt), options["n_predict"], options["cache_prompt"]))
        return ask(self, prompt, **options)

    monkeypatch.setattr(ServerInProcess, "ask", ask_and_note)
    handle = ModelHandle(ModelSettings(model=str(write_gguf(tmp_path / "tiny.gguf")), device="cpu"))
    timer_of(handle, profile=Profile(engine="llama.cpp"))(1, 12, 16, 0)
    assert asked == [(12, 1, False), (16, 1, True), (16, 1, True), (16, NUM_NEW_TOKENS, True)]
    handle.release()


def test_llama_cpp_times_no_folder(model):
    handle = ModelHandle(ModelSettings(model=str(model), device="cpu"))
    with pytest.raises(InputError, match="`serve` engine=llama.cpp times a GGUF file, and .* is none; give"):
        timer_of(handle, profile=Profile(engine="llama.cpp"))
