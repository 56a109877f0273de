"""Points of a plot and what hovering over them says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TOOLTIP_FIELD = "about"


def point_layers(encoding: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Filled and hollow points, and a large invisible one over each that is easier to hit."""
    point = {"type": "point", "size": 46, "clip": False, "strokeWidth": 1.8, "opacity": 1}
    return [
        {
            "mark": {**point, "filled": True},
            "transform": [{"filter": "!datum.hollow"}],
            "encoding": dict(encoding),
        },
        {
            "mark": {**point, "filled": True, "fill": "var(--page)"},
            "transform": [{"filter": "datum.hollow"}],
            "encoding": {
                **{key: value for key, value in encoding.items() if key != "color"},
                "stroke": encoding["color"],
            },
        },
        {
            "mark": {"type": "point", "size": 420, "opacity": 0, "filled": True},
            "encoding": dict(encoding),
            "name": "hit",
        },
    ]


def with_texts(points: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Points with their texts for hover as fields of their own, and the names of these for each kind of point."""
    kinds = list(dict.fromkeys(tuple(point[_TOOLTIP_FIELD]) for point in points))
    values = []
    for point in points:
        flat = {key: value for key, value in point.items() if key != _TOOLTIP_FIELD}
        texts = {f"t{place}": text for place, text in enumerate(point[_TOOLTIP_FIELD].values())}
        values.append({**flat, **texts, "kind": kinds.index(tuple(point[_TOOLTIP_FIELD]))})
    return values, [list(kind) for kind in kinds]


def hover_layers(layers: Sequence[dict[str, Any]], kinds: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The layers, the invisible one once for each kind of point with the texts of that kind."""
    found = []
    for layer in layers:
        if layer.pop("name", "") != "hit":
            found.append(layer)
            continue
        for kind, names in enumerate(kinds):
            shown = [{"field": f"t{place}", "type": "nominal", "title": name} for place, name in enumerate(names)]
            encoding = {**layer["encoding"], "tooltip": shown}
            found.append({**layer, "transform": [{"filter": f"datum.kind == {kind}"}], "encoding": encoding})
    return found
