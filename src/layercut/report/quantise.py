"""Results of ``layercut quantise`` in words and tables: the types of a file, and its divergence."""

from __future__ import annotations

from collections.abc import Iterator

from layercut.report.elements import Column, Table
from layercut.runs.disk import size_text
from layercut.runs.prune import Estimated
from layercut.runs.quantise import QuantiseResult


def quantise_tables(result: QuantiseResult) -> list[Table]:
    """The tensors of each type, and the divergence of the files."""
    if result.file is None:
        return []
    types = [
        Column("type", lambda row: row.kind),
        Column("tensors", lambda row: str(row.tensors), numeric=True),
        Column("size", lambda row: size_text(row.num_bytes), numeric=True),
    ]
    files = [
        Column("file", lambda row: row.label),
        Column("size", lambda row: size_text(row.num_bytes), numeric=True),
        Column("forecast", lambda row: f"{row.forecast:.4f}", numeric=True),
        Column("divergence", lambda row: _nats(row.measured)),
        Column("same first choice", lambda row: "" if row.same is None else f"{row.same.value:.1%}", numeric=True),
        Column("99th percentile", lambda row: "" if row.worst is None else f"{row.worst:.2f}", numeric=True),
    ]
    measured = result.files[0].measured if result.files else None
    caption = f"Divergence from the model in nats a token, on {measured.n if measured else 0} held-out answers"
    return [
        Table(name="types", caption="Types of the tensors", columns=types, rows=list(result.types)),
        Table(name="files", caption=caption, columns=files, rows=list(result.files)),
    ]


def quantise_lines(result: QuantiseResult, untested: str | None) -> Iterator[str]:
    """The answer: the file, how it is served, and how it is tested on tasks that it was not tested on."""
    if result.imatrix is not None:
        yield f"Importance matrix: {result.imatrix} ({result.num_texts} answers, {result.num_tokens:,} tokens)"
    if result.file is None:
        return
    share = result.num_bytes / result.bytes_before
    of_what = f" of {size_text(result.bytes_before)}" + (f", {result.removed}" if result.removed else "")
    yield f"File: {result.file}, {size_text(result.num_bytes)} ({share:.0%}{of_what}), {result.bits:.2f} bits a weight"
    if result.embeddings:
        yield f"Embeddings: {result.embeddings}"
    yield f"Serve: llama-server -m {result.file}"
    if untested is not None:
        yield f"Not tested on your task yet: layercut eval {result.file} --engine llama.cpp --tasks {untested}"


def _nats(estimate: Estimated | None) -> str:
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"
