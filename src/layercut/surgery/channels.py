"""The MLP channels that stay, as many in every MLP, and the tokens that stay. In plan.json they are bits in hex."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from layercut.errors import InputError

BLOCK, LEAST_BLOCK = 256, 64
"""Widths are multiples of the first where the original's is: K-quants of GGUF hold as many weights in a block, and
without whole ones llama.cpp takes a larger type. Of the second otherwise, which matrix kernels want."""
EXPERT_BLOCK = 8
"""Widths of stacked experts are multiples of it: torch multiplies all experts at once, and refuses rows that are not a
multiple of 16 bytes, 8 numbers in bfloat16."""
CHANNEL_CRITERIA = ("rms", "wanda")
"""``rms``: root mean square of the activation times the norm of the column. ``wanda``: the same with the sum of the
column's magnitudes (arXiv:2306.11695, summed over the column)."""
_MOST = 1_000_000  # no MLP is as wide
_MOST_TOKENS = 10_000_000  # no vocabulary has as many


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The MLP channels that stay."""

    field: str  # key of the config that holds the width, such as ``intermediate_size``
    width: int  # channels of an MLP in the original model
    kept: Mapping[int, tuple[int, ...]]  # by layer of the original model, the channels that stay, ascending

    def __post_init__(self) -> None:
        sizes: set[int] = set()
        for layer, channels in self.kept.items():
            if len(set(channels)) != len(channels) or not channels or channels[0] < 0:
                raise InputError(f"layer {layer} has no such MLP channels; they are counted from 0, each once.")
            by_mlp = Counter(channel // self.width for channel in channels)
            sizes |= {*by_mlp.values(), *([0] if len(by_mlp) <= channels[-1] // self.width else [])}
        if len(sizes) != 1 or not 0 < min(sizes) < self.width:
            raise InputError(
                f"MLP channels that stay must be as many in every MLP, and 1 to {self.width - 1}; make the plan again."
            )

    @cached_property
    def mlps(self) -> dict[int, int]:
        """MLPs of each layer: 1, or experts."""
        return {layer: channels[-1] // self.width + 1 for layer, channels in self.kept.items()}

    @cached_property
    def num_kept(self) -> int:
        layer = next(iter(self.kept))
        return len(self.kept[layer]) // self.mlps[layer]

    @property
    def share(self) -> float:
        return 1 - self.num_kept / self.width

    def describe(self) -> str:
        """``2,496 of 8,960 MLP channels of each layer (27.9 %)``."""
        what = "layer" if max(self.mlps.values()) == 1 else "expert"
        gone = self.width - self.num_kept
        return f"{gone:,} of {self.width:,} MLP channels of each {what} ({100 * self.share:.1f} %)"

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        sizes = {layer: number * self.width for layer, number in self.mlps.items()}
        kept = {str(layer): hex_of_bits(channels, sizes[layer]) for layer, channels in sorted(self.kept.items())}
        return {"field": self.field, "width": self.width, "num_kept": self.num_kept, "kept": kept}

    @classmethod
    def from_dict(cls, data: Any, where: str = "plan") -> Channels:
        """The inverse of ``to_dict``. Raises InputError: something else."""
        try:
            width = data["width"]
            if not isinstance(width, int) or not 1 < width < _MOST or not isinstance(data["field"], str):
                raise ValueError(f"width {width!r:.40}")
            for text in data["kept"].values():
                if len(text) != math.ceil(4 * len(text) // width * width / 4):
                    raise ValueError(f"{len(text)} hex digits for {width} channels")
            kept = {int(layer): bits_of_hex(text) for layer, text in data["kept"].items()}
            return cls(field=data["field"], width=width, kept=kept)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{where}: channels is not what layercut writes ({error!r:.80}).") from error


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
        return 1 - len(self.kept) / self.size

    @cached_property
    def new_ids(self) -> dict[int, int]:
        return {old: new for new, old in enumerate(self.kept)}

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(json.dumps([self.size, self.kept]).encode()).hexdigest()[:12]

    def describe(self) -> str:
        """``114,026 of 151,936 tokens (75.0 %)``."""
        return f"{self.size - len(self.kept):,} of {self.size:,} tokens ({100 * self.share:.1f} %)"

    def to_dict(self) -> dict[str, Any]:
        kept = hex_of_bits(self.kept, self.size)
        return {"name": self.name, "size": self.size, "num_kept": len(self.kept), "kept": kept}

    @classmethod
    def from_dict(cls, data: Any, where: str = "plan") -> Vocabulary:
        """The inverse of ``to_dict``. Raises InputError: something else."""
        try:
            size, text = data["size"], data["kept"]
            if not isinstance(size, int) or not 1 < size < _MOST_TOKENS or len(text) != -(-size // 4):
                raise ValueError(f"size {size!r:.40}")
            return cls(name=str(data["name"]), size=size, kept=bits_of_hex(text))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where}: vocabulary is not what layercut writes ({error!r:.80}).") from error


def num_kept(width: int, share: float, *, least_block: int = 1) -> int:
    """Channels that stay if about ``share`` of ``width`` goes: a multiple of ``BLOCK``, of narrow MLPs of less.

    >>> num_kept(8960, 0.28), num_kept(1536, 0.2), num_kept(96, 0.5), num_kept(48, 0.2, least_block=EXPERT_BLOCK)
    (6400, 1216, 48, 40)

    Raises InputError: a share that leaves nothing, or that takes nothing.
    """
    block = BLOCK
    while block > least_block and (width < 16 * block or (width % block and block > LEAST_BLOCK)):
        block //= 2
    number = block * math.floor((1 - share) * width / block + 0.5)
    if not 0 < number < width:
        raise InputError(
            f"{share:.3g} of {width} MLP channels leaves {number} in steps of {block}; choose {block / width:.2g} to "
            f"{1 - block / width:.2g}."
        )
    return number


def hex_of_bits(places: Iterable[int], size: int) -> str:
    """A number in hex whose bits, the most significant first, are the places 0, 1, 2 ...; those that stay are 1."""
    bits = ["0"] * (4 * math.ceil(size / 4))
    for place in places:
        bits[place] = "1"
    return f"{int(''.join(bits), 2):0{len(bits) // 4}x}"


def bits_of_hex(text: str) -> tuple[int, ...]:
    """The inverse of ``hex_of_bits``. Raises ValueError: no number in hex."""
    bits = f"{int(text, 16):0{4 * len(text)}b}"
    return tuple(place for place, bit in enumerate(bits) if bit == "1")
