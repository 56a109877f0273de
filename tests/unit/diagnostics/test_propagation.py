from __future__ import annotations

import pytest

from layercut.evidence.diagnosis import layer_damages
from tests.unit.diagnostics.test_defects import diagnose, row


def test_a_token_whose_logit_is_destroyed() -> None:
    found = diagnose("no_times")["propagation"]
    shown = layer_damages({"propagation": found}, "cut")
    assert [(one.row.metric, one.row.group) for one in shown] == [("first choice (copy, gsm_symbolic)", "operator")]
    # One operator of three in each chain: two thirds of them are still the first choice.
    assert shown[0].row.values.cut.value == pytest.approx(2 / 3)
    operators = row(found, "extra loss", "operator")  # programs have some too, and lose none
    assert operators["cut"][0] == pytest.approx(11.9 / 3 * 24 / operators["n"])
    assert row(found, "KL", "digit")["cut"][0] == 0
    assert row(found, "teacher-forced")["cut"][0] > row(found, "free-running")["cut"][0]


def test_programs_are_traces_too_and_have_keywords() -> None:
    found = diagnose("never_closes")["propagation"]
    assert row(found, "first choice", "keyword")["cut"][0] == 1
    assert row(found, "first choice", "bracket")["cut"][0] < 1
    assert any("programs 24 of 24" in note for note in found["notes"])
    # The brackets that close are a kind of their own, whose loss no other kind shares.
    losses = {kind: row(found, f"extra loss ({kind})")["cut"][0] for kind in ("closing bracket", "all else")}
    assert losses == {"closing bracket": pytest.approx(11.9 * 2 / 3), "all else": 0}  # gsm_symbolic has some too
