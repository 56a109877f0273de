from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from layercut.engine.batching import Backoff, lay_out
from layercut.errors import InputError


class Item(NamedTuple):
    id: str
    num_rows: int = 1


def ids(batches: list[list[Item]]) -> list[str]:
    return ["".join(item.id for item in batch) for batch in batches]


def test_batches_keep_the_order_and_never_split_a_request():
    items = [Item("a", 2), Item("b", 1), Item("c", 2), Item("d", 9), Item("e", 1)]
    assert ids(lay_out(items, 4)) == ["ab", "c", "d", "e"]
    assert list(lay_out([], 4)) == []
    # Two requests of one id are refused.
    with pytest.raises(InputError, match="'a' is there"):
        lay_out([Item("a"), Item("b"), Item("a")], 2)


def test_parts_are_halved_for_good_when_memory_runs_out(caplog):
    tried: list[int] = []

    def work(part: Sequence[int]) -> list[int]:
        tried.append(len(part))
        if len(part) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 MiB.")
        return list(part)

    backoff = Backoff(8)
    with caplog.at_level(logging.WARNING):
        assert list(backoff.run(range(8), work)) == [[0, 1], [2, 3], [4, 5], [6, 7]]
        assert list(backoff.run(range(3), work)) == [[0, 1], [2]]
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1]
    assert [re.findall(r"\d+", record.getMessage()) for record in caplog.records] == [["8", "4"], ["4", "2"]]


@pytest.mark.parametrize(("rows", "message"), [(1, "CUDA out of memory. Tried"), (4, "shapes do not match")])
def test_other_errors_and_a_single_row_too_large_come_through(rows, message):
    def work(part: Sequence[int]) -> None:
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=message):
        list(Backoff(4).run(range(rows), work))
