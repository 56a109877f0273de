"""What a name stands for, decided without a network and without torch."""

import subprocess
import sys

import pytest

from layercut.errors import CheckpointError, InputError
from layercut.models.sources import resolve
from tests.support.tiny import save_tiny


def refused(source, **how):
    with pytest.raises(InputError) as caught:
        resolve(source, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "./model",
        "../model",
        "/no/such/model",
        "~/no-such-model",
        "a/b/c",
        "model.gguf",
        "lab/model.GGUF",
        "model/",
        "a folder/model",
        r"C:\models\tiny",
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
    source = resolve("lab/tiny")
    assert source.name == "lab/tiny"
    assert source.path.samefile(tmp_path / "lab" / "tiny")
    assert source.revision is None
    assert source.origin == {"kind": "folder"}


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve("~/model").path == tmp_path / "model"


def test_a_folder_made_from_a_gguf_keeps_its_origin(tmp_path):
    (tmp_path / "layercut_source.json").write_text('{"kind": "gguf", "sha256": "abc"}')
    assert resolve(str(tmp_path)).origin == {"kind": "folder", "sha256": "abc"}
    (tmp_path / "layercut_source.json").write_text("{")
    with pytest.raises(CheckpointError, match="layercut_source.json is damaged"):
        resolve(str(tmp_path))


def test_only_the_hub_has_revisions(tmp_path):
    for source in (str(tmp_path), "bundled:smollm2-135m"):
        assert f"{source} has no revisions" in refused(source, revision="main")


def test_nothing_named():
    assert refused("").startswith("no model was named.")
    assert refused("  ").startswith("no model was named.")


def test_the_depth_needs_no_torch(tmp_path):
    path = save_tiny("llama", tmp_path / "model")
    script = (
        f"import sys; from layercut.models.depth import depth_of;print(depth_of({str(path)!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "False"]
