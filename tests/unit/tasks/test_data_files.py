from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.tasks.data_files import read_local, text_field

ROWS = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def fields(path: Path, split: str = "all") -> list[dict[str, object]]:
    return [dict(row.fields) for row in read_local(str(path)).splits[split]]


def test_every_kind_of_file_gives_the_same_rows_and_hash(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra lm-eval is not installed")
    from pyarrow.parquet import write_table

    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    assert all(fields(file) == ROWS for file in files)
    assert len({read_local(str(file)).sha256 for file in files}) == 1


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    before = read_local(str(tmp_path / "a.jsonl")).sha256
    (tmp_path / "a.jsonl").write_bytes(LINES.replace(b"q3", b"q9"))
    assert read_local(str(tmp_path / "a.jsonl")).sha256 != before


def test_a_folder_has_its_splits_under_the_usual_names(tmp_path: Path) -> None:
    for name in (
        "train-00000-of-00002.json",
        "train-00001-of-00002.json",
        "valid.json",
        "test.json",
        "test_sample.json",
        "README.md",
    ):
        (tmp_path / name).write_text(json.dumps([{"from": name}]))
    data = read_local(str(tmp_path))
    assert {split: [row.fields["from"] for row in rows] for split, rows in data.splits.items()} == {
        "train": ["train-00000-of-00002.json", "train-00001-of-00002.json"],
        "validation": ["valid.json"],
        "test": ["test.json"],
    }


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
        read_local(str(path))
    assert "\n" not in str(caught.value)


def test_a_gzip_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(LINES * 1000)[:-200])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: the gzip data is damaged after line \d+"):
        read_local(str(path))
    path.write_bytes(LINES)
    with pytest.raises(InputError, match=r"the gzip data is damaged after line 0"):
        read_local(str(path))


def test_what_cannot_be_data_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.json").write_text('{"rows": []}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("test.jsonl", "test.jsonl.gz"):
        (tmp_path / "two" / name).write_bytes(LINES)
    for name, message in {
        "nothing": "no such file or folder",
        "a.txt": "this kind of file is not read",
        "a.json": "a list of rows was expected, but this is one dict",
        "empty": "no train, validation or test file in this folder",
        "two": r"test\.jsonl and test\.jsonl\.gz both hold the split test",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            read_local(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra lm-eval is not installed")
    (tmp_path / "a.parquet").write_bytes(LINES)
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_local(str(tmp_path / "a.parquet"))


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
        text_field(read_local(str(path)).splits["all"][0], "question")


def test_a_dev_file_is_the_validation_split_unless_there_is_another(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "test.jsonl").write_text('{"a": 2}\n')
    assert set(read_local(str(tmp_path)).splits) == {"validation", "test"}
    (tmp_path / "validation.jsonl").write_text('{"a": 3}\n')
    found = read_local(str(tmp_path)).splits
    assert {name: rows[0].fields["a"] for name, rows in found.items()} == {"dev": 1, "validation": 3, "test": 2}
