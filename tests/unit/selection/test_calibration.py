from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from layercut.engine.plain import PlainEngine
from layercut.errors import InputError, MissingExtra
from layercut.models.loading import LoadedModel
from layercut.runs.directory import RunFolder
from layercut.selection.calibration import CALIBRATION_PROMPTS, load_calibration
from tests.support.loaded import tiny_loaded
from tests.unit.selection.test_perplexity import Counting


@cache
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


def generated(engine: Any = None, **options: Any) -> Any:
    engine = engine or PlainEngine(loaded(), batch_size=4)
    return load_calibration("generated", loaded(), engine=engine, **{"num_texts": 10, "max_tokens": 64} | options)


def test_the_model_goes_on_from_the_openings():
    found = generated()
    assert len(found.texts) == 10
    assert all(text.startswith(opening) for text, opening in zip(found.texts, CALIBRATION_PROMPTS, strict=False))
    assert found.source == "generated"
    lengths = [len(loaded().tokenizer(text)["input_ids"]) for text in found.texts]
    assert found.num_tokens == sum(lengths)
    assert max(lengths) <= 64
    assert sum(length > len(opening) for length, opening in zip(lengths, CALIBRATION_PROMPTS, strict=False)) > 5


def test_generating_is_deterministic_and_follows_the_seed():
    first = generated(num_texts=4)
    assert generated(num_texts=4) == first
    assert generated(num_texts=4, seed=1).content_hash != first.content_hash
    again = generated(num_texts=len(CALIBRATION_PROMPTS) + 2)
    assert again.texts[len(CALIBRATION_PROMPTS)].startswith(CALIBRATION_PROMPTS[0])
    assert again.texts[len(CALIBRATION_PROMPTS)] != again.texts[0], "the second text of an opening is another one"


def test_what_was_generated_is_kept_in_the_run_folder(tmp_path):
    engine = Counting(loaded(), batch_size=4)
    engine.kill_after = 1
    with RunFolder.begin(tmp_path / "run", {"a": 1}) as folder:
        with pytest.raises(KeyboardInterrupt):
            generated(engine, folder=folder)
        engine.kill_after = None
        found = generated(engine, folder=folder)
        assert len(set(engine.asked)) == len(engine.asked) == 10
        assert generated(engine, folder=folder) == found == generated()
        assert len(engine.asked) == 10
        generated(engine, folder=folder, max_tokens=32)
        assert len(engine.asked) == 20, "shorter texts are other texts"


ROWS = [{"text": "One text."}, {"text": "  "}, {"content": "Another, which is longer."}, {"text": "Third", "id": 3}]
TEXTS = ("One text.", "Another, which is longer.", "Third")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_rows_of_a_file(tmp_path, name):
    path = tmp_path / name
    data = json.dumps(ROWS) if name.endswith(".json") else "\n".join(map(json.dumps, ROWS))
    path.write_bytes(gzip.compress(data.encode()) if name.endswith(".gz") else data.encode())
    found = load_calibration(str(path), loaded())
    assert found.texts == TEXTS
    assert found.num_tokens == sum(map(len, TEXTS))
    assert found.source == str(path)
    assert load_calibration(str(path), loaded(), num_texts=2).texts == TEXTS[:2]
    cut = load_calibration(str(path), loaded(), max_tokens=8)
    assert cut.texts == ("One text", "Another,", "Third")
    assert cut.num_tokens == 21
    assert cut.content_hash != found.content_hash


@pytest.mark.parametrize("name", ["book.txt", "book.txt.gz"])
def test_a_running_text_is_cut_into_consecutive_pieces(tmp_path, name):
    text = "Zürich lies at the lake. " * 40
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    found = load_calibration(str(tmp_path / name), loaded(), num_texts=100, max_tokens=50)
    assert "".join(found.texts) == text
    assert all(len(piece.encode()) in (49, 50) for piece in found.texts[:-1]), "a token is a byte here"
    assert found.num_tokens == len(text.encode())
    assert load_calibration(str(tmp_path / name), loaded(), num_texts=3, max_tokens=50).texts == found.texts[:3]


def test_a_short_context_is_not_exceeded(tmp_path):
    (tmp_path / "a.txt").write_text("word " * 400)
    found = load_calibration(str(tmp_path / "a.txt"), loaded(), max_tokens=5000)
    assert len(found.texts[0]) == 512


def test_a_bos_token_of_the_tokenizer_counts(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a" * 20}))
    with_bos = tiny_loaded("llama")
    own = with_bos.tokenizer

    def encode(text: str, add_special_tokens: bool = True, **_: Any) -> dict[str, list[int]]:
        ids = own(text, add_special_tokens=False)["input_ids"]
        return {"input_ids": [257, *ids] if add_special_tokens else ids}

    class Tokenizer:
        __call__ = staticmethod(encode)
        bos_token_id, eos_token_id, decode = own.bos_token_id, own.eos_token_id, own.decode

    found = load_calibration(
        str(tmp_path / "a.jsonl"),
        SimpleNamespace(**vars(with_bos) | {"tokenizer": Tokenizer(), "name": "x", "context_length": None}),
        max_tokens=8,
    )  # type: ignore[arg-type]
    assert (found.texts, found.num_tokens) == (("a" * 7,), 8)


class Datasets:
    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.asked: list[Any] = []

    def load_dataset(self, name: str, config: str | None, *, split: str, streaming: bool) -> Any:
        assert streaming
        self.asked.append((name, config, split))
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("hub:owner/name", ("owner/name", None, "train")),
        ("hub:owner/name:config", ("owner/name", "config", "train")),
        ("hub:owner/name:config:test", ("owner/name", "config", "test")),
        ("hub:owner/name::test", ("owner/name", None, "test")),
    ],
)
def test_a_data_set_of_the_hub_is_streamed(source, asked, monkeypatch):
    def rows() -> Iterator[Any]:
        yield from ROWS
        raise AssertionError("read beyond what is needed")

    datasets = Datasets(rows())
    monkeypatch.setitem(sys.modules, "datasets", datasets)  # type: ignore[arg-type]
    found = load_calibration(source, loaded(), num_texts=3)
    assert (found.texts, found.source) == (TEXTS, source)
    assert datasets.asked == [asked]


def test_refusals_of_hub_data_sets(monkeypatch):
    for datasets, source, error, message in (
        (None, "hub:a:b:c:d", InputError, "write hub:NAME"),
        (Datasets(ConnectionError("no network\nmore")), "hub:a", InputError, r"hub:a: .*\(no network\)"),
        (Datasets([{"question": "?"}]), "hub:a", InputError, "row 1: no text"),
        (None, "hub:a", MissingExtra, r"pip install .*\[lm-eval\]'"),
    ):
        monkeypatch.setitem(sys.modules, "datasets", datasets)  # type: ignore[arg-type]
        with pytest.raises(error, match=message):
            load_calibration(source, loaded())


def test_refusals(tmp_path):
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "broken.txt.gz").write_bytes(b"no gzip")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for name, message in {
        "blank.txt": "holds no text",
        "broken.txt.gz": "gzip data is damaged",
        "bytes.txt": "not UTF-8 text",
        "gone.txt": "no calibration text can be read here .*Give a file, hub:NAME or generated",
        "gone.jsonl": "No such file",
    }.items():
        with pytest.raises(InputError, match=message):
            load_calibration(str(tmp_path / name), loaded())
    with pytest.raises(InputError, match="no engine"):
        load_calibration("generated", loaded())
