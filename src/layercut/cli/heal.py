"""``layercut heal``: let the original model teach the cut one."""

from __future__ import annotations

from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import log, say, show, show_estimate
from layercut.cli.options import Flags
from layercut.errors import InputError
from layercut.healing.filters import FilterSettings
from layercut.healing.prompt_sources import (
    Answering,
    PromptReading,
    answering,
    prompt_source,
    prompt_specs,
    under_preset,
)
from layercut.healing.settings import HealSettings, TrainSettings
from layercut.settings import DecodingSettings, ModelSettings

_TRAINING = Flags(
    "Training",
    shown="method objective max_steps learning_rate rank batch_size",
    without="seed",
    names={"batch_size": "train_batch"},
)
_FILTERS = Flags("Filters", shown="right_only", names={"finished_only": "--finished-only/--keep-unfinished"})


@options.command(hidden="data_dir")
def heal(
    model: Annotated[ModelSettings, Flags("Model", shown="device batch_size")],
    decoding: Annotated[DecodingSettings, Flags("Decoding")],
    answers: Annotated[Answering, Flags("Prompts", shown="max_new_tokens", without="decoding")],
    reading: Annotated[PromptReading, Flags("Prompts", shown="limit", without="shuffle_seed")],
    filters: Annotated[FilterSettings, _FILTERS],
    train: Annotated[TrainSettings, _TRAINING],
    what: Annotated[HealSettings, Flags("Training", shown="responses", without="train filters data")],
    prompts: Annotated[
        str,
        typer.Option(
            help=f"{options.PROMPTS}. Several with commas between. Or a run folder of generate.",
            metavar="SOURCE,SOURCE",
        ),
    ],
    out: Annotated[str, typer.Option(help="Run folder; the healed model is in DIR/checkpoint.", metavar="DIR")],
    teacher: Annotated[str, typer.Option(help="The original model, which answers and grades.", metavar="UNCUT")],
    preset: Annotated[str | None, typer.Option(help="paper: answers and training as in arXiv:2602.01997.")] = None,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    seed: options.Seed = 42,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Heal MODEL, a pruned checkpoint: the original model answers prompts, and MODEL is trained on the answers.

    The training data holds no report item of the built-in tasks. The same command again goes on where it was
    stopped; answers, checkpoints and the loss curve stay in the run folder. Training defaults are the paper's.

    Example: layercut heal smollm2-27-layers --teacher bundled:smollm2-135m --prompts task:arithmetic --out runs/healed
    """
    from pathlib import Path

    from layercut.study.checks import check_names, check_prompts

    files = options.local_data(data, data_dir)
    how = answering(preset, decoding, **answers.given())
    read = under_preset(preset, reading).replace(shuffle_seed=seed)
    specs = prompt_specs(prompts, data=files, **read.as_dict())
    check_prompts((spec.source, spec.readout) for spec in specs)
    check_names((*what.decontaminate, *train.guard))
    source = prompt_source(specs, system=how.system)
    settings = what.replace(train=under_preset(preset, train).replace(seed=seed), filters=filters, data=files)
    if settings.responses == "original" and source.records is not None:
        raise InputError(f"{prompts} holds a model's answers, not original ones; give the file of prompts.")

    from layercut.healing.heal import estimate_heal, heal_model
    from layercut.report.reports import write_reports

    shared = ("dtype", "device", "batch_size", "engine", "engine_pool")
    uncut = ModelSettings(model=teacher, **{name: getattr(model, name) for name in shared})
    if dry_run:
        show_estimate(estimate_heal(model, uncut, source, settings, how, out=Path(out)), json=json)
        return
    healed = heal_model(model, uncut, source, settings, how, out=Path(out), console=log, say=say)
    if healed is None:  # one of the other processes of a launcher
        return
    write_reports(Path(out))
    show({"checkpoint": str(healed.checkpoint), **healed.healing}, lines=healed.lines(), json=json)
