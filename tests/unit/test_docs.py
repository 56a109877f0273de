"""Docs and docstrings that are made from the code, or speak of it, say what is true; links arrive."""

import ast
import doctest
import importlib.util
import inspect
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import layercut
from layercut.cli.main import app
from layercut.selection import CRITERIA
from layercut.tasks import TASKS
from layercut.text import PURPOSE
from tests.unit.test_architecture import MAY_USE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SOURCE = Path(layercut.__file__).parent
_spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
assert _spec is not None and _spec.loader is not None
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)
MADE = generate.pages()
_CODE = re.compile(r"^(```.*?^```|~~~.*?^~~~)|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^)\s]+)[^)]*\)")


def menu(entry: Any) -> list[str]:
    """The pages of a part of mkdocs.yml's nav, in order."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in menu(part)]


def site() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return loaded


def anchors(page: str) -> set[str]:
    """The names of a page's headings, as Python-Markdown makes them."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.M):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", shown.replace("`", "")).strip().lower())
        while name in found:
            stem, _, number = name.rpartition("_")
            name = f"{stem}_{int(number) + 1}" if stem and number.isdigit() else f"{name}_1"
        found.append(name)
    return set(found)


@pytest.mark.parametrize("file", sorted(MADE), ids=lambda file: file.name)
def test_what_is_generated_is_up_to_date(file):
    assert file.read_text(encoding="utf-8") == MADE[file], "run `python docs/generate.py`"


def test_every_page_is_in_the_menu_once():
    listed = menu(site()["nav"])
    assert sorted(listed) == sorted(set(listed))
    elsewhere = tuple(site()["not_in_nav"].split())
    pages = {str(page.relative_to(DOCS)) for page in PAGES}
    assert {page for page in pages if not page.startswith(elsewhere)} == set(listed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_link_arrives(page):
    text = page.read_text(encoding="utf-8")
    broken = []
    for link in _LINK.findall(_CODE.sub("", text)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_file() and target.is_relative_to(DOCS)
        if not inside or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_has_one_title_and_says_more(page):
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    assert len(re.findall(r"^# \S", text, re.MULTILINE)) == 1 and text.startswith("# ")
    assert len(text.split()) > 40


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_code_in_a_table_shows_no_backslash(page):
    """GitHub wants a bar in a cell escaped, the site shows the escape: a bar is written as an entity."""
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert [row for row in rows if "\\|" in "".join(re.findall(r"`[^`]*`", row))] == []


def test_the_page_of_the_api_names_what_has_no_twin():
    import layercut
    from layercut.verbs import VERBS

    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    with_twin, without = re.findall(
        r"(`prune`.*?) have such a twin.*?(`plan-size`.*?) are commands only", page, re.DOTALL
    )[0]
    steps = {"run": "run_study", "eval": "evaluate", "select": "select_layers", "report": "write_reports"}
    for verb in VERBS:
        has_one = steps.get(verb, verb) in layercut.__all__
        assert (f"`{verb}`" in with_twin) is has_one and (f"`{verb}`" in without) is not has_one, verb


def test_the_site_asks_no_other_machine():
    config = site()
    assert config["theme"]["font"] is False and config["strict"] is True
    assert not any("//" in file for file in (*config.get("extra_css", ()), *config.get("extra_javascript", ())))
    pictures = [link for page in PAGES for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8"))]
    assert pictures and not any(link.startswith("http") for link in pictures)


def test_the_picture_shows_every_package():
    assert set(generate.ORDER) == set(MAY_USE)
    picture = generate.PICTURE.read_text(encoding="utf-8")
    arrows = set(re.findall(r"<title>(\w+) --&gt; (\w+)</title>", picture))
    assert arrows and arrows <= {(name, used) for name, uses in MAY_USE.items() for used in uses}
    assert [name for name in MAY_USE if not re.search(rf"[>: ]{name}[<, ]", picture)] == []


def test_every_public_name_is_on_the_page_of_the_api():
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    # The functions of verbs are documented by the stub, which says them as names of layercut.
    wanted = {f"{module}.{name}" for name, module in layercut._PUBLIC.items()}
    assert {name for name in wanted if not {name, name.replace("layercut.api.", "layercut.")} & {*named}} == set()
    for name in named:
        module, _, function = name.rpartition(".")
        assert importlib.util.find_spec(name if name == "layercut.errors" else module), function


def test_every_criterion_and_task_is_in_the_reference_and_each_criterion_among_the_papers():
    criteria = (DOCS / "reference" / "criteria.md").read_text(encoding="utf-8")
    assert [name for name in CRITERIA if not re.search(rf"^## {name}\n\n\S+ .*\n\n", criteria, re.MULTILINE)] == []
    readouts = (DOCS / "reference" / "tasks.md").read_text(encoding="utf-8").partition("## Readouts")[2]
    assert [name for name in TASKS if f"`{name}`" not in readouts] == []
    index = (DOCS / "explanation" / "paper_index.md").read_text(encoding="utf-8")
    modules = [row.function.partition(":")[0] for row in CRITERIA.values()]
    files = [module.removeprefix("layercut.").replace(".", "/") + ".py" for module in modules]
    assert [file for file in files if f"`{file}`" not in index] == []


def test_every_setting_has_its_own_page():
    from layercut.base_settings import Settings
    from layercut.engine.base import Decoding
    from layercut.healing.prompt_sources import PromptReading
    from layercut.healing.settings import HealSettings
    from layercut.selection.goal import GoalSettings
    from layercut.study.settings import Depth

    def below(kind: type) -> set[type]:
        return {kind}.union(*(below(one) for one in kind.__subclasses__()))

    ours = {kind for kind in below(Settings) if kind.__module__.startswith("layercut.")} - {Settings}
    ours = {kind for kind in ours if not kind.__module__.startswith("layercut.verbs.")}  # on the page of flags
    left_out = {HealSettings, PromptReading, Decoding, Depth, GoalSettings}  # made of the others, or one value
    assert ours - left_out == {kind for _, kind in generate.settings_classes()}


def test_the_version_is_one_and_the_readme_is_short_and_begins_with_the_two_commands():
    given = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {layercut.__version__, cited["version"]} == {given}
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in headings if name != "Unreleased"][:1] in ([], [given])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.index("make run") < readme.index("make test") < 900
    assert len(readme.splitlines()) <= 90


_OF_NOW = [page for page in PAGES if page.parent.name != "experiments" and page.name != "upgrade.md"]


@pytest.mark.parametrize("page", [*_OF_NOW, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    """In the tree or in a package: ``healing/heal.py``. Not those of a commit that is named, nor ``<name>.py``."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`(?! at [0-9a-f]{8})", text)
    paths = {path for span in spans for path in re.findall(r"(?<![\w./<>*-])[\w.-]+/[\w./-]*\.\w+", span)}
    of_tree = ("src/", "tests/", "docs/", "tools/", "benchmarks/", "examples/")
    ours = [path for path in paths if path.startswith(of_tree) or path.endswith(".py")]
    assert [path for path in ours if not any((place / path).exists() for place in (ROOT, SOURCE))] == []


def test_all_say_what_layercut_is_for_in_the_same_words():
    """The docstring, the package, the site, README, the site's first page, the citation and ``--help``."""
    purpose = f"layercut {PURPOSE}."
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["description"]
    assert package == site()["site_description"] == app.info.help == purpose
    for page in (ROOT / "README.md", DOCS / "index.md"):
        assert page.read_text(encoding="utf-8").split("\n", 3)[2].startswith(purpose), page.name
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["abstract"]
    docstring = " ".join((layercut.__doc__ or "").split())
    assert cited.startswith(purpose) and docstring.startswith(purpose)


def test_python_on_the_pages_calls_what_exists():
    called = []
    for page in (ROOT / "README.md", *PAGES):
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            if block.startswith(">>>"):
                continue
            for node in ast.walk(ast.parse(block)):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                if not isinstance(node.func.value, ast.Name) or node.func.value.id != "layercut":
                    continue
                function = getattr(layercut, node.func.attr)  # AttributeError: the page names what is not there
                parameters = inspect.signature(function).parameters
                takes_more = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
                given = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
                assert takes_more or given <= {*parameters}, (page.name, node.func.attr, given - {*parameters})
                called.append(node.func.attr)
    assert {"prune", "select_layers", "cut", "heal", "evaluate_task"} <= {*called}


MODULES = [
    ".".join(("layercut", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(SOURCE.rglob("*.py"))
    if "    >>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    result = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0 and result.failed == 0
