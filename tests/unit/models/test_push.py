"""Pushing a checkpoint: what the hub gets, over a local server that speaks its protocol."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import get_session

import layercut as package
from layercut.errors import InputError
from layercut.models.push import prepare_upload, upload_checkpoint
from layercut.runs.prune import PruneResult
from tests.support.pages import write_prune
from tests.support.pruning import spare_model
from tests.unit.conftest import Run
from tests.unit.models.hub_server import FakeHub


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", "secret")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of prune with a checkpoint that layercut cut wrote."""
    folder = write_prune(tmp_path_factory.mktemp("runs") / "run")
    model = spare_model(tmp_path_factory.mktemp("models") / "spare")
    package.cut(model, "2", folder / "model")
    return folder


def front(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text.partition("---\n")[2].partition("---\n")[0])
    assert isinstance(found, dict)
    return found


def test_the_hub_gets_the_checkpoint_the_card_and_the_evidence(run: Path, hub: FakeHub) -> None:
    address = upload_checkpoint(prepare_upload(run, "me/small"), private=True)
    assert address.endswith("/me/small") and hub.created[0]["name"] == "small" and "private" in str(hub.created[0])
    assert {"model.safetensors", "config.json", "plan.json", "README.md", "evidence/result.json"} <= {*hub.files}
    assert hub.files["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    assert PruneResult.model_validate_json(hub.files["evidence/result.json"]) == PruneResult.load(run)
    assert not any(name.endswith(".html") for name in hub.files), "reports hold questions"


def test_the_card_says_the_scores_as_the_hub_reads_them(run: Path) -> None:
    result = PruneResult.load(run)
    card = prepare_upload(run, "me/small").card
    data = front(card)
    assert "layercut" in data["tags"] and data["library_name"] == "transformers"
    (entry,) = data["model-index"]
    (scored,) = entry["results"]
    kept = next(variant for variant in result.tested if variant.name == result.chosen.name).kept[0]
    assert entry["name"] == "small" and scored["task"]["type"] == "text-generation"
    (metric,) = scored["metrics"]
    assert metric["value"] == round(kept.cut.value, 4) and metric["name"] == "no interval; original model 0.8"
    assert "items that nothing was chosen on" in scored["dataset"]["name"]
    own = (run / "model" / "README.md").read_text()
    assert card.partition("---\n")[2].partition("---\n")[2] == own.partition("---\n")[2].partition("---\n")[2]


def test_a_checkpoint_alone_is_pushed_with_its_own_card(run: Path, hub: FakeHub) -> None:
    upload = prepare_upload(run / "model", "me/small")
    own = (run / "model" / "README.md").read_text()
    assert upload.result is None and front(upload.card).keys() == front(own).keys()
    upload_checkpoint(upload)
    assert "evidence/result.json" not in hub.files and "plan.json" in hub.files


@pytest.mark.parametrize(("checkpoint", "has_result"), [("checkpoint", True), ("model", False)])
def test_scores_of_a_prune_are_those_of_its_own_model_alone(run, tmp_path, checkpoint, has_result):
    folder = tmp_path / "run"
    shutil.copytree(run / "model", folder / checkpoint)
    if has_result:
        shutil.copy(run / "result.json", folder)
    upload = prepare_upload(folder, "me/small")
    assert upload.result is None and "model-index" not in front(upload.card)


def test_what_cannot_be_pushed_is_refused_in_one_line(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no name of a repository"):
        prepare_upload(run, "small")
    with pytest.raises(InputError, match="holds no checkpoint"):
        prepare_upload(tmp_path, "me/small")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"has no README.md"):
        prepare_upload(tmp_path, "me/small")
    hub.status = 401
    with pytest.raises(InputError, match="the hub does not take me/small") as caught:
        upload_checkpoint(prepare_upload(run, "me/small"))
    assert "\n" not in str(caught.value) and "hf auth login" in str(caught.value)
    assert "Bearer hf_..." in str(caught.value) and "secret" not in str(caught.value)


def test_a_hub_that_never_answers_is_left(run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.is_silent = True
    monkeypatch.setattr("layercut.models.push.SECONDS", 0.2)
    before = get_session().timeout
    with pytest.raises(InputError, match=r"does not take me/small \(.*timed out"):
        upload_checkpoint(prepare_upload(run, "me/small"))
    assert get_session().timeout == before


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


@pytest.mark.parametrize(
    "name", [".env", ".git/config", "id_rsa", "notes/a.json", "training.bin", "additional_chat_templates/a/b.jinja"]
)
def test_only_kinds_of_files_that_a_model_has_are_uploaded(copied: Path, name: str) -> None:
    file = copied / "model" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    with pytest.raises(InputError, match=f"{name} is no file that layercut puts into a model folder; move it away"):
        prepare_upload(copied, "me/small")


def test_links_are_not_followed(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "key.txt").write_text("mine")
    for name, target in (("link.txt", "mine/key.txt"), ("additional_chat_templates", "mine")):
        link = copied / "model" / name
        link.symlink_to(tmp_path / target)
        with pytest.raises(InputError, match=f"{name} is a link; move it away"):
            prepare_upload(copied, "me/small")
        link.unlink()
    (copied / "model" / "README.md").rename(tmp_path / "card.md")
    (copied / "model" / "README.md").symlink_to(tmp_path / "card.md")
    with pytest.raises(InputError, match="README.md is a link"):
        prepare_upload(copied, "me/small")


@pytest.mark.parametrize(
    "card",
    [
        "---\n- a\n- b\n---\n", "---\na: [\n---\n", "---\n3: 4\n---\n", "---\ntags: 5\n---\n", "---\na: !x 1\n---\n",
        "---\nmodel-index: 5\n---\n", "---\nmodel-index: [{name: a}]\n---\n", "---\ncontent: \u0000\n---\n", "\udc80",
        "---\nself: 1\n---\n",
        "---\na: " + "[" * 3000 + "\n---\n",
    ],
)  # fmt: skip
def test_an_odd_card_is_refused_in_one_line(copied: Path, card: str) -> None:
    (copied / "model" / "README.md").write_bytes(card.encode("utf-8", "surrogateescape"))
    for folder in (copied, copied / "model"):
        with pytest.raises(InputError, match=r"README.md: mend the lines between its ---") as caught:
            prepare_upload(folder, "me/small")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [7, -0.1, float("nan"), float("inf")])
def test_a_score_that_is_none_does_not_get_into_the_card(copied: Path, value: float) -> None:
    data = json.loads((copied / "result.json").read_text())
    data["tested"][0]["kept"][0]["cut"]["value"] = value
    (copied / "result.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"is not a result of layercut prune|scores .* on arithmetic; a score is a sh"):
        prepare_upload(copied, "me/small")


def test_the_dry_run_of_push_uploads_nothing(run: Path, hub: FakeHub, layercut: Run) -> None:
    ran = layercut.done("push", run, "me/small", "--dry-run")
    assert "model.safetensors" in ran.out and "model-index" in ran.out and "nothing was uploaded" in ran.out
    assert not hub.created and not hub.files
    sent = layercut("push", run, "me/small")
    assert sent.code == 0 and "uploaded: http://127.0.0.1" in sent.out and hub.files
