"""The environment file tells versions and machine, and no secrets."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import layercut
from layercut.runs.environment import collect_environment, command_line, hide_home


def test_what_is_collected(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    data = collect_environment(["/opt/x/bin/layercut", "eval", "m"])
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", data["time"])
    assert data["command"] == "layercut eval m"
    assert data["layercut"] == layercut.__version__
    assert data["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.match(r"\d+\.\d+", data["packages"]["numpy"])
    assert data["cores"] >= 1 and data["memory_gib"] > 0 and data["cpu"]
    assert "secret" not in json.dumps(data)


def test_command_line_hides_tokens_and_home_only_where_it_is_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    assert command_line(["/home/ada/.venv/bin/layercut", "cut", "/home/ada/models/l8", "--out=/home/ada/x y"]) == (
        "layercut cut ~/models/l8 '--out=~/x y'"
    )
    assert command_line(["x/cli/__main__.py", "ls"]) == "layercut ls"
    assert command_line(["layercut", "--token", "hf_" + "a1" * 15]) == "layercut --token hf_..."
    assert command_line([]) == ""
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    for text, hidden in {"/home/ada": "~", "/home/ada/x": "~/x", "in '/home/ada/x'.": "in '~/x'."}.items():
        assert hide_home(text) == hidden
    for text in ("/home/adam/x", "/mnt/home/ada/x"):
        assert hide_home(text) == text


def test_git_commit_of_a_checkout_and_none_inside_another_repository(tmp_path):
    """A venv inside somebody's repository must not lend that repository's commit to layercut."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    shutil.copytree(Path(layercut.__file__).parent, tmp_path / "src" / "layercut")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def noted() -> object:
        code = "import json; from layercut.runs.environment import collect_environment as collect\n"
        code += "print(json.dumps(collect([])['git']))"
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        return json.loads(done.stdout)

    git("init", "-q")
    (tmp_path / "thesis.tex").touch()
    git("add", "thesis.tex")
    git("commit", "-qm", "thesis")
    assert noted() is None
    git("add", "-f", "src")
    git("commit", "-qm", "layercut")
    assert noted() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    errors = tmp_path / "src" / "layercut" / "errors.py"
    os.utime(errors, (1, 1))  # git status would write this into its index, under a lock
    index = (tmp_path / ".git" / "index").read_bytes()
    assert noted()["dirty"] is False and (tmp_path / ".git" / "index").read_bytes() == index
    errors.write_text("# changed\n")
    assert noted()["dirty"] is True


def test_torch_is_asked_only_if_it_is_there_already(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda index: "H100")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert collect_environment([])["accelerator"] == "2 x H100"
    monkeypatch.delitem(sys.modules, "torch")
    assert collect_environment([])["accelerator"] is None
    assert "torch" not in sys.modules
