"""What a name stands for; of hub ids what is fetched, and one clear line for each refusal. The hub is on localhost."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest

from layercut.errors import CheckpointError, InputError
from layercut.models.loading import load_model
from layercut.models.sources import depth_of, describe_source, resolve_source
from tests.support.tiny import NUM_LAYERS, save_tiny
from tests.unit.models.gguf_maker import write_gguf
from tests.unit.models.hub_server import COMMIT, FakeHub


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
    assert refused(name).startswith(f"{name} does not exist.")


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-8B-Instruct", "lab_1/model_v1.5"])
def test_what_looks_like_a_hub_id_is_asked_for_there(name):
    """The tests run in the hub library's offline mode."""
    message = refused(name)
    assert message.startswith(f"{name} is not a local")
    assert "out of reach" in message and "local model folder" in message


def test_a_folder_that_exists_wins_over_the_hub_also_in_the_home_folder(tmp_path, monkeypatch):
    (tmp_path / "lab" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    source = resolve_source("lab/tiny")
    assert (source.name, source.revision, source.origin) == ("lab/tiny", None, {"kind": "folder"})
    assert source.path.samefile(tmp_path / "lab" / "tiny")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve_source("~/model").path == tmp_path / "model"


def test_a_folder_made_from_a_gguf_keeps_its_origin(tmp_path):
    (tmp_path / "layercut_source.json").write_text('{"kind": "gguf", "sha256": "abc"}')
    assert resolve_source(str(tmp_path)).origin == {"kind": "folder", "sha256": "abc"}
    (tmp_path / "layercut_source.json").write_text("{")
    with pytest.raises(CheckpointError, match="layercut_source.json is damaged"):
        resolve_source(str(tmp_path))


def test_the_depth_needs_no_torch(tmp_path):
    path = save_tiny("llama", tmp_path / "model")
    script = (
        f"import sys; from layercut.models.sources import depth_of as d;print(d({str(path)!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "False"]


def test_of_a_hub_model_no_weights_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["lab/tiny"] = save_tiny("llama", tmp_path / "repo")
    assert depth_of("lab/tiny") == NUM_LAYERS
    assert "config.json" in hub.fetched() and not any(name.endswith(".safetensors") for name in hub.fetched())
    hub.asked.clear()
    assert depth_of("lab/tiny") == NUM_LAYERS and hub.asked == [], "the cache holds it"


def test_what_is_no_model_has_no_depth(hub: FakeHub, tmp_path: Path) -> None:
    assert depth_of(str(write_gguf(tmp_path / "tiny.gguf"))) == NUM_LAYERS
    assert depth_of(str(tmp_path / "missing.gguf")) is None
    with pytest.raises(InputError, match="lab/none is neither"):
        depth_of("lab/none")
    with pytest.raises(InputError, match="unknown bundled model"):
        depth_of("bundled:none")
    # An adapter is refused by name.
    (tmp_path / "adapter_config.json").write_text("{}")
    assert depth_of(str(tmp_path)) is None
    assert "merge_and_unload" in refused(str(tmp_path))


@pytest.fixture
def model(hub, tmp_path):
    folder = save_tiny("llama", tmp_path / "repo", max_shard_size="60KB")
    hub.repos["lab/tiny"] = folder
    return folder


def test_a_hub_id_becomes_a_snapshot(hub, model):
    loaded = load_model("lab/tiny", device="cpu")
    assert loaded.name == "lab/tiny"
    assert loaded.source.revision == COMMIT
    assert loaded.source.origin == {"kind": "hub", "repo": "lab/tiny", "revision": COMMIT}
    assert loaded.model_hash == describe_source(resolve_source(str(model))).model_hash


def test_only_what_is_needed_is_fetched(hub, model):
    (model / "LICENSE").write_text("free")
    (model / "original").mkdir()
    unwanted = ["pytorch_model.bin", "training_args.bin", "consolidated.safetensors", "original/consolidated.00.pth"]
    unwanted += ["original/params.json", "modeling_own.py", "model.Q4_K.gguf", "adapter_model.safetensors"]
    for name in unwanted:
        (model / name).write_bytes(b"\x80 pickle")
    source = resolve_source("lab/tiny")
    kept = {path.name for path in model.iterdir() if path.suffix in (".safetensors", ".json", ".jinja")}
    kept = {name for name in kept if not name.startswith(("consolidated", "adapter"))} | {"LICENSE"}
    assert hub.fetched() == kept
    assert {path.name for path in source.path.iterdir()} == kept


def test_a_revision_is_asked_for_and_resolved(hub, model, tmp_path):
    assert resolve_source("lab/tiny", revision="v1").revision == COMMIT
    assert any(path.endswith("/revision/v1") for path in hub.asked)
    assert "no revision 'v9'" in refused("lab/tiny", revision="v9")
    # Only the hub has revisions, and a model has a name.
    for source in (str(tmp_path), "bundled:smollm2-135m"):
        assert f"{source} has no revisions" in refused(source, revision="main")
    assert refused("").startswith("no model was named.") and refused("  ").startswith("no model was named.")


def test_without_a_network_or_a_hub_the_cache_serves_what_was_fetched_whole(hub, model, online):
    first = resolve_source("lab/tiny")
    hub.status = 503
    assert resolve_source("lab/tiny").path == first.path
    assert "out of reach" in refused("lab/other")
    online("http://127.0.0.1:9")
    again = resolve_source("lab/tiny")
    assert (again.path, again.revision) == (first.path, COMMIT)
    next(first.path.glob("model-00002-*")).unlink()  # as by an interrupted download
    with pytest.raises(InputError):
        load_model("lab/tiny", device="cpu")


def test_unknown_id(hub):
    message = refused("lab/none")
    assert "lab/none is neither" in message and "hf auth login" in message
    hub.repos["lab/gated"] = "GatedRepo"
    assert "lab/gated is gated" in refused("lab/gated")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["pytorch_model.bin", "config.json"], "only pickled weights (pytorch_model.bin)"),
        (["m.Q8_0.gguf", "README.md"], "it holds README.md, m.Q8_0.gguf"),
        (["README.md"], "has no safetensors weights"),
        (["onnx/model.safetensors", "config.json"], "has no safetensors weights"),
    ],
)
def test_a_repository_without_safetensors_costs_no_download(hub, tmp_path, names, says):
    for name in names:
        path = tmp_path / "odd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    hub.repos["lab/odd"] = tmp_path / "odd"
    with pytest.raises(CheckpointError) as caught:
        resolve_source("lab/odd")
    assert says in str(caught.value)
    assert not hub.fetched()


def test_no_network(online, monkeypatch):
    online("http://127.0.0.1:9")  # closed
    began = time.monotonic()
    message = refused("lab/tiny", revision="v1")
    assert time.monotonic() - began < 10
    assert "lab/tiny at revision v1" in message and "local model folder" in message
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "offline mode" in refused("lab/tiny")


def test_a_network_that_swallows_everything(online, monkeypatch):
    monkeypatch.setattr("layercut.models.sources._TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        online(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert "out of reach" in refused("lab/tiny")
        assert time.monotonic() - began < 10
