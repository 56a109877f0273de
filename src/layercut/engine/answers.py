"""Answer: a completion while it is generated, token by token."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from layercut.engine.base import Completion
from layercut.engine.rows import GenerationRow, Tokens
from layercut.engine.sampling import Next
from layercut.engine.stopping import Decode, ending, holds_stop, tail_length


class Answer:
    """One row's answer under one plan."""

    def __init__(self, row: GenerationRow, draft: Tokens, stop_tokens: Collection[int], decode: Decode) -> None:
        """No tokens yet.

        Args:
            draft: tokens that may come; the answer itself does not depend on them.
        """
        self.row = row
        self.draft = draft[: row.limit]
        self.tokens: list[int] = []
        self._stop_tokens = stop_tokens
        self._decode = decode
        self._tail = tail_length(row.request.stop)
        self._settled: str | None = None
        self._num_close = 0

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def num_left(self) -> int:
        """Tokens that may still come, at most."""
        return self.row.limit - len(self.tokens)

    @property
    def is_on_draft(self) -> bool:
        """True if all tokens so far are those of the draft, and the draft has more."""
        return len(self.tokens) < len(self.draft) and self._is_draft()

    def add(self, new: Next) -> bool:
        """Take the next token; whether the answer has ended by it."""
        token = new.token
        self.tokens.append(token)
        self._num_close += new.is_close
        request = self.row.request
        if token in self._stop_tokens or len(self.tokens) >= self.row.limit:
            return True
        if request.stop and holds_stop(self.tokens, request.stop, self._tail, self._decode):
            return True
        if request.settled is not None:
            text = self._decode(self.tokens)
            if request.settled(text):
                self._settled = text
        return self._settled is not None

    def take(self, predicted: Sequence[Next]) -> bool:
        """Take what the model says along the draft; whether the answer has ended.

        Args:
            predicted: at place j, the token that comes after the first j tokens of the draft.
        """
        while len(self.tokens) < len(predicted) and self._is_draft():
            if self.add(predicted[len(self.tokens)]):
                return True
        return False

    def completion(self) -> Completion:
        """The finished completion."""
        end = ending(
            self.tokens,
            limit=self.row.limit,
            stop_tokens=self._stop_tokens,
            stop=self.row.request.stop,
            decode=self._decode,
        )
        return Completion(
            id=self.id,
            text=self.row.given + (end.text if self._settled is None else self._settled),
            finish_reason=end.finish_reason if self._settled is None else "settled",
            num_prompt_tokens=len(self.row.prompt),
            num_new_tokens=end.num_new_tokens,
            num_close=self._num_close,
            tokens=tuple(self.tokens[: end.num_new_tokens]),
        )

    def _is_draft(self) -> bool:
        return tuple(self.tokens) == self.draft[: len(self.tokens)]
