"""Vocabulary: the tokens of a model that stay, by the ids that they have in the original vocabulary."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from layercut.errors import InputError
from layercut.surgery.channels import bits_of_hex, hex_of_bits

_MOST = 10_000_000  # no vocabulary has as many tokens


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens that stay."""

    name: str  # as it was asked for: ``ascii``
    size: int  # rows of the embedding table of the original model
    kept: tuple[int, ...]  # old ids that stay, ascending

    def __post_init__(self) -> None:
        if not self.kept or len(self.kept) >= self.size or self.kept[0] < 0 or self.kept[-1] >= self.size:
            raise InputError(f"a vocabulary of {self.size:,} rows cannot keep {len(self.kept):,} of them.")

    @property
    def share(self) -> float:
        """Share of the rows that goes."""
        return 1 - len(self.kept) / self.size

    @cached_property
    def new_ids(self) -> dict[int, int]:
        """New ids by old ones."""
        return {old: new for new, old in enumerate(self.kept)}

    @cached_property
    def key(self) -> str:
        """Short stable name of the set."""
        return hashlib.sha256(json.dumps([self.size, self.kept]).encode()).hexdigest()[:12]

    def describe(self) -> str:
        """``114,026 of 151,936 tokens (75.0 %)``."""
        return f"{self.size - len(self.kept):,} of {self.size:,} tokens ({100 * self.share:.1f} %)"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the tokens that stay are one number in hex, as MLP channels are."""
        kept = hex_of_bits(self.kept, self.size)
        return {"name": self.name, "size": self.size, "num_kept": len(self.kept), "kept": kept}

    @classmethod
    def from_dict(cls, data: Any, where: str = "plan") -> Vocabulary:
        """The inverse of ``to_dict``. Raises InputError: something else."""
        try:
            size, text = data["size"], data["kept"]
            if not isinstance(size, int) or not 1 < size < _MOST or len(text) != -(-size // 4):
                raise ValueError(f"size {size!r:.40}")
            return cls(name=str(data["name"]), size=size, kept=bits_of_hex(text))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where}: vocabulary is not what layercut writes ({error!r:.80}).") from error
