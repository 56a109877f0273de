"""What README and docs tell people to type or write can be typed and works."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from layercut.cli.main import verb_commands
from layercut.selection import criterion_row
from layercut.tasks import check_task
from layercut.tasks.suites import asked_tasks
from tests.support.commands import MODEL, PAGES, ROOT, all_commands, blocks, commands, lay_out, smaller, use_block
from tests.support.foreign import passthrough
from tests.support.tiny import CONFIGS, byte_tokenizer, save_tiny

COMMANDS: dict[str, Any] = verb_commands()
ALL = all_commands()


def test_commands_are_found_on_the_pages():
    pages = {said.where.partition(":")[0] for said in ALL}
    assert {page.name for page, _ in MODULES} >= {"own_criterion.md", "own_task.md"}
    guides = {str(page.relative_to(ROOT)) for page in (ROOT / "docs" / "how_to").glob("*.md")}
    guides -= {"docs/how_to/index.md", "docs/how_to/extend.md"}
    assert {"README.md", "docs/index.md", "docs/start/tutorial.md", *guides} <= pages
    assert len(ALL) > 60 and len(use_block()) >= 5


@pytest.mark.parametrize("said", ALL, ids=lambda said: " ".join(said.words)[:80])
def test_every_command_is_one(said):
    verb, *words = said.words
    assert verb in COMMANDS, f"{said.where}: no verb {verb}"
    given = COMMANDS[verb].make_context(verb, words).params
    by_name = verb in ("eval", "select", "sweep")
    names = ",".join(given.get(name) or "" for name in ("tasks", "objective") if by_name)
    suite = f",suite:{given['suite']}" if given.get("suite") else ""
    for task in asked_tasks(names + suite):
        readouts = (given.get("readouts") or "").split(",") if given.get("readouts") else task.readouts
        if "my_tasks/" not in task.task:  # a folder that only readers have
            check_task(task.task, readouts)
    if given.get("criterion"):
        criterion_row(given["criterion"])


@pytest.fixture(scope="module")
def thirty_layers(tmp_path_factory) -> Path:
    """A random model as deep as the embedded one."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "thirty"
    deep = {"num_hidden_layers": 30, "max_position_embeddings": 4096}
    config = AutoConfig.for_model("llama", **CONFIGS["llama"] | deep)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def test_the_readme_works_in_order(layercut, thirty_layers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    for file in (tmp_path / "examples").glob("*.yaml"):
        file.write_text(file.read_text("utf-8").replace(MODEL, str(thirty_layers)), encoding="utf-8")
    outs = []
    for said in use_block():
        ran = layercut(*smaller(said.words, 2, str(thirty_layers)))
        # A random model is at chance, which ends what only has a meaning above it.
        at_chance = "so there is no trace to score" in ran.err or "so nothing can be lost there" in ran.err
        assert ran.code == 0 or (at_chance and "prune" in said.words), (said.words, ran.err)
        outs += said.words[said.words.index("--out") + 1 :][:1] if ran.code == 0 and "--out" in said.words else []
    assert outs and [out for out in outs if not (tmp_path / out).is_dir()] == []


def test_a_model_that_others_made_prints_what_its_page_shows(layercut, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    passthrough(save_tiny("llama", Path("parent")), [(0, 2), (4, 6)], Path("foreign"), noise=0.5)
    found = blocks(ROOT / "docs" / "how_to" / "compare.md")
    (place,) = (number for number, block in enumerate(found) if "diagnose parent foreign" in block)
    (said,) = commands(found[place], "compare.md")
    ran = layercut.done(*said.words)
    printed = _without_digits(f"{ran.err} {ran.out}")
    lines = [_without_digits(line) for line in found[place + 1].splitlines()]
    assert len(lines) > 3 and [line for line in lines if line not in printed] == []


def _without_digits(text: str) -> str:
    """On one line, without digits behind a point, which another processor may round otherwise."""
    return re.sub(r"(\d\.)\d+", r"\1", " ".join(text.split()))


_FILE = re.compile(r"# (my_\w+)\.py\n")
GUIDES = {
    page: [block for block in blocks(page) if _FILE.match(block)]
    for page in PAGES
    if page.is_relative_to(ROOT / "docs" / "how_to")
}
MODULES = [(page, block) for page, found in GUIDES.items() for block in found]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty folder that modules are imported from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.parametrize(("page", "block"), MODULES, ids=lambda one: one.name if isinstance(one, Path) else "")
def test_the_module_of_a_guide_works_in_its_commands(page, block, here, layercut, tiny):
    name = _FILE.match(block)[1]
    (here / f"{name}.py").write_text(block, encoding="utf-8")
    every = [said for text in blocks(page) for said in commands(text, page.name)]
    using = [said for said in every if f"{name}:" in " ".join(said.words)]
    assert using
    for said in using:
        ran = layercut(*(tiny if word == MODEL else word for word in said.words), "--device", "cpu")
        assert ran.code == 0, (said.words, ran.err)
