"""Reading: a block of requests to be scored, as texts of a pack, and the positions where they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layercut.engine.packing import Pack, Text
from layercut.engine.scores import Sheet

if TYPE_CHECKING:
    from layercut.engine.rows import Scoring, Tokens


class Reading:
    """Each request is one text: what its rows have in common is the stem, and what is left of each row a branch.

    The options of a multiple-choice item thus share one pass over their context, and a position that several
    continuations are read off is read once.
    """

    def __init__(self, block: Sequence[Scoring], num_prefix: int) -> None:
        self.block = block
        self.texts: list[Text] = []
        self.sheet = Sheet()
        """Where and what to score, the continuations of all rows of all requests in order."""
        read: dict[tuple[int, int], int] = {}
        for index, item in enumerate(block):
            rows = [row.tokens[num_prefix:] for row in item.rows]
            text = _text(rows)
            self.texts.append(text)
            for branch, (row, tokens) in enumerate(zip(item.rows, rows, strict=True)):
                offsets = range(len(tokens) - row.num_scored, len(tokens))
                places = [read.setdefault((index, text.place(branch, offset)), len(read)) for offset in offsets]
                for continuation in row.continuations:
                    self.sheet.add(places, continuation)
        self._read = list(read)

    def positions(self, pack: Pack) -> list[int]:
        """Packed index of each of the N positions that are read."""
        return [pack.starts[index] + place for index, place in self._read]


def _text(rows: Sequence[Tokens]) -> Text:
    first, shortest = rows[0], min(map(len, rows))
    same = next((i for i in range(shortest) if any(row[i] != first[i] for row in rows)), shortest)
    if len(rows) == 1:
        return Text(first, ((),))
    return Text(first[:same], tuple(row[same:] for row in rows))
