from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from layercut.evidence.paired import compare_paired
from layercut.report.selection import held_out_line, held_out_table


def side(right: int) -> dict[str, Any]:
    found = compare_paired([1.0] * 16 + [0.0] * 4, [1.0] * right + [0.0] * (20 - right), chance=0.25)
    plain = {name: getattr(found, name)._asdict() for name in ("uncut", "cut", "difference")}
    return {"chance": 0.25, "n": 20, **plain}


def test_both_kinds_of_items_stand_below_each_other() -> None:
    rows = [
        {"task": "copy", "readout": "short", "metric": "accuracy", "selected": side(15), "held_out": side(9)},
        {"task": "humaneval", "readout": "chain", "metric": "pass", "selected": side(10), "held_out": None},
    ]
    objective = {"selected": 0.9375, "held_out": {"value": 0.5, "low": 0.31, "high": 0.7, "n": 20}, "refused": ""}
    file = io.StringIO()
    shown = held_out_table({"held_out": {"rows": rows, "objective": objective, "seed": 3}})
    Console(file=file, width=160).print(shown)
    lines = [" ".join(line.split()) for line in file.getvalue().splitlines()]
    assert any(line.startswith("copy (short) chosen on 20 25 80 [58, 92] 75 [53, 89] -5 [") for line in lines)
    assert any(line.startswith("held out 20 25 80 [58, 92] 45 [26, 66] -35 [") for line in lines)
    assert "held out 0 no items are left: lower --limit" in lines
    assert any("0.9375 on the items that it was chosen on" in line for line in lines)
    assert any("0.5000 [0.3100, 0.7000] on 20 held-out ones" in line for line in lines)


def test_a_plan_without_them_has_no_table_and_a_refusal_is_said() -> None:
    assert held_out_table({"importance": {}}) is None
    line = held_out_line({"selected": 0.9, "held_out": None, "refused": "no items of copy (short) were held out"})
    assert line.endswith("no value on held-out items: no items of copy (short) were held out.")
