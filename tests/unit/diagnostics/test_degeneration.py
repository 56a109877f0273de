from __future__ import annotations

from layercut.diagnostics.degeneration import NUM_OPENINGS, text_openings


def test_openings_differ_and_grow() -> None:
    assert len(set(text_openings(1000, 0).values())) == NUM_OPENINGS
    assert list(text_openings(7, 3)) == list(text_openings(20, 3))[:7]
