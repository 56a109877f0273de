"""Cut a checkpoint with verification: write it, reload it, compare it, and only then give it its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layercut.errors import CheckpointError, InputError
from layercut.models.sources import ModelSource, describe_source, resolve
from layercut.models.weights import read_config
from layercut.settings import ModelSettings
from layercut.surgery.card import model_card, weights_size
from layercut.surgery.checkpoint import MAX_SHARD_BYTES, CutReport, cut_checkpoint, plan_cut, with_earlier
from layercut.surgery.plan import CutPlan
from layercut.surgery.quantized import is_quantized

if TYPE_CHECKING:
    from layercut.models.loading import LoadedModel


def cut_model(
    source: ModelSource,
    plan: CutPlan,
    out: Path | None,
    *,
    uncut: Callable[[], LoadedModel] | None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    say: Callable[[str], None] = lambda text: None,
) -> CutReport:
    """Write the pruned checkpoint to ``out``; with ``out`` None, only say what would be written.

    The folder takes its name after the comparison, so a checkpoint that is there has passed it. ``uncut`` loads the
    original model to compare with; with None nothing is compared, and no model is loaded.

    Raises:
        InputError: the plan does not fit, ``out`` is not empty, or the model is an adapter.
        VerificationError: the reloaded model differs from the bypassed one; nothing is left under ``out``.
    """
    if plan.is_uncut:
        raise InputError("the plan removes nothing, so there is nothing to cut.")
    source.refuse_adapter("cutting")
    if out is None:
        return plan_cut(source.path, plan, max_shard_bytes=max_shard_bytes)
    verified = ""
    loaded: LoadedModel | None = None
    if uncut is not None and is_quantized(read_config(source.path)):
        try:  # before a byte is written: many formats need a library or an accelerator to run
            loaded = uncut()
        except CheckpointError as error:
            raise CheckpointError(
                f"{str(error).rstrip('.')}. Its layers can be cut without running it: `verify=false` writes the "
                "checkpoint and checks names, shapes, dtypes and the index, but no logits."
            ) from error

    def check(folder: Path, expected: CutReport) -> None:
        nonlocal verified
        verified = f"{expected.checked}; no logits were compared"
        if uncut is not None:
            from layercut.surgery.verify import verify_cut

            say("reloading the checkpoint and comparing it with the bypassed model ...")
            verified = verify_cut(loaded or uncut(), plan, folder).describe()
        card = model_card(replace(expected, verified=verified), source, weights_size(folder))
        (folder / "README.md").write_text(card, encoding="utf-8")

    report = cut_checkpoint(source.path, plan, out, max_shard_bytes=max_shard_bytes, check=check)
    return replace(report, verified=verified)


class CutSource(NamedTuple):
    """A model to be cut, and how."""

    source: ModelSource
    plan: CutPlan
    uncut: Callable[[], LoadedModel]  # loads the whole model


def cut_source(settings: ModelSettings, make_plan: Callable[..., CutPlan]) -> CutSource:
    """Find a model and make the plan of its cut, for its ``num_layers``, ``model`` and ``model_hash``.
    Raises InputError: no such model, or a plan that does not fit it.
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
