"""``quantise`` on tiny models: what the file holds, what a second call repeats, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

import layercut
from layercut.errors import InputError
from layercut.models.gguf_file import read_gguf_head
from layercut.quantising import job
from layercut.quantising.imatrix import read_imatrix
from layercut.quantising.statistics import Statistics
from layercut.runs.quantise import QUANTISED, QuantiseResult
from tests.unit.quantising.models import WIDE, tiny_file

WORDS = ("river", "stone", "paper", "cloud", "green", "seven", "table", "north", "apple", "night")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_file(tmp_path_factory.mktemp("models"), **WIDE)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "mine.jsonl"
    rows = [{"prompt": f"{one} {other}", "answer": one, "grade": "contains"} for one in WORDS for other in WORDS[:6]]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def quantise(model: Path, task: Path, out: Path, **more: Any) -> Any:
    settings: dict[str, Any] = {"answers": 4, "held_out": 3, "general": 2, "max_new_tokens": 12, **more}
    return layercut.quantise(str(model), **{"tasks": [str(task)], **settings}, out=out, progress=False)


def kinds_of(file: Path) -> dict[str, str]:
    return {tensor.name: gguf.GGMLQuantizationType(tensor.kind).name for tensor in read_gguf_head(file).tensors}


def test_the_file_is_as_small_as_asked_and_has_the_types_that_are_printed(model, task, tmp_path):
    done = quantise(model, task, tmp_path / "a.gguf", size="14%", write_imatrix=tmp_path / "a.imatrix.gguf")
    result, file = done.result, tmp_path / "a.gguf"
    assert result.num_bytes == file.stat().st_size <= 0.14 * model.stat().st_size
    kinds = kinds_of(file)
    assert {name: kinds[name] for name in result.by_tensor} == result.by_tensor and len(result.by_tensor) == 29
    assert {row.kind: row.tensors for row in result.types} == {
        kind: [*result.by_tensor.values()].count(kind) for kind in result.by_tensor.values()
    }
    own, plain = result.files
    assert own.measured.n == plain.measured.n == 3 and 0 < own.measured.value < 5 and own.forecast > 0
    assert QuantiseResult.load(tmp_path / "a") == result and (tmp_path / "a" / QUANTISED).is_file()
    assert read_imatrix(tmp_path / "a.imatrix.gguf").columns.keys() == result.by_tensor.keys()
    assert not [*(tmp_path / "a").glob("plain*")] and not (tmp_path / "a" / "reference").exists()
    # The recipe that it leaves makes the same bytes.
    again = quantise(model, task, tmp_path / "b.gguf", recipe=tmp_path / "a" / "a.types.txt", compare_plain=False)
    assert (tmp_path / "b.gguf").read_bytes() == file.read_bytes()
    assert again.result.files[0] == own.model_copy(update={"label": "b"})


def test_another_size_in_the_same_folder_measures_nothing_again(model, task, tmp_path, monkeypatch):
    quantise(model, task, tmp_path / "run", size="20%", compare_plain=False)
    monkeypatch.setattr(job, "measure_damages", _only_known(job.measure_damages))
    monkeypatch.setattr(Statistics, "_add", None)
    smaller = quantise(model, task, tmp_path / "run", size="12%", compare_plain=False).result
    assert [path.name for path in sorted((tmp_path / "run").glob("*.gguf"))] == ["12%.gguf", "20%.gguf"]
    assert smaller.num_bytes < (tmp_path / "run" / "20%.gguf").stat().st_size


def _only_known(own: Any) -> Any:
    def known(run: Any) -> Any:
        before = dict(run.run.notes)
        damages = own(run)
        assert dict(run.run.notes) == before
        return damages

    return known


@pytest.fixture(scope="module")
def through(model, task, tmp_path_factory):
    """A run that was not stopped."""
    return quantise(model, task, tmp_path_factory.mktemp("through") / "a.gguf", size="14%", compare_plain=False).result


@pytest.mark.parametrize("stage", ["match_matrices", "decide_types", "write_file", "compare_files"])
def test_a_run_that_was_stopped_gives_the_same_file_and_numbers(model, task, through, tmp_path, monkeypatch, stage):
    with monkeypatch.context() as stopping:
        stopping.setattr(job, stage, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quantise(model, task, tmp_path / "a.gguf", size="14%", compare_plain=False)
    stopped = quantise(model, task, tmp_path / "a.gguf", size="14%", compare_plain=False).result
    assert Path(stopped.file).read_bytes() == Path(through.file).read_bytes()
    assert stopped.files == through.files


def test_layers_go_first_and_the_bytes_are_those_that_are_left(model, task, tmp_path):
    done = quantise(model, task, tmp_path / "a.gguf", size="90%", remove="1", compare_plain=False)
    head = read_gguf_head(tmp_path / "a.gguf")
    assert head.num_layers == 3 and done.result.removed
    assert done.result.bytes_before < model.stat().st_size


def test_the_file_is_tested_at_once_on_items_that_the_model_answers_too(model, task, tmp_path):
    done = quantise(model, task, tmp_path / "a.gguf", size="20%", items=6, compare_plain=False)
    (row, *_) = done.tested.metrics["rows"]
    assert row["n"] == 6 and done.tested.folder == tmp_path / "a" / "test-a-6"
    assert sorted(path.name for path in (tmp_path / "a").glob("test-*")) == ["test-a-6", "test-original-6"]
    again = quantise(model, task, tmp_path / "a.gguf", size="20%", items=6, compare_plain=False)
    assert again.tested.metrics == done.tested.metrics


def test_types_that_are_named_are_the_only_ones(model, task, tmp_path):
    done = quantise(model, task, tmp_path / "a.gguf", size="20%", types="q4_k,q6_k,q8_0", compare_plain=False)
    assert set(done.result.by_tensor.values()) <= {"Q4_K", "Q6_K", "Q8_0"}


def test_a_foreign_matrix_weighs_and_that_of_another_model_is_refused(model, task, tmp_path):
    quantise(model, task, tmp_path / "a", write_imatrix=tmp_path / "own.dat")
    assert not [*(tmp_path / "a").glob("*.gguf")]
    quantise(model, task, tmp_path / "a", size="14%", imatrix=tmp_path / "own.dat", compare_plain=False)
    (narrow := tmp_path / "narrow").mkdir()
    other = tiny_file(narrow)
    with pytest.raises(InputError, match="columns for .* belongs to another model"):
        quantise(other, task, tmp_path / "b", size="20%", imatrix=tmp_path / "own.dat")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": "1%"}, "the smallest types of these tensors take"),
        ({"size": "12"}, "`size` '12' is no size; write 600MB, 0.6GB or 55%"),
        ({"size": "5GB"}, "is not between 0 and"),
        ({"size": "20%", "bits": 3}, "give one of `size`, `bits` and `recipe`"),
        ({}, "say how large the file may be"),
        ({"size": "20%", "types": "q9_k"}, "unknown ggml type 'q9_k'"),
    ],
)
def test_what_cannot_be_done_is_one_line(model, task, tmp_path, wrong, words):
    with pytest.raises(InputError, match=words) as error:
        quantise(model, task, tmp_path / "a", **{"tasks": [str(task)], **wrong})
    assert "\n" not in str(error.value)


def test_a_file_that_was_made_in_another_way_is_not_taken_for_this_one(model, task, tmp_path):
    quantise(model, task, tmp_path / "a.gguf", size="20%", compare_plain=False)
    with pytest.raises(InputError, match=r"a\.gguf has .* was chosen: it was made in another way. Use another `out`"):
        quantise(model, task, tmp_path / "a.gguf", size="14%", compare_plain=False)
