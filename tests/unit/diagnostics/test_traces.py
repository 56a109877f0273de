from __future__ import annotations

from layercut.diagnostics.traces import kinds_of


def test_kinds_of_tokens_in_code_and_prose() -> None:
    pieces = ["for", " x", " in", " [", "1", "]:", "\n   "]
    assert kinds_of(pieces, code=True) == ["keyword", "other", "keyword", "bracket", "digit", "bracket", "other"]
    assert kinds_of(pieces)[0] == "other"
    assert kinds_of([" is", " 1", "2", "."], answer=(3, 6)) == ["other", "answer", "answer", "other"]
