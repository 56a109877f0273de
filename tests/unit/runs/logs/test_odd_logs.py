"""Logs of other tools and archives with one field changed: a result, or one line that names the file."""

import gzip
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.evidence.two_runs import compare_two, comparison_notes
from layercut.runs.logs import open_foreign_log
from layercut.tasks.data_files import read_rows_of_file
from tests.support.odd import VALUES, check_line, fields_of, mutated

MIB = 2**20


LINE = {
    "doc_id": 1, "doc_hash": "d1", "doc": {"query": "Which?"}, "target": "1", "target_hash": "0", "filter": "none",
    "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": " a"}, "gen_args_1": {"arg_0": "Q", "arg_1": " b"}},
    "resps": [[["-1.0", "False"]], [["-2.0", "False"]]], "filtered_resps": [["-1.0", "False"], ["-2.0", "False"]],
    "prompt_hash": "p", "metrics": ["acc", "perplexity"], "acc": 1.0, "perplexity": -2.0,
}  # fmt: skip
RESULTS = {
    "configs": {"x": {"num_fewshot": 0, "generation_kwargs": {}}}, "n-shot": {"x": 0}, "versions": {"x": 1.0},
    "higher_is_better": {"x": {"acc": True, "perplexity": False}}, "model_name": "m",
}  # fmt: skip
SAMPLE = {
    "id": 1, "epoch": 1, "input": [{"role": "user", "content": "Q"}], "target": ["1"], "choices": ["a", "b"],
    "scores": {"match": {"value": "C", "answer": "a"}, "two": {"value": {"one": 1, "other": 0.5}}},
    "output": {"completion": "a", "usage": {"output_tokens": 5}},
}  # fmt: skip
HEADER = {
    "version": 2, "eval": {"task": "t", "task_version": 1, "model": "m", "model_generate_config": {"top_p": 1.0}},
    "plan": {"config": {"temperature": 0.0}},
}  # fmt: skip
PROGRAMS = {"eval": {"HumanEval/0": [{"base_status": "pass", "plus_status": "fail", "solution": "pass"}]}}


def try_log(file: Path, place: str) -> None:
    """Reads a log and compares it with itself; only reading has a place to name."""
    try:
        run = open_foreign_log(file)
        assert run is not None
    except InputError as error:
        check_line(error, place)
        return
    copy = deepcopy(run)
    copy.path = run.path / "copy"
    try:
        assert run.metrics()["rows"] and comparison_notes(run, copy) is not None and compare_two(run, copy)
    except InputError as error:
        check_line(error, "")


def write_lines(folder: Path, row: Any, results: Any = RESULTS) -> Path:
    rows = [{**LINE, "doc_id": 0, "doc_hash": "d0"}, row, {**LINE, "doc_id": 2, "doc_hash": "d2"}]
    (folder / "samples_x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "results_1.json").write_text(json.dumps(results))
    return folder / "samples_x.jsonl"


def write_json(folder: Path, data: Any) -> Path:
    (folder / "a.json").write_text(json.dumps(data))
    return folder / "a.json"


def write_archive(folder: Path, header: bytes, sample: Any = SAMPLE, kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(folder / "a.eval", "w", kind) as archive:
        archive.writestr("header.json", header)
        archive.writestr("samples/1_epoch_1.json", json.dumps(sample))
    return folder / "a.eval"


FORMATS: dict[str, tuple[Any, Callable[[Path, Any], Path], str]] = {
    "lm-eval": (LINE, write_lines, "samples_x.jsonl: line 2"),
    "results": (RESULTS, lambda folder, data: write_lines(folder, LINE, data), "results_1.json"),
    "EvalPlus": (PROGRAMS, write_json, "a.json"),
    "inspect": ({**HEADER, "samples": [SAMPLE, {**SAMPLE, "id": 2}]}, write_json, "a.json"),
    "sample": (SAMPLE, lambda folder, data: write_archive(folder, json.dumps(HEADER).encode(), data), "a.eval"),
    "header": (HEADER, lambda folder, data: write_archive(folder, json.dumps(data).encode()), "a.eval"),
}


FIELDS = [(name, path) for name, (base, *_) in FORMATS.items() for path in fields_of(base)]


@pytest.mark.parametrize(("name", "path"), FIELDS, ids=[f"{name} {'.'.join(map(str, path))}" for name, path in FIELDS])
def test_a_changed_field_of_a_log_is_read_or_named(tmp_path, name, path):
    base, write, place = FORMATS[name]
    for value in VALUES.values():
        try_log(write(tmp_path, mutated(base, path, value)), place)


def patched(offset: int, new: int, size: str = "<H") -> Callable[[bytearray], None]:
    """Changes a number in the entry of header.json in the archive's table."""
    return lambda data: struct.pack_into(size, data, data.index(b"PK\x01\x02") + offset, new)


ARCHIVES: dict[str, Callable[[bytearray], None]] = {
    "encrypted": patched(8, 1), "strongly encrypted": patched(8, 0x41), "of a later version": patched(6, 99),
    **{f"packed by {kind}": patched(10, kind) for kind in (0, 1, 9, 12, 14, 93, 95, 99)},
    **{f"said to hold {size}": patched(24, size, "<I") for size in (0, 3, 2**28, 2**32 - 1)},
    **{f"with {size} packed bytes": patched(20, size, "<I") for size in (0, 3, 2**30)},
    "with another checksum": patched(16, 7, "<I"), "at another place": patched(42, 50, "<I"),
    "cut off": lambda data: data.__delitem__(slice(len(data) // 2, None)), "empty": lambda data: data.clear(),
    **{f"damaged at {place}": lambda data, place=place: data.__setitem__(place, data[place] ^ 255)  # type: ignore[misc]
       for place in range(0, 400, 10)},
}  # fmt: skip


@pytest.mark.parametrize("change", ARCHIVES.values(), ids=ARCHIVES)
def test_a_damaged_archive_is_read_or_named(tmp_path, change):
    file = write_archive(tmp_path, json.dumps(HEADER).encode())
    data = bytearray(file.read_bytes())
    change(data)
    file.write_bytes(data)
    try_log(file, "a.eval")


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("said", [None, 100])
def test_a_large_file_in_a_small_archive_is_not_unpacked(tmp_path, kind, said):
    file = write_archive(tmp_path, bytes(100 * MIB), kind=kind)
    if said is not None:
        data = bytearray(file.read_bytes())
        patched(24, said, "<I")(data)
        file.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            open_foreign_log(file)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    check_line(caught.value, "a.eval: header.json")


def test_a_long_line_in_a_small_gzip_file_is_not_unpacked(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(bytes(300 * MIB), 1))
    with pytest.raises(InputError, match=r"a\.jsonl\.gz, line 1: longer than"):
        list(read_rows_of_file(tmp_path / "a.jsonl.gz"))
