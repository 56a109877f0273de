from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.tasks.hub_rows import hub_rows

datasets = pytest.importorskip("datasets", reason="hub data sets need layercut[heal]")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """The library reads a folder of files under the same name as a data set of the hub."""
    for part in range(2):
        rows = [{"prompt": f"say {part * 20 + number}"} for number in range(20)]
        (tmp_path / f"train-{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"hub:{tmp_path}"


def texts(source: str, count: int | None = None, **how: Any) -> list[str]:
    return [row.fields["prompt"] for row in islice(hub_rows(source, extra="heal", **how), count)]


def test_rows_come_in_their_order_or_shuffled_by_a_seed(folder: str) -> None:
    plain = texts(folder)
    assert plain == [f"say {number}" for number in range(40)]
    shuffled = texts(folder, buffer=10, seed=42)
    assert shuffled != plain and sorted(shuffled) == sorted(plain)
    assert texts(folder, buffer=10, seed=42) == shuffled != texts(folder, buffer=10, seed=43)
    assert texts(folder, 5, buffer=10, seed=42) == shuffled[:5]


def test_without_network_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network\nand a long trace")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"hub:a/b: .*\(no network\).*local file") as caught:
        texts("hub:a/b")
    assert "\n" not in str(caught.value)


def test_a_split_that_is_not_there_is_said(folder: str) -> None:
    with pytest.raises(InputError, match="read here .*split"):
        texts(f"{folder}::validation")
