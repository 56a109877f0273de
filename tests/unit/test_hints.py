"""What a message tells people to do can be done: its commands, flags, arguments and files exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layercut.cli.main import verb_commands
from layercut.diagnostics import DIAGNOSTICS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "layercut"
COMMANDS: dict[str, Any] = verb_commands()
FLAGS = {
    verb: {word for one in kind.params for word in (*one.opts, *one.secondary_opts)} for verb, kind in COMMANDS.items()
}
NAMES = {verb: {str(one.name) for one in kind.params} | {*kind.flags} for verb, kind in COMMANDS.items()}
FOREIGN = {"--help", "--version", "--editable", "--no-deps", "--force-reinstall", "--merge"}
FOREIGN |= {"--speculative-config", "--spec-type", "--spec-draft-n-max", "--spec-draft-n-min"}
FOREIGN |= {"--outtype", "--outfile", "--tensor-type-file", "--imatrix"}
"""Of every command, of pip, of llama.cpp and of vLLM."""
NOT_FOR_PEOPLE = ("report/html", "report/figures", "sandbox/isolation.py", "runs/environment.py")


def text_of(node: ast.AST) -> str:
    """Text as it is shown, with X where a value comes in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return text_of(node.left) + text_of(node.right) if isinstance(node, ast.BinOp) else ""


def strings(file: Path) -> Iterator[tuple[str, str]]:
    """Every text in a file that may reach people, and where."""
    tree, inner = ast.parse(file.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        is_silent = isinstance(node, ast.Expr)
        if is_silent or isinstance(node, ast.JoinedStr | ast.BinOp):
            inner |= {id(one) for one in ast.walk(node) if one is not node and not isinstance(one, ast.FormattedValue)}
        if id(node) not in inner and not is_silent and (text := text_of(node)):
            yield f"{file.relative_to(SOURCE)}:{node.lineno}", text  # type: ignore[attr-defined]


MESSAGES = [
    one
    for file in sorted(SOURCE.rglob("*.py"))
    if not str(file.relative_to(SOURCE)).startswith(NOT_FOR_PEOPLE)
    for one in strings(file)
] + [(f"cli/{verb}.py:1", kind.help) for verb, kind in COMMANDS.items()]


def own_verb(where: str) -> str:
    """The verb in whose file a text is; empty for all others."""
    file = Path(where.partition(":")[0])
    name = {"evaluate": "eval"}.get(file.stem, file.stem.replace("_", "-"))
    return name if file.parent.name == "cli" and name in COMMANDS else ""


def test_messages_are_found():
    assert len(MESSAGES) > 3000
    assert sum("layercut " in text for _, text in MESSAGES) > 60 and sum("--" in text for _, text in MESSAGES) > 60


def test_every_command_that_a_message_names_has_its_flags():
    wrong = [
        (where, verb, flag)
        for where, text in MESSAGES
        for verb, rest in re.findall(r"layercut ([a-z-]+)([^;,`\"]*)", text)
        for flag in re.findall(r"--[a-z-]+", re.split(r"\.\s|\n\n", rest)[0])
        if verb in COMMANDS and flag not in FLAGS[verb] | FOREIGN
    ]
    assert wrong == []


def test_every_flag_that_a_message_names_exists_in_its_verb():
    every = set().union(*FLAGS.values())
    wrong = [
        (where, flag)
        for where, text in MESSAGES
        for flag in re.findall(r"(?<![\w(-])--[a-z][a-z-]+", text)
        if flag not in (FLAGS[own_verb(where)] if own_verb(where) and "layercut" not in text else every) | FOREIGN
    ]
    assert wrong == []


def test_every_argument_that_a_text_names_exists():
    every = set().union(*NAMES.values()) | {*COMMANDS}
    names = [(where, name) for where, text in MESSAGES for name in re.findall(r"`([a-z_]+)(?:=\w+)?`", text)]
    assert len(names) > 100 and [one for one in names if one[1] not in every] == []
    for verb, kind in COMMANDS.items():
        for one in kind.params:
            for name in re.findall(r"such as (\w+)=\d", getattr(one, "help", None) or ""):
                assert name in NAMES[verb] or one.name == "data", (verb, one.name, name)


def test_every_file_and_diagnostic_that_the_code_names_exists():
    texts = [file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py")]
    named = {one for text in texts for one in re.findall(r"\b(?:docs|examples|benchmarks|tests)/[\w./-]+\.\w+", text)}
    assert len(named) > 5 and [one for one in sorted(named) if not (ROOT / one).exists()] == []
    texts = [text for file in sorted(SOURCE.rglob("*.py")) for _, text in strings(file)]
    named = {name for text in texts for names in re.findall(r"--only ([a-z_,]+)", text) for name in names.split(",")}
    assert named <= {*DIAGNOSTICS}


@pytest.mark.parametrize("words", ["report", "compare RUN", "eval m --tasks copy --against"])
def test_a_folder_that_is_not_there_is_said_to_be_none(words, layercut, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = layercut(*(word.replace("RUN", "nodir") for word in words.split()), "nodir")
    assert done.code == 1 and "nodir" in done.err and "`layercut ls" in done.err, done.err
