from typing import Any

import pytest

from layercut.errors import InputError
from layercut.evidence.diagnosis import Diagnosis, MeasureRow, layer_damages, load_diagnosis
from layercut.report.diagnosis import damage_summary
from layercut.report.reports import write_reports
from layercut.report.words import first_difference
from layercut.runs.directory import DIAGNOSIS
from tests.support.accused import accused
from tests.support.pages import write_diagnosis


def row(
    diagnostic: str, measure: str, uncut: float, cut: float, *, p: float = 0.001, better: Any = "higher", **fields: Any
) -> MeasureRow:
    share = fields.get("unit", "share") == "share"
    made = {
        "diagnostic": diagnostic, "measure": measure, "group": "", "arm": "reverse-3", "better": better,
        "unit": "share", "chance": None, "n": 20, "uncut": [uncut, max(0, uncut - 0.1), uncut + 0.1],
        "cut": [cut, None, None], "difference": [cut - uncut, cut - uncut - 0.1, cut - uncut + 0.1],
        "kept": [cut / uncut, 0.0, None] if better == "higher" and share else None,
        "p_value": p, "test": "mcnemar", "seed": 0, "headline": True,
    }  # fmt: skip
    return MeasureRow.from_dict({**made, **fields})


def diagnoses() -> dict[str, Diagnosis]:
    by_depth = [
        row("brackets", measure, 0.9, 0.8 / depth, group=f"depth {depth}", headline=False, n=2)
        for measure in ("closed", "next bracket")
        for depth in (1, 2, 3)
    ]
    written = row("arithmetic", "written", 0.8, 0.1)
    rows = {
        "arithmetic": [written, row("arithmetic", "log-probability", -1, -3, unit="nats", headline=False)],
        "brackets": [row("brackets", "closed", 0.9, 0.8, p=0.4), *by_depth],
        "degeneration": [row("degeneration", "loops", 0.1, 0.6, better="lower")],
        "propagation": [row("propagation", "first choice", 1, 0.6, group="digit", headline=False)],
    }
    classes = {"uncut": {"parses": 9, "cut": 1}, "reverse-3": {"never_closed": 6, "parses": 4}}
    finish = {"uncut": {"stop": 9}, "reverse-3": {"length": 9}}
    data = {"brackets": {"classes": classes}, "degeneration": {"finish": finish}}
    return {name: {"rows": of, "data": data.get(name, {}), "notes": [f"about {name}"]} for name, of in rows.items()}


def test_only_what_stands_after_holm_and_goes_the_wrong_way_is_damage_the_largest_loss_first():
    found = diagnoses()
    assert accused(found, "reverse-3") == ["arithmetic", "degeneration"]
    found["arithmetic"]["rows"] = []
    found["brackets"]["rows"] = [row("brackets", "closed", 0.5, 0.9, p=0.5)]  # better than uncut
    assert accused(found, "reverse-3") == ["degeneration"]
    # 0.03 alone would do; of two headline measures it does not.
    found["degeneration"]["rows"] = [row("degeneration", "loops", 0.1, 0.6, better="lower", p=0.03)]
    assert layer_damages(found, "reverse-3") == []
    assert accused(found, "another model") == []
    first, others = damage_summary(diagnoses(), "reverse-3").split(".** ")
    assert first.startswith("**Broke first: arithmetic, written: 80 %")
    assert others.startswith("Also significant, the largest loss first: degeneration, loops")
    assert others.endswith(". No significant damage in brackets.")


@pytest.mark.parametrize(
    ("uncut", "cut", "marked"),
    [
        (" 12", " 17", "7"),
        ("It is so.", "It was so.", " was"),
        (" ) ]", " )", ""),
        (" 12", " 12 apples", " apples"),
        ("abc", "", ""),
        ("gives 14.", "gives 15.", "5"),
        ("7 + 5 is 12", "7 + 5 makes 12", " makes"),
        ("one two three", "one two", ""),
        ("one two", "one\n\n", "\n\n"),
    ],
)
def test_the_first_wrong_token_is_marked(uncut, cut, marked):
    start, end = first_difference(uncut, cut)
    assert cut[start:end] == marked and (marked or start == len(cut))


def test_the_page_has_a_section_for_each_diagnostic_even_without_rows(tmp_path):
    page = write_reports(write_diagnosis(tmp_path / "run", diagnoses()))["report"]
    text = page.read_text()
    for name in diagnoses():
        assert f"**{name}**" in text and f"about {name}" in text
    assert "| reverse-3 | 4 (40 %) | 0 (0 %; 0 %) | 6 (60 %; 100 %) |" in text
    assert "(--limit 20), seed 0." in text
    before = page.read_bytes()
    write_reports(tmp_path / "run")
    assert before == page.read_bytes()
    nothing: Diagnosis = {"rows": [], "data": {}, "notes": ["no traces"]}
    folder = write_diagnosis(tmp_path / "empty", dict.fromkeys(diagnoses(), nothing))
    text = write_reports(folder)["report"].read_text()
    assert "None of the chosen diagnostics tests for damage." in text


def test_what_cannot_be_read_is_said(tmp_path):
    for text, message in (("", "can be read here"), ("{", "is damaged"), ('{"format_version": 9}', "9 is not known")):
        if text:
            (tmp_path / DIAGNOSIS).write_text(text)
        with pytest.raises(InputError, match=message):
            load_diagnosis(tmp_path)
