"""The picture of the similarity diagnostic: heat maps of hidden states, steps and norms along depth, the logit lens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layercut.report.diagnosis.drawing import UNCUT, canvas, legend, look, tidy
from layercut.report.markup import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from layercut.runs.diagnosis import Diagnosis

TITLE = "Similarity"
QUESTION = "How do hidden states change along depth, and what does the seam look like?"
MOST_MAPS = 3


def figure(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """Above, per model, cosine and angular distance of its states and the uncut ones; below, curves along depth."""
    models: dict[str, Any] = found["data"].get("arms", {})
    if not models:
        return None
    shown = list(models)[: MOST_MAPS + 1]
    size = 1.75
    height = 0.4 + 2 * (size + 0.45) + 2.5
    picture = canvas(height)
    above = legend(picture, arms)
    depth = models[shown[0]]["layers"]
    width = 0.86 / max(len(shown), 3)
    for row, (name, words, limits) in enumerate(
        (("cosine", "cosine", (0.0, 1.0)), ("angle", "angular distance", (0.0, 0.5)))
    ):
        bottom = height - above - (row + 1) * (size + 0.45) + 0.1
        for place, arm in enumerate(shown):
            axes = picture.add_axes((0.07 + place * width, bottom / height, width - 0.03, (size - 0.1) / height))
            image = axes.imshow(
                models[arm][name], origin="lower", aspect="auto", cmap="viridis", vmin=limits[0], vmax=limits[1],
                interpolation="nearest",
            )  # fmt: skip
            axes.set_title(f"{words}, {arm}"[:30], fontsize=8, loc="left")
            axes.tick_params(labelsize=7)
            if place == 0:
                axes.set_ylabel("state of the model", fontsize=8)
            if row == 1:
                axes.set_xlabel("state of the uncut model", fontsize=8)
        bar = picture.add_axes((0.07 + len(shown) * width, bottom / height, 0.012, (size - 0.1) / height))
        picture.colorbar(image, cax=bar).ax.tick_params(labelsize=7)
    for place, (name, words) in enumerate(
        (
            ("steps", "cosine of input and output"),
            ("norms", "norm of the state"),
            ("lens", "logit lens, final in %"),
        )
    ):
        axes = picture.add_axes((0.07 + place * 0.32, 0.45 / height, 0.25, 1.6 / height))
        for index, model in enumerate(models.values()):
            _curve(axes, name, model, index)
        axes.set_title(words, fontsize=9, loc="left")
        axes.set_xlabel("decoder layer of the uncut model", fontsize=8)
        axes.set_xlim(-1, len(depth))
        tidy(axes)
        if name == "norms":
            axes.set_yscale("log")
    return picture


def _curve(axes: Axes, name: str, model: dict[str, Any], index: int) -> None:
    """A value for each layer at its place in the uncut model; the norm of the embedding output stands at -1."""
    layers = model["layers"]
    x = [-1, *layers] if name == "norms" else layers
    values = [100 * value for value in model["lens"]] if name == "lens" else model[name]
    colour, marker = (UNCUT, "o") if index == 0 else look(index - 1)
    axes.plot(x, values, color=colour, marker=marker, markersize=2.5, linewidth=1.1)


def lines(found: Diagnosis, arms: Sequence[str]) -> list[str]:
    """When the final token is decided, in each model."""
    text = []
    for name, model in found["data"].get("arms", {}).items():
        half = next((layer for layer, share in zip(model["layers"], model["lens"], strict=True) if share >= 0.5), None)
        text.append(f"- {escape(name)}: half of the final tokens are the likeliest ones already behind layer {half}.")
    return [*text, ""] if text else []
