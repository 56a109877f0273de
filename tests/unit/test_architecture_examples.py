"""The jobs of docs/explanation/architecture.md and the examples of docs/how_to/extend.md, run on a tiny model."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

import layercut
from layercut.cli.main import main
from layercut.diagnostics import DIAGNOSTICS
from layercut.report.reports import KINDS
from tests.support.tiny import save_tiny

BRIGHT = "tests.support.studies:bright"
DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "explanation" / "architecture.md").read_text(encoding="utf-8") + "\n## End\n"
EXTEND = (DOCS / "how_to" / "extend.md").read_text(encoding="utf-8") + "\n## End\n"
_SECTION = re.compile(r"^##+ ([^\n]*)\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_STEP = re.compile(r"^\d+\. `([\w/]+\.py)`: ", re.MULTILINE)
_FILE = re.compile(r"# (\w+\.py)\n")
JOBS = {title: found for title, text in _SECTION.findall(PAGE) if (found := _STEP.findall(text))}
COMMANDS = {
    "Prune a model for a use": f"prune {{model}} --tasks {BRIGHT} --items 8 --keep 0.5 --units layer "
    "--smaller 20% --heal seam --anyway --out pruned",
    "Remove layers and write a checkpoint": "cut {model} --remove 3-4 --out cut",
    "Choose layers by task accuracy": f"select {{model}} --criterion task_accuracy --objective {BRIGHT} "
    "--remove 1layer --race exact --limit 8 --out selected",
    "Run a study": "run study.yaml --trust-study-code",
    "Heal": "heal last --teacher {model} --prompts task:copy --limit 8 --keep-unfinished --max-new-tokens 4 "
    "--max-steps 1 --out healed",
}
EXAMPLES = {title: found for title, text in _SECTION.findall(EXTEND) if (found := _BLOCK.findall(text))}


@pytest.fixture
def model(tmp_path_factory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty folder that modules are imported from; what an example registers is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    lists: list[dict[str, object]] = [DIAGNOSTICS, KINDS]  # type: ignore[list-item]
    kept, modules = [dict(one) for one in lists], set(sys.modules)
    yield tmp_path
    for one, before in zip(lists, kept, strict=True):
        one.clear()
        one.update(before)
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


def test_there_is_an_example_of_everything_that_can_be_added():
    kinds = ("criterion", "task", "model family", "healing method", "diagnostic", "report section")
    assert list(EXAMPLES) == [f"A {kind}" for kind in kinds]


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_runs_as_it_stands_on_the_page(title, model, here):
    for block in EXAMPLES[title]:
        assert max(map(len, block.splitlines())) <= 120
        if name := _FILE.match(block):
            (here / name[1]).write_text(block, encoding="utf-8")
        else:
            exec(compile(block, title, "exec"), {"MODEL": str(model), "__name__": "example"})


@pytest.mark.parametrize("title", COMMANDS)
def test_a_job_enters_the_files_that_the_page_lists_in_this_order(title, model, here, monkeypatch):
    study = {"model": str(model), "device": "cpu", "out": "study", "tasks": [BRIGHT], "plans": {"last": "reverse:1"}}
    Path("study.yaml").write_text(json.dumps(study), encoding="utf-8")
    layercut.cut(model, "reverse:1", "last")
    monkeypatch.setattr(sys, "argv", ["layercut", *COMMANDS[title].format(model=model).split()])
    entered = files_entered()
    listed = JOBS[title]
    assert [file for file in listed if file not in entered] == []
    assert sorted(listed, key=entered.index) == listed
    assert f"{len(listed)} files" in PAGE.partition(f"### {title}\n")[2].partition("1. `")[0]


def files_entered() -> list[str]:
    """Files of layercut in the order in which the command line first calls a function of theirs, imports apart."""
    found: dict[str, None] = {}
    root = f"{Path(layercut.__file__).parent}/"

    def on_call(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(root) or file in found or frame.f_code.co_name == "<module>":
            return
        outer: FrameType | None = frame
        while outer is not None:
            if outer.f_code.co_name == "<module>" and outer.f_code.co_filename.startswith(root):
                return
            outer = outer.f_back
        found[file] = None

    sys.setprofile(on_call)
    try:
        main()
    except SystemExit as end:
        assert not end.code
    finally:
        sys.setprofile(None)
    return [file.removeprefix(root) for file in found]
