"""The prediction of ``layercut sweep --predict``: how predict.json is read, and how its rankings of layers agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import InputError
from layercut.evidence.correlation import RankCorrelation, kendall_correlation, rank_correlation
from layercut.runs.directory import PREDICTION
from layercut.runs.settings import FORMAT_VERSION as FORMAT_VERSION
from layercut.runs.settings import read_format

PREDICTORS: Mapping[str, str] = {
    "kl": "trace damage (KL)",
    "sure": "trace damage (sure tokens)",
    "lost": "answers not kept",
    "influence": "block influence",
}
"""Predictors that rank the layers, and their names; higher means keep."""


class Correlation(NamedTuple):
    """Agreement of a predictor's order of the layers with another one's."""

    first: str
    second: str
    spearman: RankCorrelation
    kendall: RankCorrelation


def load(folder: Path) -> dict[str, Any]:
    """Read predict.json of a run folder.

    Raises:
        InputError: there is none, it is damaged or of an unknown format, or it lacks what is measured now.
    """
    data = read_format(Path(folder) / PREDICTION, "prediction")
    if any("kinds" not in one for one in data["layers"]):
        raise InputError(
            f"{folder}: {PREDICTION} is of an earlier layercut, which did not measure kinds of tokens; give the "
            "command `layercut sweep --predict` again: the original model's answers are there."
        )
    return data


def correlations(data: Mapping[str, Any]) -> list[Correlation]:
    """Correlations of the predictors with each other, and of each one with every task of the sweep, if there is one.

    A task ranks a layer the higher, the lower the score without it.
    """
    rankings = {
        name: {one["layer"]: 1 - one["kept"]["value"] if name == "lost" else one[name] for one in data["layers"]}
        for name in PREDICTORS
    }
    found = [_correlation(PREDICTORS["kl"], rankings["kl"], PREDICTORS["influence"], rankings["influence"])]
    for curve in data["sweep"] or []:
        task = {int(layer): -score for layer, score in curve["scores"].items()}
        found += [_correlation(words, rankings[name], curve["name"], task) for name, words in PREDICTORS.items()]
    return found


def _correlation(first: str, one: Mapping[int, float], second: str, other: Mapping[int, float]) -> Correlation:
    layers = sorted(one.keys() & other.keys())
    pairs = [one[layer] for layer in layers], [other[layer] for layer in layers]
    return Correlation(first, second, rank_correlation(*pairs), kendall_correlation(*pairs))
