"""Requests that should be answered by a call of the right one of three functions, with the right arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from layercut.engine.base import Completion
from layercut.tasks.checked import Check, CheckedTask
from layercut.tasks.side_effects.instructions import parsed

VERSION = 1
"""Raised by any change of the requests or the rule."""


def _function(name: str, description: str, **parameters: str) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"name": name, "description": description, "parameters": schema}


_FUNCTIONS = {
    one["name"]: one
    for one in (
        _function("get_weather", "Current weather of a city.", city="string"),
        _function("set_timer", "Start a timer.", minutes="integer"),
        _function("convert_currency", "Convert an amount.", amount="number", source="string", target="string"),
        _function("send_message", "Send a text to a person.", recipient="string", text="string"),
        _function("play_music", "Play songs of an artist.", artist="string"),
        _function("add_numbers", "Sum of two numbers.", a="number", b="number"),
        _function("set_light", "Switch the light of a room.", room="string", on="boolean"),
        _function("find_book", "Look a book up.", title="string", author="string"),
    )
}
_REQUESTS: dict[str, dict[str, dict[str, Any]]] = {
    "get_weather": {
        f"What is the weather like in {city} right now?": {"city": city}
        for city in ("Oslo", "Lima", "Cairo", "Toronto", "Madrid")
    },
    "set_timer": {
        f"Please start a timer for {minutes} minutes.": {"minutes": minutes} for minutes in (5, 12, 25, 40, 90)
    },
    "convert_currency": {
        f"How much is {amount} {source} in {target}?": {"amount": amount, "source": source, "target": target}
        for amount, source, target in (
            (20, "USD", "EUR"), (150, "GBP", "JPY"), (75, "CHF", "USD"), (9, "EUR", "SEK"), (300, "CAD", "GBP")
        )
    },
    "send_message": {
        f'Send {who} this message: "{text}"': {"recipient": who, "text": text}
        for who, text in (
            ("Anna", "I am late"), ("Ben", "Dinner is ready"), ("Carla", "Call me back"), ("David", "Good luck"),
            ("Eva", "See you tomorrow"),
        )
    },
    "play_music": {
        f"Play something by {artist}.": {"artist": artist}
        for artist in ("Miles Davis", "Nina Simone", "Johann Sebastian Bach", "Queen", "Björk")
    },
    "add_numbers": {
        f"What is {a} plus {b}?": {"a": a, "b": b} for a, b in ((3, 4), (17, 25), (120, 9), (56, 44), (7, 800))
    },
    "set_light": {
        f"Switch the light in the {room} {'on' if on else 'off'}.": {"room": room, "on": on}
        for room, on in (("kitchen", True), ("bedroom", False), ("garage", True), ("hall", False), ("bathroom", True))
    },
    "find_book": {
        f'Look up the book "{title}" by {author}.': {"title": title, "author": author}
        for title, author in (
            ("Emma", "Jane Austen"), ("Dracula", "Bram Stoker"), ("Ulysses", "James Joyce"),
            ("Walden", "Henry David Thoreau"), ("Dune", "Frank Herbert"),
        )
    },
}  # fmt: skip


def tool_calls() -> CheckedTask:
    """40 requests with the JSON schemas of three functions; the answer must be the call as a JSON object alone.

    The function's name and every argument must be right; words may differ in case, and numbers in their type.
    """
    checks = [
        Check(_prompt(name, request), partial(_is_call, name, arguments), json.dumps(_call(name, arguments)))
        for name, requests in _REQUESTS.items()
        for request, arguments in requests.items()
    ]
    return CheckedTask(name="tool_calls", version=VERSION, checks=tuple(checks), max_new_tokens=96)


def _call(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def _prompt(name: str, request: str) -> str:
    names = list(_FUNCTIONS)
    at = names.index(name)
    offered = sorted({name, names[(at + 3) % len(names)], names[(at + 5) % len(names)]})
    schemas = "\n".join(json.dumps(_FUNCTIONS[one]) for one in offered)
    example = json.dumps(_call("NAME", {"PARAMETER": "VALUE"}))
    return (
        f"You can call these functions:\n{schemas}\n\nAnswer the request with one call as a JSON object, {example}, "
        f"and with nothing else.\n\nRequest: {request}"
    )


def _is_call(name: str, arguments: Mapping[str, Any], answer: Completion) -> bool:
    found = parsed(answer.text)
    if not (isinstance(found, dict) and found.get("name") == name and isinstance(found.get("arguments"), dict)):
        return False
    given = found["arguments"]
    return given.keys() == arguments.keys() and all(_equal(given[key], one) for key, one in arguments.items())


def _equal(given: Any, wanted: Any) -> bool:
    if isinstance(wanted, str):
        return isinstance(given, str) and given.strip().casefold() == wanted.casefold()
    if isinstance(given, bool) or isinstance(wanted, bool):
        return given is wanted
    return isinstance(given, int | float) and given == wanted
