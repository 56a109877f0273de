"""Reading: a block of requests to be scored, as texts of a pack, and the positions where they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layercut.engine.packing import Pack, Text
from layercut.engine.scores import Sheet

if TYPE_CHECKING:
    from layercut.engine.rows import Scoring


class Reading:
    """Each request is one text: a tree of its rows, so that what they have in common is computed once.

    The options of a multiple-choice item thus share one pass over their context and over the words they begin with, and
    a position that several continuations are read off is read once.
    """

    def __init__(self, block: Sequence[Scoring], num_prefix: int) -> None:
        self.block = block
        self.texts: list[Text] = []
        self.sheet = Sheet()
        """Where and what to score, the continuations of all rows of all requests in order."""
        read: dict[tuple[int, int], int] = {}
        for index, item in enumerate(block):
            text, lanes = Text.tree([row.tokens[num_prefix:] for row in item.rows])
            self.texts.append(text)
            for row, lane in zip(item.rows, lanes, strict=True):
                places = [read.setdefault((index, place), len(read)) for place in lane[-row.num_scored :]]
                for continuation in row.continuations:
                    self.sheet.add(places, continuation)
        self._read = list(read)

    def positions(self, pack: Pack) -> list[int]:
        """Packed index of each of the N positions that are read."""
        return [pack.starts[index] + place for index, place in self._read]
