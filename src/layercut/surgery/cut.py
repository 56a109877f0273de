"""Cut a checkpoint with verification: write it, reload it, compare it, and only then give it its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut import __version__
from layercut.errors import CheckpointError, InputError
from layercut.models.sources import ModelSource, describe_source, resolve
from layercut.models.weights import read_config
from layercut.runs.disk import size_change
from layercut.settings import ModelSettings
from layercut.surgery.card import model_card, weights_size
from layercut.surgery.checkpoint import MAX_SHARD_BYTES, CutReport, cut_checkpoint, plan_cut, with_earlier
from layercut.surgery.plan import CutPlan
from layercut.surgery.quantized import is_quantized
from layercut.text.numbers import parameters

if TYPE_CHECKING:
    from layercut.models.loading import LoadedModel


class CutDone(NamedTuple):
    """Report of a cut with its verification."""

    report: CutReport
    verified: str  # result of the comparison with the bypassed model, in words; empty where none was made
    gguf: tuple[int, int] | None = None
    """Of a model that is a GGUF file: its bytes, and those without what the plan removes."""
    mergekit: Path | None = None  # the configuration that was written in place of a checkpoint

    @property
    def warnings(self) -> tuple[str, ...]:
        """Remarks for users of the pruned model."""
        return self.report.warnings

    def lines(self) -> list[str]:
        """The result for people."""
        report = self.report
        share = 100 * (1 - report.bytes_after / report.bytes_before)
        lines = [
            f"parameters: {parameters(report.parameters_before)} -> {parameters(report.parameters_after)}",
            f"weights: {_size(report.bytes_before)} -> {_size(report.bytes_after)} ({share:.1f} % less), "
            f"{report.tensors_before} -> {report.tensors_after} tensors in {len(report.shards)} file(s)",
        ]
        if self.gguf is not None:
            lines.append(f"from GGUF to GGUF: {size_change(*self.gguf)}")
        lines += [report.copy] if report.copy else []
        if self.verified:
            lines.append(f"verified: {self.verified}")
        if self.mergekit is not None:
            return [*lines, f"no checkpoint was written; mergekit-yaml {self.mergekit} DIR writes it"]
        return [*lines, f"checkpoint: {report.out}" if report.out else "dry run: nothing was written"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        report = self.report
        return {
            "out": str(report.out) if report.out else None,
            "plan": report.plan.to_dict(),
            "parameters": [report.parameters_before, report.parameters_after],
            "bytes": [report.bytes_before, report.bytes_after],
            "tensors": [report.tensors_before, report.tensors_after],
            "shards": list(report.shards),
            "copied": list(report.copied),
            "warnings": list(report.warnings),
            "copy": report.copy,
            "verified": self.verified,
            **({} if self.gguf is None else {"gguf_bytes": list(self.gguf)}),
        }


def cut_model(
    source: ModelSource,
    plan: CutPlan,
    out: Path | None,
    *,
    uncut: Callable[[], LoadedModel] | None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    say: Callable[[str], None] = lambda text: None,
) -> CutDone:
    """Write the pruned checkpoint to ``out``; with ``out`` None, only say what would be written.

    The folder takes its name after the comparison, so a checkpoint that is there has passed it.

    Args:
        source: the original model.
        plan: what goes.
        out: the new folder.
        uncut: loads the original model to compare with; with None nothing is compared, and no model is loaded.
        max_shard_bytes: largest weight file.
        say: called with a line before slow work.

    Raises:
        InputError: the plan does not fit, ``out`` is not empty, or the model is an adapter.
        VerificationError: the reloaded model differs from the bypassed one; nothing is left under ``out``.
    """
    if plan.is_uncut:
        raise InputError("the plan removes nothing, so there is nothing to cut.")
    source.refuse_adapter("cutting")
    if out is None:
        return CutDone(plan_cut(source.path, plan, max_shard_bytes=max_shard_bytes), "")
    verified = ""
    loaded = _load_quantized(source, uncut) if uncut is not None and is_quantized(read_config(source.path)) else None

    def check(folder: Path, expected: CutReport) -> None:
        nonlocal verified
        verified = f"{expected.checked}; no logits were compared"
        if uncut is not None:
            from layercut.surgery.verify import verify_cut

            say("reloading the checkpoint and comparing it with the bypassed model ...")
            verified = verify_cut(loaded or uncut(), plan, folder).describe()
        card = model_card(
            plan,
            source_name=source.name,
            revision=source.revision,
            base_model=source.origin.get("base_model"),
            license_name=source.origin.get("license"),
            num_parameters_before=expected.parameters_before,
            num_parameters_after=expected.parameters_after,
            size=weights_size(folder),
            warnings=(*expected.warnings, *([expected.copy] if expected.copy and not plan.tied else [])),
            verified=verified or None,
            layercut_version=__version__,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")

    return CutDone(cut_checkpoint(source.path, plan, out, max_shard_bytes=max_shard_bytes, check=check), verified)


def _load_quantized(source: ModelSource, uncut: Callable[[], LoadedModel]) -> LoadedModel:
    """The original model, before a byte is written, as many formats need a library or an accelerator to run.

    Raises:
        CheckpointError: it cannot be loaded here; says how to cut it all the same.
    """
    try:
        return uncut()
    except CheckpointError as error:
        raise CheckpointError(
            f"{str(error).rstrip('.')}. Its layers can be cut without running it: `verify=false` writes the checkpoint "
            "and checks names, shapes, dtypes and the index, but no logits."
        ) from error


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


class CutSource(NamedTuple):
    """A model to be cut, and how."""

    source: ModelSource
    plan: CutPlan
    uncut: Callable[[], LoadedModel]  # loads the whole model


def cut_source(settings: ModelSettings, make_plan: Callable[..., CutPlan]) -> CutSource:
    """Find a model and make the plan of its cut.

    Args:
        settings: the model.
        make_plan: gives the plan for ``num_layers``, ``model`` and ``model_hash``.

    Raises:
        InputError: no such model, or a plan that does not fit it.
    """
    from layercut.models.loading import load_as_set

    source = resolve(
        settings.model,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        tie=settings.tie,
    )
    found = describe_source(source)
    plan = make_plan(num_layers=found.num_layers, model=settings.model, model_hash=found.model_hash)
    return CutSource(source, with_earlier(plan, source), lambda: load_as_set(settings, source))
