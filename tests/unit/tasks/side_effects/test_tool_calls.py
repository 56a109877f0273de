from __future__ import annotations

import json

import pytest

from layercut.tasks.side_effects.tool_calls import _FUNCTIONS, _REQUESTS, tool_calls
from tests.unit.tasks.side_effects import graded, passes

PART = "How much is 20 USD in EUR?"


def call(name: str = "convert_currency", **arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments})


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (call(amount=20, source="USD", target="EUR"), True),
        (call(amount=20.0, source="usd", target="eur "), True),
        (f"```json\n{call(amount=20, source='USD', target='EUR')}\n```", True),
        (f"Sure: {call(amount=20, source='USD', target='EUR')}", False),
        (call(amount="20", source="USD", target="EUR"), False),
        (call(amount=True, source="USD", target="EUR"), False),
        (call(amount=20, source="EUR", target="USD"), False),
        (call(amount=20, source="USD"), False),
        (call(amount=20, source="USD", target="EUR", date="today"), False),
        (call("add_numbers", amount=20, source="USD", target="EUR"), False),
        ('{"name": "convert_currency", "arguments": "20 USD"}', False),
        ("[]", False),
    ],
)
def test_function_and_every_argument_must_be_right(text: str, right: bool) -> None:
    assert passes(tool_calls(), PART, text) is right


def test_every_request_is_offered_its_function_among_three_and_its_own_call_passes() -> None:
    task = tool_calls()
    for sample in task.samples("report", None):
        offered = [name for name in _FUNCTIONS if f'"{name}"' in sample.question]
        assert len(offered) == 3 and json.loads(sample.gold)["name"] in offered
        assert graded(task, sample, sample.gold).metrics == {"accuracy": 1.0}


def test_a_switch_is_no_number() -> None:
    assert _REQUESTS["set_light"]
    assert not passes(tool_calls(), "in the kitchen on", call("set_light", room="kitchen", on=1))
    assert passes(tool_calls(), "in the kitchen on", call("set_light", room="Kitchen", on=True))
