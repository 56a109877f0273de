from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.tasks import data_files
from layercut.tasks.data_files import LARGEST_WHOLE, LONGEST_LINE, read_local_data, read_rows_of_file, text_field

ROWS = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def fields(path: Path, split: str = "all") -> list[dict[str, object]]:
    return [dict(row.fields) for row in read_local_data(str(path)).splits[split]]


def test_every_kind_of_file_gives_the_same_rows_and_hash(tmp_path: Path) -> None:
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
    with pytest.raises(InputError, match="Parquet file"):
        read_local_data(str(tmp_path / "a.parquet"))


def test_a_folder_has_its_splits_under_the_usual_names(tmp_path: Path) -> None:
    parts = ["train-00000-of-00002.json", "train-00001-of-00002.json"]
    for name in (*parts, "valid.json", "test.json", "test_sample.json", "README.md"):
        (tmp_path / name).write_text(json.dumps([{"from": name}]))
    splits = read_local_data(str(tmp_path)).splits
    names = {split: [row.fields["from"] for row in rows] for split, rows in splits.items()}
    assert names == {"train": parts, "validation": ["valid.json"], "test": ["test.json"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES + b'{"question": "torn\n', r"damaged\.jsonl, line 6: not a JSON object"),
        (LINES[:40] + b"\n\n[1, 2]\n", r"damaged\.jsonl, line 2: not a JSON object"),
        (b'\n{"a": 1}\n[1, 2]\n', r"damaged\.jsonl, line 3: a JSON object was expected, but this is \[1, 2\]"),
        (b'{"a": "\xff"}\n', r"damaged\.jsonl, line 1: not a JSON object"),
        (b"\n\n", r"damaged\.jsonl: no rows in here"),
    ],
)
def test_a_damaged_row_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "damaged.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_local_data(str(path))
    assert "\n" not in str(caught.value)


def test_a_gzip_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(LINES * 1000)[:-200])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: the gzip data is damaged"):
        read_local_data(str(path))
    path.write_bytes(LINES)
    with pytest.raises(InputError, match="gzip data is damaged .*Not a gzipped file"):
        read_local_data(str(path))


def test_what_cannot_be_data_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.json").write_text('{"rows": []}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("test.jsonl", "test.jsonl.gz"):
        (tmp_path / "two" / name).write_bytes(LINES)
    for name, message in {
        "nothing": "no such file or folder",
        "a.txt": "this file type is not supported",
        "a.json": "a list of rows was expected, but this is one dict",
        "empty": "no train, validation or test file in this folder",
        "two": r"test\.jsonl and test\.jsonl\.gz both hold the split test",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            read_local_data(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "a"}, "line 1: no field 'question', only answer"),
        ({"question": 3}, "line 1: the field 'question' holds 3, but text is needed"),
        ({"question": " "}, "line 1: the field 'question' holds ' ', but text is needed"),
    ],
)
def test_a_field_must_hold_text(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(InputError, match=message):
        text_field(read_local_data(str(path)).splits["all"][0], "question")


def test_a_dev_file_is_the_validation_split_unless_there_is_another(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "test.jsonl").write_text('{"a": 2}\n')
    assert set(read_local_data(str(tmp_path)).splits) == {"validation", "test"}
    (tmp_path / "validation.jsonl").write_text('{"a": 3}\n')
    found = read_local_data(str(tmp_path)).splits
    assert {name: rows[0].fields["a"] for name, rows in found.items()} == {"dev": 1, "validation": 3, "test": 2}


DEEP = b'{"a": ' * 100_000 + b"1" + b"}" * 100_000
BAD_TEXTS = {
    "deep": (DEEP, "nested deeper than 100 levels"),
    "not so deep": (b'{"a": ' * 150 + b"1" + b"}" * 150, "nested deeper than 100 levels"),
    "half": (b'{"question": "\\uD83D"}', r"\\ud83d, half of a surrogate pair"),
    "half name": (b'{"\\udc00": 1}', r"\\udc00, half of a surrogate pair"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".json.gz"])
def test_json_that_would_break_later_is_refused_at_the_door(tmp_path: Path, name: str, kind: str) -> None:
    content, message = BAD_TEXTS[name]
    content = b"[" + content + b"]" if ".json" in kind and "jsonl" not in kind else content
    path = tmp_path / f"bad{kind}"
    path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    with pytest.raises(InputError, match=rf"bad\.json.*{message}") as caught:
        list(read_rows_of_file(path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_whole_pair_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "\\ud83d\\ude00"}')
    assert fields(tmp_path / "a.jsonl") == [{"question": "\U0001f600"}]


@pytest.mark.parametrize("kind", [".jsonl.gz", ".csv.gz", ".json.gz"])
def test_a_gzip_bomb_is_left_at_the_limit(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"bomb{kind}"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(24):  # 768 MiB in one line
            file.write(b"1" * 2**25)
    assert path.stat().st_size < 2**23
    tracemalloc.start()
    with pytest.raises(InputError, match="than (64|512) MiB") as caught:
        list(read_rows_of_file(path))
    assert "\n" not in str(caught.value)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < (3 * LARGEST_WHOLE if kind == ".json.gz" else 4 * LONGEST_LINE)


def test_many_short_lines_are_left_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "LARGEST_LINES", 2**20)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 200_000))
    with pytest.raises(InputError, match=r"line \d+: longer than 64 MiB, or than 0 GiB"):
        list(read_rows_of_file(path))


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"rows{kind}"
    os.mkfifo(file)
    with pytest.raises(InputError, match="pipe"):
        list(read_rows_of_file(file))
