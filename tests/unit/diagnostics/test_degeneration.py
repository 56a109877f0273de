from __future__ import annotations

from layercut.diagnostics.degeneration import NUM_OPENINGS, openings


def test_openings_differ_and_grow() -> None:
    assert len(set(openings(1000, 0).values())) == NUM_OPENINGS
    assert list(openings(7, 3)) == list(openings(20, 3))[:7]
