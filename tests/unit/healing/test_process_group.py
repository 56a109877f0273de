"""Who one is among the processes of a launcher, and how a step's examples are spread over them."""

from __future__ import annotations

import pytest

from layercut.errors import InputError
from layercut.healing.process_group import ProcessGroup
from layercut.healing.settings import TrainSettings


def test_without_a_launcher_one_is_alone() -> None:
    alone = ProcessGroup.of_this_process({})
    assert alone == ProcessGroup(0, 1)
    assert alone.is_first
    assert alone.share({"told": 1}) == {"told": 1}
    alone.leave()
    assert not ProcessGroup.of_this_process({"RANK": "3", "WORLD_SIZE": "4"}).is_first


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"),
    [(8, 4, 1, (4, 2)), (8, 4, 2, (4, 1)), (8, 2, 2, (2, 2)), (8, 4, 8, (1, 1)), (64, 4, 8, (4, 2)), (2, 4, 1, (2, 1))],
)
def test_a_step_has_the_same_examples_whoever_trains(
    batch: int, micro: int, processes: int, expected: tuple[int, int]
) -> None:
    found = TrainSettings(batch_size=batch, micro_batch=micro).batches(processes)
    assert found == expected
    assert found.micro * found.accumulation * processes == batch


def test_a_batch_that_cannot_be_spread_is_refused() -> None:
    with pytest.raises(InputError, match="micro_batch 2 .* 3 processes"):
        TrainSettings(batch_size=8, micro_batch=4).batches(3)
    with pytest.raises(InputError, match="micro_batch 1 .* 4 processes"):
        TrainSettings(batch_size=2).batches(4)
