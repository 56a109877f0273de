"""``layercut cut``: write a checkpoint without some of its decoder layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from layercut.cli import options
from layercut.cli.console import log, say, show, warn
from layercut.errors import InputError
from layercut.runs.atomic import refuse_used
from layercut.settings import Depth, ModelSettings
from layercut.surgery.plan import CutPlan

MAX_SHARD_GB = 5.0


@options.command()
def cut(
    model: Annotated[ModelSettings, options.LOADED_MODEL],
    remove: options.Remove = None,
    keep: options.Keep = None,
    out: options.Out = None,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Reload the result and compare logits with the bypassed model.")
    ] = True,
    max_shard_gb: Annotated[float, typer.Option(min=0.001, help="Largest weight file, in GB.")] = MAX_SHARD_GB,
    json: options.Json = False,
) -> None:
    """Write MODEL without some of its decoder layers, as a plain Hugging Face checkpoint or a GGUF file.

    Layers are zero-based and those of the original model; ranges are inclusive, so 21-24 is four layers. Weights are
    streamed, never held in memory. The result is reloaded and its logits are compared with the bypassed model;
    dtype and device are those of this comparison, the weights keep their own.

    With --no-verify nothing is loaded, and of a hub model only those weight files are downloaded that hold something
    that stays; a --dry-run of a hub model downloads no weights at all.

    --remove 25% removes a quarter of the layers, chosen by block influence; --remove plan.json --keep 0.9 removes as
    many layers of a search by task scores as keep 90 % there.

    A GGUF file becomes a GGUF file if --out ends in .gguf: quantised tensors keep their bytes. If --out is a folder, it
    becomes a bfloat16 checkpoint.

    Example: layercut cut bundled:smollm2-135m --remove 3,8,21-24 --out smollm2-24-layers
    """
    from layercut.study.checks import check_plans

    if not remove:
        raise InputError("no layers are named; say --remove 3,8,21-24 (zero-based, inclusive), or --remove 25%.")
    share = Depth(text=remove) if re.fullmatch(r"\s*([\d.]+\s*%|0?\.\d+)\s*", remove) else None
    if keep is not None and not remove.strip().endswith(".json"):
        raise InputError("--keep shortens the plan of a search; give that plan: --remove DIR/plan.json --keep 0.9.")
    check_plans(model, [] if share else [remove], seed)

    from layercut.selection.specs import plan_from_spec, prefix_that_keeps
    from layercut.surgery.cut import cut_model
    from layercut.surgery.cut_source import cut_source
    from layercut.surgery.gguf import cut_gguf, gguf_to_gguf

    whole = verify and not dry_run

    def make_plan(**made_for: Any) -> CutPlan:
        if share is not None:
            return _by_influence(model, share, seed, made_for)
        plan = plan_from_spec(remove, **made_for, seed=seed, from_another_model=model.plan_from_another_model)
        return plan if keep is None else prefix_that_keeps(plan, keep)

    if out is not None and (file := gguf_to_gguf(model.model, out)) is not None:
        if max_shard_gb != MAX_SHARD_GB:
            warn("--max-shard-gb has no effect: a GGUF file is one file.")
        done = cut_gguf(model, make_plan, file, out, verify=verify, dry_run=dry_run, say=say)
    else:
        with cut_source(model, make_plan, whole=whole, dry_run=dry_run, say=say) as found:
            say(f"{model.model}: {found.plan.describe()}")
            if dry_run and out is not None:
                refuse_used(out)
            if not dry_run and out is None:
                raise InputError("no folder to write to; say --out DIR, or --dry-run to see what would be written.")
            done = cut_model(
                found.source,
                found.plan,
                None if dry_run else out,
                uncut=found.uncut if whole else None,
                max_shard_bytes=round(max_shard_gb * 1e9),
                say=say,
            )
    for text in done.warnings:
        warn(text)
    show(done.to_dict(), lines=done.lines(), json=json)


def _by_influence(model: ModelSettings, share: Depth, seed: int, made_for: Mapping[str, Any]) -> CutPlan:
    """A plan of that many layers, chosen by block influence on text that the model itself writes."""
    from layercut.progress.bars import SelectionProgress
    from layercut.selection.select import select_layers

    number = share.layers(made_for["num_layers"])
    say(f"{share.text} is {number} of {made_for['num_layers']} layers; choosing them by block influence ...")
    with TemporaryDirectory() as scratch, SelectionProgress(log) as progress:
        found = select_layers(
            model, criterion="block_influence", num_remove=number, out=Path(scratch) / "run", seed=seed,
            progress=progress, say=say,
        )  # fmt: skip
    return found.plan
