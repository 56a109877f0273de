"""Files that prune makes in fewer bits: which are tested, what is handed over, and that a stop changes nothing."""

import json

import pytest

from layercut.errors import CheckpointError
from layercut.models.convert import file_sha256
from layercut.models.gguf_file import read_gguf_head
from layercut.pruning.formats import FORMATS
from layercut.report.first import answer_lines, versus_table
from layercut.report.front import front_figure
from layercut.report.reports import write_reports
from layercut.runs.prune import PruneResult
from tests.support.pruning import written_file
from tests.unit.models.gguf_maker import write_gguf
from tests.unit.pruning.conftest import run
from tests.unit.pruning.test_job import found, in_legs

pytest.importorskip("llama_cpp_py_sync", reason="llama-cpp-py-sync is not installed (layercut[gguf])")
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (layercut[gguf])")
CHOICE = {"formats": ("q8_0", "q4_0"), "keep": 0.3, "smaller": 0.2, "one_size": True, "heal": "none", "items": 32}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def rows(file, tmp_path_factory):
    return written_file(tmp_path_factory.mktemp("data") / "mine.jsonl", file)


@pytest.fixture(scope="module")
def weighed(file, rows, tmp_path_factory):
    return run(file, rows, tmp_path_factory.mktemp("formats") / "run", **CHOICE)


def test_the_original_and_the_plan_become_files_that_are_judged_on_selection_items(weighed):
    result = weighed.result
    made = {(one.plan, one.model.rpartition(", ")[2]): one for one in result.formats}
    assert {("uncut", "Q8_0"), ("uncut", "Q4_0"), ("uncut", "own types")} <= made.keys() and len(made) == 6
    scores = {one.kept[0].cut.value for one in result.formats}
    assert len(scores) > 1, "every file answers by its own weights"
    assert made["uncut", "own types"].kept[0].kept.value > 0.3
    sizes = [made["uncut", kind].disk_bytes for kind in ("own types", "Q8_0", "Q4_0")]
    assert sizes == sorted(sizes, reverse=True)


def test_files_that_keep_too_little_are_not_tested_and_each_path_ends_at_its_first_failure(weighed):
    result = weighed.result
    hopeless = {one.model for one in result.formats if one.kept[0].kept.value < 0.3}
    tested = [one.model for one in result.versus]
    assert not hopeless & {*tested}
    of_original = [one for one in result.versus if one.model.startswith("original")]
    assert [one.passed for one in of_original[:-1]] == [True] * (len(of_original) - 1)
    assert result.error == pytest.approx(0.05)
    for one in result.versus:
        answers = (weighed.folder / one.run / "samples/mine.jsonl.short.jsonl").read_text().splitlines()
        assert len(answers) == result.goal.tasks[0].report_items


def test_the_smallest_that_passes_is_handed_over_with_its_card(weighed):
    result, smallest = weighed.result, weighed.result.smallest
    assert smallest in result.versus and smallest.disk_bytes == min(
        one.disk_bytes for one in result.versus if one.passed
    )
    assert result.checkpoint == "model/model.gguf" and weighed.checkpoint.stat().st_size == smallest.disk_bytes
    assert file_sha256(weighed.checkpoint) in result.verified and read_gguf_head(weighed.checkpoint).num_layers
    assert result.why.startswith(f"Smallest that passes: {smallest.model}, ") and "asked for 30%" in result.why
    card = (weighed.folder / "model/README.md").read_text()
    assert "**Passed: it keeps at least 30%" in card and "llama-server -m model.gguf" in card
    assert (weighed.folder / "model/Modelfile").read_text() == "FROM ./model.gguf\n"
    said = answer_lines(result, weighed.folder)
    assert f"Serve it (llama.cpp): llama-server -m {weighed.checkpoint}" in said
    assert any("fewer bytes" in line for line in said)
    assert not list((weighed.folder / FORMATS).glob("**/*.gguf")), "other files are not kept"


def test_the_report_shows_every_model_by_bytes_and_marks_the_one_to_take(weighed):
    figure = front_figure(weighed.result)
    (panel,) = figure.panels
    points = panel.spec["data"]["values"]
    (taken,) = [one for one in points if one["series"] == "the one to take"]
    assert taken["x"] == weighed.result.smallest.disk_bytes / 1e6 and not taken["hollow"]
    models = {*(one.run for one in weighed.result.formats), *(one.name for one in weighed.result.tested)}
    assert len(points) == len(models) + 1
    bold = {line[0].text for line in versus_table(weighed.result).rows if line[0].style == "strong"}
    assert bold == {weighed.result.smallest.model}
    page = write_reports(weighed.folder)["page"].read_text()
    assert (
        "Bytes, and what they keep" in page and front_figure(weighed.result.model_copy(update={"formats": ()})) is None
    )


def test_a_finished_run_answers_again_without_its_files(weighed, file, rows):
    stamps = {path: path.stat().st_mtime_ns for path in weighed.folder.rglob("*.jsonl")}
    assert run(file, rows, weighed.folder, **CHOICE).result == weighed.result == PruneResult.load(weighed.folder)
    assert stamps == {path: path.stat().st_mtime_ns for path in weighed.folder.rglob("*.jsonl")}


def test_stopped_anywhere_and_resumed_is_uninterrupted(weighed, file, rows, tmp_path, monkeypatch):
    def work():
        return run(file, rows, tmp_path / "run", **CHOICE)

    ended, stops = in_legs(monkeypatch, work, tmp_path / "run", legs=(4, 30, 12))
    assert found(ended) == found(weighed) and stops >= 2


def test_a_file_that_cannot_be_made_is_left_out_and_the_others_go_on(file, rows, tmp_path, monkeypatch):
    from layercut.pruning import formats

    make = formats.quantise_gguf

    def refuse(whole, out, kind):
        if kind == "Q8_0":
            raise CheckpointError("whole.gguf is not quantised to Q8_0 by llama.cpp: no.")
        make(whole, out, kind)

    monkeypatch.setattr(formats, "quantise_gguf", refuse)
    said: list[str] = []
    done = run(file, rows, tmp_path / "run", say=said.append, **CHOICE)
    assert "original, Q8_0: whole.gguf is not quantised to Q8_0 by llama.cpp: no." in said
    assert {one.model for one in done.result.formats} >= {"original, Q4_0", "original, own types"}
    assert len(done.result.not_made) == 2 and json.loads((done.folder / "result.json").read_text())["not_made"]
