"""What README and docs tell people to type can be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from layercut.cli.main import verbs
from layercut.selection import criterion_row
from layercut.tasks import check_task
from layercut.tasks.suites import asked_tasks
from tests.support.commands import MODEL, ROOT, Said, all_commands, lay_out, smaller, use_block
from tests.support.tiny import CONFIGS, byte_tokenizer
from tests.unit.cli.conftest import Run, layercut  # noqa: F401 - the fixture

COMMANDS: dict[str, Any] = verbs()
ALL = all_commands()


def test_commands_are_found_on_the_pages() -> None:
    pages = {said.where.partition(":")[0] for said in ALL}
    guides = {str(page.relative_to(ROOT)) for page in (ROOT / "docs" / "how_to").glob("*.md")} - {
        "docs/how_to/index.md"
    }
    assert {"README.md", "docs/index.md", "docs/start/tutorial.md", *guides} <= pages
    assert len(ALL) > 60 and len(use_block()) >= 5


@pytest.mark.parametrize("said", ALL, ids=lambda said: " ".join(said.words)[:80])
def test_every_command_is_one(said: Said) -> None:
    verb, *words = said.words
    assert verb in COMMANDS, f"{said.where}: no verb {verb}"
    given = COMMANDS[verb].make_context(verb, words).params
    names = ",".join(given.get(name) or "" for name in ("tasks", "objective") if verb in ("eval", "select", "sweep"))
    suite = f",suite:{given['suite']}" if given.get("suite") else ""
    for task in asked_tasks(names + suite):
        readouts = (given.get("readouts") or "").split(",") if given.get("readouts") else task.readouts
        check_task(task.task, readouts)
    if given.get("criterion"):
        criterion_row(given["criterion"])


@pytest.fixture(scope="module")
def thirty_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model as deep as the embedded one."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "thirty"
    config = AutoConfig.for_model(
        "llama", **{**CONFIGS["llama"], "num_hidden_layers": 30, "max_position_embeddings": 4096}
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def test_the_readme_works_in_order(
    layercut: Run,  # noqa: F811 - the fixture
    thirty_layers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    for file in (tmp_path / "examples").glob("*.yaml"):
        file.write_text(file.read_text("utf-8").replace(MODEL, str(thirty_layers)), encoding="utf-8")
    for said in use_block():
        ran = layercut(*smaller(said.words, 2, str(thirty_layers)))
        has_no_answer = "--predict" in said.words and "so there is no trace to score" in ran.err
        assert ran.code == 0 or has_no_answer, (said.words, ran.err)
    outs = [said.words[said.words.index("--out") + 1] for said in use_block() if "--out" in said.words]
    assert outs and [out for out in outs if not (tmp_path / out).is_dir()] == []
