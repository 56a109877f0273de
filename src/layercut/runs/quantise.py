"""The format of quantise.json: the types of a file's tensors, and how far its answers are from the original's."""

from __future__ import annotations

from pydantic import Field

from layercut.runs.prune import Estimated, ResultFile, ResultPart

QUANTISED = "quantise.json"


class TypeRow(ResultPart):
    """The tensors of one ggml type."""

    kind: str
    tensors: int
    num_bytes: int


class MeasuredFile(ResultPart):
    """A file, and its divergence from the model that it was made of, on answers that gave no statistics."""

    label: str
    num_bytes: int
    forecast: float  # nats a token, the sum of the damages of its tensors
    measured: Estimated | None = None  # nats a token; n counts answers
    same: Estimated | None = None  # share of the tokens at which its likeliest token is the model's
    worst: float | None = None  # the 99th percentile over tokens, in nats


class QuantiseResult(ResultFile, frozen=True):
    """All of it."""

    FILE, VERB = QUANTISED, "quantise"
    model: str
    removed: str = ""  # what was removed before, in words; empty where nothing was
    file: str | None = None  # the file that was written; relative paths are from the run folder
    num_bytes: int = 0
    bytes_before: int
    bits: float = 0.0  # mean bits of a weight
    types: tuple[TypeRow, ...] = ()
    embeddings: str = ""  # type of the table of embeddings
    by_tensor: dict[str, str] = Field(default_factory=dict)
    files: tuple[MeasuredFile, ...] = ()  # the file first, then the plain type of the nearest size
    num_texts: int  # answers that gave statistics
    num_tokens: int
    imatrix: str | None = None  # the importance matrix that was written
    notes: tuple[str, ...] = ()
    where: str
    seed: int
    command: str
    seconds: dict[str, float] = Field(default_factory=dict)
