from __future__ import annotations

from layercut.diagnostics.functions import functions
from layercut.evidence.program_classes import classify


def test_functions_differ_and_grow() -> None:
    wanted = functions(60, 0)
    assert len({one.id for one in wanted}) == 60
    assert wanted[:10] == functions(10, 0)
    assert {classify(one.head, head=one.head) for one in wanted} == {"no_code"}
    assert {classify(one.head + "\n    return 1", head=one.head) for one in wanted} == {"parses"}
