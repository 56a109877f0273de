"""Rows of files and of data sets on the hub: what is damaged or out of reach is one line, within seconds."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from layercut.errors import InputError
from layercut.tasks import data_files
from layercut.tasks.data_files import (
    LARGEST_WHOLE,
    LONGEST_LINE,
    read_hub_data,
    read_local_data,
    read_rows_of_file,
    stream_hub_rows,
    text_field,
)
from tests.support.answers import write_lines

ROWS = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def fields(path: Path) -> list[dict[str, object]]:
    return [dict(row.fields) for row in read_local_data(str(path)).splits["all"]]


def refuse(path: Path, message: str) -> None:
    """Reading names the fault in one short line."""
    with pytest.raises(InputError, match=message) as caught:
        read_local_data(str(path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_every_kind_of_file_gives_the_same_rows_and_hash(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra lm-eval is not installed")
    from pyarrow.parquet import write_table

    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4 and all(fields(file) == ROWS for file in files)
    (hashed,) = {read_local_data(str(file)).sha256 for file in files}
    (tmp_path / "a.jsonl").write_bytes(LINES.replace(b"q3", b"q9"))
    assert read_local_data(str(tmp_path / "a.jsonl")).sha256 != hashed
    (tmp_path / "a.parquet").write_bytes(LINES)
    refuse(tmp_path / "a.parquet", "Parquet file")
    (tmp_path / "pair.jsonl").write_bytes(b'{"question": "\\ud83d\\ude00"}')
    assert fields(tmp_path / "pair.jsonl") == [{"question": "\U0001f600"}]


@pytest.mark.parametrize(
    ("files", "rows"),
    [
        (
            {
                **{f"train-0000{part}-of-00002.json": f"train {part}" for part in (0, 1)},
                **{f"{name}.json": name for name in ("valid", "test", "test_sample")},
                "README.md": "readme",
            },
            {"train": ["train 0", "train 1"], "validation": ["valid"], "test": ["test"]},
        ),
        ({"dev.json": "dev", "test.json": "test"}, {"validation": ["dev"], "test": ["test"]}),
        (
            {"dev.json": "dev", "test.json": "test", "validation.json": "validation"},
            {"dev": ["dev"], "validation": ["validation"], "test": ["test"]},
        ),
    ],
)
def test_a_folder_has_its_splits_under_the_usual_names(tmp_path, files, rows):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps([{"from": content}]))
    splits = read_local_data(str(tmp_path)).splits
    assert {split: [row.fields["from"] for row in rows] for split, rows in splits.items()} == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", LINES + b'{"question": "torn\n', r"a\.jsonl, line 6: not a JSON object"),
        ("a.jsonl", LINES[:40] + b"\n\n[1, 2]\n", r"a\.jsonl, line 2: not a JSON object"),
        ("a.jsonl", b'\n{"a": 1}\n[1, 2]\n', r"a\.jsonl, line 3: a JSON object was expected, but this is \[1, 2\]"),
        ("a.jsonl", b'{"a": "\xff"}\n', r"a\.jsonl, line 1: not a JSON object"),
        ("a.jsonl", b"\n\n", r"a\.jsonl: no rows in here"),
        ("a.jsonl.gz", gzip.compress(LINES * 1000)[:-200], r"a\.jsonl\.gz: the gzip data is damaged"),
        ("a.jsonl.gz", LINES, "gzip data is damaged .*Not a gzipped file"),
        ("a.txt", b"x", "this file type is not supported"),
        ("a.json", b'{"rows": []}', "a list of rows was expected, but this is one dict"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    refuse(tmp_path / name, message)


def test_folders_that_cannot_be_data_are_refused(tmp_path):
    refuse(tmp_path / "nothing", "no such file or folder")
    refuse(tmp_path, "no train, validation or test file in this folder")
    for name in ("test.jsonl", "test.jsonl.gz"):
        (tmp_path / name).write_bytes(LINES)
    refuse(tmp_path, r"test\.jsonl and test\.jsonl\.gz both hold the split test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "a"}, "line 1: no field 'question', only answer"),
        ({"question": 3}, "line 1: the field 'question' holds 3, but text is needed"),
        ({"question": " "}, "line 1: the field 'question' holds ' ', but text is needed"),
    ],
)
def test_a_field_must_hold_text(tmp_path, row, message):
    data = read_local_data(write_lines(tmp_path / "a.jsonl", [row]))
    with pytest.raises(InputError, match=message):
        text_field(data.splits["all"][0], "question")


BAD_TEXTS = {
    "deep": (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "nested deeper than 100 levels"),
    "not so deep": (b'{"a": ' * 150 + b"1" + b"}" * 150, "nested deeper than 100 levels"),
    "half": (b'{"question": "\\uD83D"}', r"\\ud83d, half of a surrogate pair"),
    "half name": (b'{"\\udc00": 1}', r"\\udc00, half of a surrogate pair"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".json.gz"])
def test_json_that_would_break_later_is_refused_at_the_door(tmp_path, name, kind):
    content, message = BAD_TEXTS[name]
    content = b"[" + content + b"]" if ".json" in kind and "jsonl" not in kind else content
    path = tmp_path / f"bad{kind}"
    path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    refuse(path, rf"bad\.json.*{message}")


@pytest.mark.parametrize("kind", [".jsonl.gz", ".csv.gz", ".json.gz"])
def test_a_gzip_bomb_is_left_at_the_limit(tmp_path, kind):
    path = tmp_path / f"bomb{kind}"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(24):  # 768 MiB in one line
            file.write(b"1" * 2**25)
    assert path.stat().st_size < 2**23
    tracemalloc.start()
    refuse(path, "than (64|512) MiB")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < (3 * LARGEST_WHOLE if kind == ".json.gz" else 4 * LONGEST_LINE)


def test_many_short_lines_are_left_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "LARGEST_LINES", 2**20)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 200_000))
    refuse(path, r"line \d+: longer than 64 MiB, or than 0 GiB")


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, kind):
    file = tmp_path / f"rows{kind}"
    os.mkfifo(file)
    with pytest.raises(InputError, match="pipe"):
        list(read_rows_of_file(file))


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason="hub data sets need layercut[lm-eval]")


def test_an_absent_hub_is_one_line_within_seconds(datasets, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    code = "from layercut.tasks import load_task; load_task('gsm8k').samples('report', 2)"
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **home}, capture_output=True, text=True, check=False
    )
    assert time.monotonic() - began < 15
    assert "Retrying" not in ran.stderr, ran.stderr
    assert "`data` gsm8k=PATH." in ran.stderr.splitlines()[-1]


def test_a_hub_that_never_answers_is_given_up_once_for_all(datasets, monkeypatch):
    monkeypatch.setattr(data_files, "TIMEOUT", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        began = time.monotonic()
        for _ in range(4):
            with pytest.raises(InputError, match=r"openai/gsm8k .*Hugging Face hub"):
                read_hub_data("gsm8k", "openai/gsm8k")
        with pytest.raises(InputError, match=r"hub:a/b: .*Hugging Face hub"):
            next(stream_hub_rows("hub:a/b", extra="heal"))
        assert time.monotonic() - began < 6
    assert huggingface_hub.constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE, "asked no more"


@pytest.fixture
def folder(datasets, tmp_path):
    """The library reads a folder of files under the same name as a data set of the hub."""
    for part in range(2):
        rows = ({"prompt": f"say {part * 20 + number}"} for number in range(20))
        write_lines(tmp_path / f"train-{part}.jsonl", rows)
    return f"hub:{tmp_path}"


def texts(source: str, count: int | None = None, **how: Any) -> list[str]:
    return [row.fields["prompt"] for row in islice(stream_hub_rows(source, extra="heal", **how), count)]


def test_rows_come_in_their_order_or_shuffled_by_a_seed(folder):
    plain = texts(folder)
    assert plain == [f"say {number}" for number in range(40)]
    shuffled = texts(folder, buffer=10, seed=42)
    assert shuffled != plain and sorted(shuffled) == sorted(plain)
    assert texts(folder, buffer=10, seed=42) == shuffled != texts(folder, buffer=10, seed=43)
    assert texts(folder, 5, buffer=10, seed=42) == shuffled[:5]


def test_without_network_or_split_one_line_says_what_to_do(folder, datasets, monkeypatch):
    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network\nand a long trace")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"hub:a/b: no data set here \(no network\). Check name") as caught:
        texts("hub:a/b")
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    with pytest.raises(InputError, match="no data set here .*split"):
        texts(f"{folder}::validation")
