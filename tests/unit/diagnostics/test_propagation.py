from __future__ import annotations

from layercut.diagnostics.propagation import given


def test_the_given_part_of_a_trace() -> None:
    pieces = [" 1", "2", "3", "4"]
    assert [given(pieces, share) for share in (0, 0.25, 0.5, 0.75, 1)] == ["", " 1", " 12", " 123", " 1234"]
