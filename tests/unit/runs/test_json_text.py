"""Untrusted YAML and names of Python: bombs, depth, size and functions of Python itself are one line, at once."""

import os
import time
from typing import Any

import pytest
import yaml

from layercut.errors import InputError
from layercut.runs import foreign_code
from layercut.runs.json_text import load_yaml
from layercut.runs.settings import read_config, write_config
from layercut.selection import find_criterion
from layercut.study.file import read_study_file
from layercut.tasks import load_task


def bomb(kind: str) -> str:
    levels = range(1, 30)
    if kind == "merge keys":
        return "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in levels)
    return "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in levels)


HOSTILE = {
    "lists": (bomb("lists"), "more than 100,000 keys and values, its aliases"),
    "merge keys": (bomb("merge keys"), "more than 100,000 keys and values"),
    "wide": ("a: &a [" + "x," * 9000 + "]\nb: [" + "*a," * 9000 + "]\n", "more than 100,000 keys"),
    "itself": ("a: &a [*a]\n", "nested deeper than 100 levels"),
    "its own key": ("&a {*a : 1}\n", "nested deeper|unhashable|alias"),
    "deep": ("[" * 100_000 + "]" * 100_000, "nested deeper than 100 levels"),
    "not so deep": ("[" * 150 + "]" * 150, "nested deeper than 100 levels"),
    "large": ("# " + "x" * 2**21, "larger than 2 MiB"),
    "long number": ("a: " + "9" * 5000, "a value of 5000 characters that is no text"),
    "clock of many hours": ("a: 1" + ":59" * 100_000, "a value of 300001 characters that is no text"),
    "empty integer": ("a: !!int ''", "index out of range"),
    "no truth": ("a: !!bool x", "x"),
    "no time": ("a: !!timestamp x", "NoneType"),
    "no date": ("a: 2024-99-99", "month must be in 1"),
    "an object": ("a: !!python/object/apply:os.system [id]", "line 1: could not determine a constructor"),
    "half a pair": ('a: "\\ud83d"', "half of a surrogate pair"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
    "a list as key": ("[a]: 1", "line 1: found unhashable key"),
    "a tab": ("a:\n\t- x", "line 2: found character"),
    "a control character": ("a: \x01", "special characters are not allowed"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml_is_one_line_at_once(tmp_path, text, message):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    began = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        load_yaml(file)
    for read in (lambda: read_config(tmp_path), lambda: read_study_file(file)):
        with pytest.raises(InputError, match="be read|not a YAML") as refused:
            read()
        assert len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < 600
    assert time.monotonic() - began < 10 and len(str(caught.value).splitlines()) == 1


def test_ordinary_files_are_read_as_before(tmp_path):
    settings = {"seed": 0, "revision": "1e-3", "tasks": [{"task": "copy", "limit": None}], "text": "é" * 5000}
    write_config(tmp_path, settings)
    assert read_config(tmp_path) == settings
    text = "base: &b {x: 1, y: [1e3, 1.5]}\na: {<<: *b, x: 2}\nday: 2024-01-02\n"
    (tmp_path / "a.yaml").write_text(text)
    assert load_yaml(tmp_path / "a.yaml") == yaml.safe_load(text)
    (tmp_path / "a.yaml").write_text("")
    assert load_yaml(tmp_path / "a.yaml") is None


@pytest.mark.parametrize("name", ["os:system", "shutil:rmtree", "subprocess:run", "builtins:exec", "os.path:exists"])
def test_a_function_of_python_is_neither_imported_nor_called(name, monkeypatch):
    def called(*_: Any) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(os, "system", called)
    monkeypatch.setattr(foreign_code, "import_module", called)
    for load in (find_criterion, load_task):
        with pytest.raises(InputError, match=f"{name} .*no (criterion|task)"):
            load(name)
