"""What a name stands for, decided without a network and without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from layercut.errors import CheckpointError, InputError
from layercut.models.sources import depth_of, describe_source, resolve_source
from tests.support.tiny import CONFIGS, NUM_LAYERS, save_tiny
from tests.unit.models.gguf_maker import write_gguf
from tests.unit.models.hub_server import FakeHub


def refused(source, **how):
    with pytest.raises(InputError) as caught:
        resolve_source(source, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("./model", "../model", "/no/such/model", "~/no-such-model", "a/b/c", "model.gguf"),
        *("lab/model.GGUF", "model/", "a folder/model", r"C:\models\tiny"),
    ],
)
def test_what_looks_like_a_path_is_not_looked_for_on_the_hub(name):
    message = refused(name)
    assert message.startswith(f"{name} does not exist.")


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-8B-Instruct", "lab_1/model_v1.5"])
def test_what_looks_like_a_hub_id_is_asked_for_there(name):
    """The tests run in the hub library's offline mode."""
    message = refused(name)
    assert message.startswith(f"{name} is not a local") and "out of reach" in message
    assert "local model folder" in message


def test_what_exists_wins_over_the_hub(tmp_path, monkeypatch):
    save_tiny("llama", tmp_path / "lab" / "tiny")
    monkeypatch.chdir(tmp_path)
    source = resolve_source("lab/tiny")
    assert source.name == "lab/tiny"
    assert source.path.samefile(tmp_path / "lab" / "tiny")
    assert source.revision is None
    assert source.origin == {"kind": "folder"}


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve_source("~/model").path == tmp_path / "model"


def test_a_folder_made_from_a_gguf_keeps_its_origin(tmp_path):
    (tmp_path / "layercut_source.json").write_text('{"kind": "gguf", "sha256": "abc"}')
    assert resolve_source(str(tmp_path)).origin == {"kind": "folder", "sha256": "abc"}
    (tmp_path / "layercut_source.json").write_text("{")
    with pytest.raises(CheckpointError, match="layercut_source.json is damaged"):
        resolve_source(str(tmp_path))


def test_only_the_hub_has_revisions_and_a_model_has_a_name(tmp_path):
    for source in (str(tmp_path), "bundled:smollm2-135m"):
        assert f"{source} has no revisions" in refused(source, revision="main")
    assert refused("").startswith("no model was named.") and refused("  ").startswith("no model was named.")


def test_the_depth_needs_no_torch(tmp_path):
    path = save_tiny("llama", tmp_path / "model")
    script = (
        f"import sys; from layercut.models.sources import depth_of as d;print(d({str(path)!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "False"]


@pytest.mark.parametrize("family", CONFIGS)
def test_the_depth_of_a_folder_is_that_of_its_weights(family: str, tmp_path: Path) -> None:
    folder = save_tiny(family, tmp_path / family)
    assert depth_of(str(folder)) == describe_source(resolve_source(str(folder))).num_layers == NUM_LAYERS


def test_of_a_hub_model_no_weights_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["lab/tiny"] = save_tiny("llama", tmp_path / "repo")
    assert depth_of("lab/tiny") == NUM_LAYERS
    assert "config.json" in hub.fetched() and not any(name.endswith(".safetensors") for name in hub.fetched())
    hub.asked.clear()
    assert depth_of("lab/tiny") == NUM_LAYERS and hub.asked == [], "the cache holds it"


def test_an_adapter_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert depth_of(str(tmp_path)) is None
    assert "merge_and_unload" in refused(str(tmp_path))


def test_what_is_no_model_has_no_depth(hub: FakeHub, tmp_path: Path) -> None:
    assert depth_of(str(write_gguf(tmp_path / "tiny.gguf"))) == NUM_LAYERS
    assert depth_of(str(tmp_path / "missing.gguf")) is None
    with pytest.raises(InputError, match="lab/none is neither"):
        depth_of("lab/none")
    with pytest.raises(InputError, match="unknown bundled model"):
        depth_of("bundled:none")
