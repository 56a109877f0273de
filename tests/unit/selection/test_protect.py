from __future__ import annotations

import pytest

from layercut.errors import InputError
from layercut.selection.protect import parse_protected


@pytest.mark.parametrize(
    ("text", "protected"),
    [
        ("first:4,last:2", {0, 1, 2, 3, 28, 29}),
        ("first:4,last:2,0,7-9", {0, 1, 2, 3, 7, 8, 9, 28, 29}),
        ("0", {0}),
        (" 5 , last:1 ", {5, 29}),
        ("last:0", set()),
        ("none", set()),
    ],
)
def test_protected_layers_as_people_write_them(text: str, protected: set[int]) -> None:
    assert parse_protected(text, 30) == protected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first:31", "first:31 protects more layers than the model has"),
        ("7,30", "protected layer 30 is not in the model, whose decoder layers are 0-29"),
        ("28-30", "protected layer 30 is not in the model"),
        ("middle:2", "'middle:2' does not name the layers to protect"),
        ("first:two", "'first:two' does not name"),
        ("9-7", "runs backwards"),
        ("", "does not name the layers to protect"),
        ("first:2,", "does not name the layers to protect"),
    ],
)
def test_what_is_no_protection_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse_protected(text, 30)
    assert "\n" not in str(error.value)
