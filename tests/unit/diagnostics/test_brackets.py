from __future__ import annotations

from layercut.diagnostics.brackets import DEEPEST, nested_brackets


def test_nested_brackets_have_the_depth_they_say() -> None:
    samples = nested_brackets(seed=2).samples("report", 100)
    assert all(len(sample.gold.split()) == sample.data["depth"] for sample in samples)
    assert {sample.data["depth"] for sample in samples} == set(range(1, DEEPEST + 1))
