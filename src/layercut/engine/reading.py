"""Reading: a block of requests to be scored, as texts of a pack, and the positions where they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layercut.engine.packing import Pack, Text
from layercut.engine.scores import Look, Sheet, likelihoods, unseen

if TYPE_CHECKING:
    from layercut.engine.base import Likelihoods
    from layercut.engine.head import HeadInput
    from layercut.engine.rows import Scoring, Tokens
    from layercut.models.loading import LoadedModel


class Reading:
    """Each request is one text: a tree of its rows, so that what they have in common is computed once.

    The options of a multiple-choice item thus share one pass over their context and over the words they begin with, and
    a position that several continuations are read off is read once.
    """

    def __init__(
        self, block: Sequence[Scoring | None], num_prefix: int, lines: Sequence[Sequence[Tokens]] | None = None
    ) -> None:
        """Lay the texts out.

        Args:
            block: what is scored; None where a text is there for the sake of its lines alone.
            num_prefix: tokens that all rows share and that are no part of a text.
            lines: per text, more lines, without the prefix. They come first: token j of the first of them is token j of
                the text.
        """
        self.block = [item for item in block if item is not None]
        self.texts: list[Text] = []
        self.sheet = Sheet()
        """Where and what to score, the continuations of all rows of all requests in order."""
        self._read: dict[tuple[int, int], int] = {}
        for index, item in enumerate(block):
            first = [] if lines is None else list(lines[index])
            rows = () if item is None else item.rows
            text, lanes = Text.tree([*first, *(row.tokens[num_prefix:] for row in rows)])
            self.texts.append(text)
            for row, lane in zip(rows, lanes[len(first) :], strict=True):
                places = [self._place(index, place) for place in lane[-row.num_scored :]]
                for continuation in row.continuations:
                    self.sheet.add(places, continuation)

    def _place(self, index: int, place: int) -> int:
        return self._read.setdefault((index, place), len(self._read))

    def positions(self, pack: Pack) -> list[int]:
        """Packed index of each of the N positions that are read."""
        return [pack.starts[index] + place for index, place in self._read]

    def read_at(self, index: int, place: int) -> int | None:
        """Which of the N positions a token of a text is, if it is read at all."""
        return self._read.get((index, place))

    def scores(self, loaded: LoadedModel, before: HeadInput, look: Look = unseen) -> list[Likelihoods]:
        """Each request's, from what the head is given at the positions; ``look`` as in ``Sheet.scores``.

        Raises:
            InputError: scores that are not numbers.
        """
        scores = self.sheet.scores(loaded, before, look)
        return [
            likelihoods(loaded, item, [next(scores) for row in item.rows for _ in row.continuations])
            for item in self.block
        ]
