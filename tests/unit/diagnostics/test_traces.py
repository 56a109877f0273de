from __future__ import annotations

import pytest

from layercut.diagnostics.propagation import kinds_of, token_kinds

SUM = ["\\", "(", "15", " +", " 2", " =", " \\$", "1", "7", ".", "5", "\\", ")"]


def test_kinds_of_tokens_in_code_and_prose() -> None:
    pieces = ["for", " x", " in", " [", "1", "]:", "\n   "]
    assert kinds_of(pieces, code=True) == ["keyword", "other", "keyword", "bracket", "digit", "bracket", "other"]
    assert kinds_of(pieces)[0] == "other"
    assert kinds_of([" is", " 1", "2", "."], answer=(3, 6)) == ["other", "answer", "answer", "other"]


@pytest.mark.parametrize(
    ("pieces", "kinds"),
    [
        (SUM, "other other digit other digit other other result result other result other bracket"),
        (["x", " =", " [", "3", "]", " 4"], "other other other digit bracket digit"),
        (["=", "12", "34", "}\n", "12"], "other result result bracket digit"),
        (["", " ", "no"], "other other other"),
    ],
)
def test_results_stand_behind_an_equals_sign(pieces: list[str], kinds: str) -> None:
    names = {"digit": "other digit", "bracket": "closing bracket", "other": "all else"}
    assert token_kinds(pieces) == [names.get(kind, kind) for kind in kinds.split()]
