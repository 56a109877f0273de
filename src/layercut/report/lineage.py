"""Which layers of a parent another model has, in words and as a table."""

from __future__ import annotations

from layercut.report.table import Table, texts
from layercut.runs.environment import hide_home
from layercut.surgery.lineage import Lineage, Parent, similarity_rows


def lineage_words(parent: Parent) -> str:
    """What the other model has of its parent, and whether a plan of the parent gives it, in a sentence."""
    apart = "" if parent.lineage.layers else "; no plan of the parent gives this model"
    return f"Parent {hide_home(parent.model)}: {parent.lineage.describe()}{apart}."


def lineage_table(lineage: Lineage, name: str) -> Table:
    """A line for each layer of the other model, which is called ``name``."""
    return Table(
        name=f"lineage-{name}",
        caption=f"Layers of {name} in its parent, by the cosine of their weights",
        columns=texts("layer", "in the parent", "cosine", "change", numeric=("layer", "in the parent", "cosine")),
        rows=similarity_rows(lineage),
    )
