from __future__ import annotations

import pytest
import torch

from layercut.healing.distill import drift_weights, overlap


def test_the_overlap_is_the_share_of_common_likeliest_tokens() -> None:
    teacher = torch.tensor([[9.0, 8.0, 7.0, 0.0, 0.0, 1.0], [9.0, 8.0, 7.0, 0.0, 0.0, 1.0]])
    student = torch.tensor([[7.0, 9.0, 0.0, 8.0, 0.0, 1.0], [0.0, 0.5, 0.0, 9.0, 8.0, 7.0]])
    assert overlap(student, teacher, k=3).tolist() == pytest.approx([2 / 3, 0.0])
    assert overlap(student, teacher, k=99).tolist() == [1.0, 1.0]


def test_weights_fall_with_the_overlap_never_rise_and_end_in_a_cut() -> None:
    agreed, parted = torch.ones(6), torch.zeros(6)
    again = torch.cat([agreed, parted, agreed])
    found = drift_weights(again, [18], least=0.5, window=4)
    # Means over four tokens after the agreement ends: 0.75, 0.5, 0.25, 0, so weights 1, 1, 0.5, 0.
    assert found.tolist() == [1.0] * 6 + [1.0, 1.0, 0.5] + [0.0] * 9
    assert drift_weights(again, [18], least=0.0).tolist() == [1.0] * 18


def test_each_answer_is_weighed_alone_and_its_beginning_counts_as_agreement() -> None:
    overlaps = torch.cat([torch.zeros(8), torch.ones(3), torch.zeros(2)])
    found = drift_weights(overlaps, [8, 3, 2], least=0.5, window=4)
    assert found[8:11].tolist() == [1.0, 1.0, 1.0]
    assert found[11:].tolist() == [1.0, 1.0], "two tokens do not tell yet"
    assert found[:4].tolist() == [1.0, 1.0, 0.5, 0.0]
    assert drift_weights(overlaps[:3], [0, 3, 0], least=0.5, window=4).tolist() == [1.0, 1.0, 0.5]
