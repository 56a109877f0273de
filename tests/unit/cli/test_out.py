"""Places where nothing can be written: every verb says so in one line, before the work."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from layercut.cli.main import _message
from layercut.runs.atomic import new_directory, write_new_file
from layercut.runs.disk import writing_to_disk

COMMANDS = {
    "prune": "prune MODEL --tasks arithmetic --items 8 --smaller 20%",
    "select": "select MODEL --criterion block_influence --remove 1layer --calibration-texts 2 --calibration-tokens 16",
    "cut": "cut MODEL --remove 1 --no-verify",
    "eval": "eval MODEL --tasks arithmetic --limit 1",
    "generate": "generate MODEL --prompts task:arithmetic --limit 1 --max-new-tokens 1",
    "heal": "heal CUT --teacher MODEL --prompts task:arithmetic --method seam --responses original --limit 2",
    "run": "run STUDY",
    "sweep": "sweep MODEL --objective arithmetic --limit 1 --layers 1",
    "diagnose": "diagnose MODEL 1 --only brackets --limit 1",
}


def _dead_link(folder: Path) -> Path:
    (folder / "dead").symlink_to(folder / "nowhere")
    return folder / "dead"


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def _file(folder: Path) -> Path:
    (folder / "file").write_text("text")
    return folder / "file"


PLACES: dict[str, Callable[[Path], Path]] = {
    "/proc": lambda _: Path("/proc/x"),
    "below /proc": lambda _: Path("/proc/x/y"),
    "/sys": lambda _: Path("/sys/x"),
    "a dead link": _dead_link,
    "below a dead link": lambda folder: _dead_link(folder) / "x",
    "a link to itself": _loop,
    "a file": _file,
    "below a file": lambda folder: _file(folder) / "x",
    "below a device": lambda _: Path("/dev/null/x"),
    "a name of 300 letters": lambda folder: folder / ("x" * 300),
}


@pytest.fixture(scope="module")
def cut(tiny: Path, tmp_path_factory) -> Path:
    from layercut.api import cut as make

    return make(str(tiny), "2", tmp_path_factory.mktemp("cut") / "cut", verify=False)


EACH = [*(("cut", place) for place in PLACES), *((verb, "below a file") for verb in COMMANDS if verb != "cut")]


@pytest.mark.parametrize(("verb", "place"), [*EACH, *((verb, "/proc") for verb in COMMANDS if verb != "cut")])
def test_a_place_that_cannot_be_written_is_one_line(verb, place, layercut, tiny, cut, tmp_path):
    (tmp_path / "study.yaml").write_text(
        f"model: {tiny}\nout: {tmp_path / 'r'}\nplans: {{one: '1'}}\ntasks: [{{task: arithmetic, limit: 1}}]\n"
    )
    names = {"MODEL": tiny, "CUT": cut, "STUDY": tmp_path / "study.yaml"}
    out = PLACES[place](tmp_path)
    done = layercut(*(names.get(word, word) for word in COMMANDS[verb].split()), "--out", out)
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert done.code == 1 and "Traceback" not in done.err and len(errors) == 1, done.err
    assert out.name[:40] in errors[0] and ("--out" in errors[0] or "another name" in errors[0]), errors
    assert done.err.splitlines()[-1] == errors[0]


@pytest.mark.parametrize("place", ["a dead link", "a link to itself"])
def test_a_dead_link_is_refused_before_anything_is_written(place, tmp_path):
    target = PLACES[place](tmp_path)
    for make in (new_directory, write_new_file):
        with pytest.raises(ValueError, match="leads nowhere. Remove it, or choose another `out`"), make(target):
            raise AssertionError("the work began")
    assert [one.name for one in tmp_path.iterdir()] == [target.name]


def test_a_missing_file_elsewhere_is_no_fault_of_the_place(tmp_path):
    with pytest.raises(FileNotFoundError), writing_to_disk(tmp_path / "new", "use another `out`"):
        (tmp_path.parent / "no-such-shard").read_bytes()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_folder_without_permission_is_one_line_in_every_verb(code):
    said = _message(OSError(code, os.strerror(code), "/runs/x/.advice.md.layercut-abc"))
    assert said is not None and said.startswith("/runs/x/.advice.md.layercut-abc cannot be read or written (")
