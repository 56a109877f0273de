"""Hub ids: what is fetched, what is not, and one clear line for each refusal. The hub is a stand-in on localhost."""

import socket
import time

import huggingface_hub
import pytest

from layercut.errors import CheckpointError, InputError
from layercut.models.loading import load_model
from layercut.models.sources import describe_source, resolve_source
from tests.support.tiny import save_tiny
from tests.unit.models.hub_server import COMMIT


@pytest.fixture
def model(hub, tmp_path):
    folder = save_tiny("llama", tmp_path / "repo", max_shard_size="60KB")
    hub.repos["lab/tiny"] = folder
    return folder


def refused(source, **how):
    with pytest.raises(InputError) as caught:
        resolve_source(source, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_a_revision_is_asked_for_and_resolved(hub, model):
    assert resolve_source("lab/tiny", revision="v1").revision == COMMIT
    assert any(path.endswith("/revision/v1") for path in hub.asked)
    assert "no revision 'v9'" in refused("lab/tiny", revision="v9")


def test_what_was_fetched_once_is_there_without_a_network(hub, model, online):
    first = resolve_source("lab/tiny")
    online("http://127.0.0.1:9")
    again = resolve_source("lab/tiny")
    assert (again.path, again.revision) == (first.path, COMMIT)


def test_a_hub_that_is_down_gives_way_to_the_cache(hub, model, monkeypatch):
    first = resolve_source("lab/tiny")
    hub.status = 503
    assert resolve_source("lab/tiny").path == first.path
    assert "out of reach" in refused("lab/other")


def test_an_interrupted_download_is_no_model(hub, model, online):
    path = resolve_source("lab/tiny").path
    next(path.glob("model-00002-*")).unlink()
    online("http://127.0.0.1:9")
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
