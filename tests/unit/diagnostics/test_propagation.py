from __future__ import annotations

from pathlib import Path

import pytest

from layercut.diagnostics import LAYER_FORMS, load_diagnostic
from layercut.diagnostics.traces import TOKEN_KINDS
from layercut.evidence.diagnosis import layer_damages
from tests.support.accused import accused
from tests.support.patient import PatientEngine, session
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
    where = found["data"]["first_wrong"]["cut"]
    assert where["kinds"] == {"operator": 24}
    assert where["parted"] == where["wrong_when_forced"] == 24
    assert where["traces"] == 5 * 24
    # What is given up to the broken token does not help, all of what lies behind it does.
    clamped = [row(found, "clamped", f"{share} given")["cut"][0] for share in ("0%", "25%", "50%", "100%")]
    assert clamped == [0.8, 1.0, 1.0, 1.0]  # one task of five
    assert row(found, "teacher-forced")["cut"][0] > row(found, "free-running")["cut"][0]


def test_programs_are_traces_too_and_have_keywords() -> None:
    found = diagnose("never_closes")["propagation"]
    assert row(found, "first choice", "keyword")["cut"][0] == 1
    assert row(found, "first choice", "bracket")["cut"][0] < 1
    assert any("programs 24 of 24" in note for note in found["notes"])
    assert [row(found, "1 / rank", kind)["uncut"][0] for kind in ("keyword", "bracket")] == [1, 1]
    assert 0 < row(found, "1 / rank", "bracket")["cut"][0] < 1


def test_the_form_for_layers_says_of_given_tokens_what_the_whole_diagnostic_says(tmp_path: Path) -> None:
    whole = diagnose("no_times")["propagation"]
    short = load_diagnostic("propagation", LAYER_FORMS)(session(PatientEngine("no_times"), tmp_path))
    assert short["rows"]
    finer = [one for one in short["rows"] if one.group in TOKEN_KINDS]
    assert all(one in whole["rows"] for one in short["rows"] if one not in finer)
    assert {one.metric for one in finer} == {"extra loss"} and "all else" in {one.group for one in finer}
    assert accused({"propagation": short}, "cut") == ["propagation"]
    assert {one.metric for one in short["rows"] if not one.group} >= {"teacher-forced", "KL"}
