"""What a run of prune would refuse, its dry run refuses."""

from pathlib import Path
from typing import Any

import pytest

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError, RunMismatch
from layercut.pruning.budget import check_run, prune_outline
from layercut.pruning.settings import PruneSettings
from layercut.runs.directory import RunFolder
from layercut.selection.goal import goal_tasks
from layercut.settings import ModelSettings
from tests.support.answers import write_lines

ROWS = [{"prompt": f"Say {i}", "answer": str(i), "grade": "contains"} for i in range(60)]


def settings_of(model: Path) -> ModelSettings:
    return ModelSettings(model=str(model), device="cpu")


def outlined(model: Path, folder: Path, rows: list[dict[str, Any]], out: Path, **given: Any) -> list[str]:
    file = write_lines(folder / "mine.jsonl", rows)
    settings = PruneSettings(**{"tasks": (file,), "keep": 0.8, "units": "layer", "smaller": 0.3, **given})
    return prune_outline(settings_of(model), settings, goal_tasks(settings), out=out).lines()


def test_what_can_run_is_outlined_with_the_bytes_of_every_size(model, tmp_path):
    lines = outlined(model, tmp_path, ROWS, tmp_path / "new" / "run")
    assert "nothing was written" in lines[-1] and not (tmp_path / "new").exists()
    settings = PruneSettings(tasks=("copy",), smaller=0.1)
    lines = prune_outline(settings_of(model), settings, goal_tasks(settings), out=tmp_path / "run").lines()
    assert lines[0].startswith("sizes: -5% ") and ", -10% " in lines[0]


def test_equal_rows_one_answer_long_texts_and_other_models_that_are_none_are_refused(model, tmp_path):
    with pytest.raises(InputError, match=r"mine.jsonl \(short\) .*(report|selection)"):
        outlined(model, tmp_path, [ROWS[0], {**ROWS[0], "answer": "other"}] * 30, tmp_path / "run")
    long = [{**row, "prompt": f"{row['prompt']} " + "word " * 60_000} for row in ROWS[:2]]
    with pytest.raises(InputError, match=r"mine.jsonl, line [12]: the prompt has \d+ tokens and leaves no space"):
        outlined(model, tmp_path, [*long, *ROWS[2:]], tmp_path / "run")
    with pytest.raises(InputError, match=r"`serve` prompt=90000000 is 90,000,300 tokens, and the model takes"):
        outlined(model, tmp_path, ROWS, tmp_path / "run", serve="prompt=90000000")
    with pytest.raises(InputError, match=r"one answer is right for all rows of mine.jsonl \(short\)"):
        outlined(model, tmp_path, [{**row, "answer": "yes"} for row in ROWS], tmp_path / "run")
    for name, words in ((f"{model}@int3", "int3 .* write int8, int4, fp8"), ("nofile.gguf", "nofile.gguf")):
        with pytest.raises(InputError, match=f"(?s)`versus`.*{words}|optional part"):
            outlined(model, tmp_path, ROWS, tmp_path / "run", versus=(name,))


def test_a_folder_that_the_run_would_refuse(model, tmp_path):
    full, file, other = tmp_path / "full", tmp_path / "file", tmp_path / "other"
    full.mkdir()
    (full / "notes.txt").touch()
    file.touch()
    settings = PruneSettings(tasks=("copy",), keep=0.7)
    handle = ModelHandle(settings_of(model))
    RunFolder.begin(other, check_run(handle, settings, goal_tasks(settings), 0, lambda text: None)[-1]).close()
    cases = [(full, InputError, "not empty"), (file, InputError, "is a file"), (other, RunMismatch, "begun with")]
    for out, kind, words in [*cases, (file / "run", InputError, "no run can be written")]:
        with pytest.raises(kind, match=words):
            outlined(model, tmp_path, ROWS, out)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError):
        outlined(model, tmp_path, ROWS, full)
    assert sorted(tmp_path.rglob("*")) == before


def test_checks_for_side_effects_are_counted_unless_they_are_left_out(model, tmp_path):
    named = [line for line in outlined(model, tmp_path, ROWS, tmp_path / "run") if line.startswith("side effects")]
    assert len(named) == 1 and "144 items" in named[0]  # three checks that fit its context, 24 items, two models
    without = outlined(model, tmp_path, ROWS, tmp_path / "run", no_side_effects=True)
    assert not any(line.startswith("side effects") for line in without)
