"""``layercut heal``: let the uncut model teach the cut one."""

from __future__ import annotations

from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import as_json, log, result, say, show_estimate
from layercut.errors import InputError
from layercut.selection import criterion_row
from layercut.settings import DecodingSettings, ModelSettings


@options.model_command()
def heal(
    model: ModelSettings,
    decoding: DecodingSettings,
    prompts: Annotated[
        str,
        typer.Option(
            help=f"{options.PROMPTS}. Several with commas between. Or a run folder of generate.",
            metavar="SOURCE,SOURCE",
        ),
    ],
    out: Annotated[str, typer.Option(help="Run folder; the healed model is in DIR/checkpoint.", metavar="DIR")],
    teacher: Annotated[
        str | None,
        typer.Option(
            help="The uncut model, which answers and grades. With --loop it is MODEL itself.", metavar="UNCUT"
        ),
    ] = None,
    loop: Annotated[
        int | None,
        typer.Option(min=1, help="MODEL is uncut: cut one layer, heal, cut the next, N times.", metavar="N"),
    ] = None,
    criterion: Annotated[
        str, typer.Option(help="loop: how each layer is chosen, on the model that was healed before.")
    ] = "block_influence",
    calibration: Annotated[
        str, typer.Option(help="loop: text that the criterion is measured on, as in select.")
    ] = "generated",
    method: Annotated[str, typer.Option(help="lora, qlora, full, last-k; or seam, which trains nothing.")] = "lora",
    objective: Annotated[
        str,
        typer.Option(
            help="sft (the answers' tokens), forward-kl, reverse-kl, jsd, hidden (states and forward-kl), or on-policy."
        ),
    ] = "sft",
    responses: Annotated[
        str, typer.Option(help="self: the teacher's own answers; original: those that came with the prompts.")
    ] = "self",
    match_tokens: Annotated[
        bool, typer.Option("--match-tokens", help="As many answer tokens as the smaller of the two arms has.")
    ] = False,
    preset: Annotated[str | None, typer.Option(help="paper: answers and training as in arXiv:2602.01997.")] = None,
    system: Annotated[str | None, typer.Option(help="System message for conversations that have none.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, rich_help_panel="Decoding", help="Longest answer; the task's own, or 256.")
    ] = None,
    readout: Annotated[str | None, typer.Option(help="How a task's items are asked: chain or short.")] = None,
    samples: options.Samples = 1,
    max_prompt_tokens: options.MaxPromptTokens = None,
    shuffle_buffer: options.ShuffleBuffer = None,
    right_only: Annotated[
        bool,
        typer.Option(
            "--right-only",
            rich_help_panel="Filters",
            help="Learn only from answers that the grader finds right.",
        ),
    ] = False,
    keep_unfinished: Annotated[
        bool,
        typer.Option(
            "--keep-unfinished", rich_help_panel="Filters", help="Learn also from answers that ran into the limit."
        ),
    ] = False,
    max_tokens: Annotated[
        int, typer.Option(min=1, rich_help_panel="Filters", help="Most tokens of prompt and answer together.")
    ] = 8000,
    min_tokens: Annotated[int, typer.Option(min=0, rich_help_panel="Filters", help="Fewest tokens of an answer.")] = 0,
    languages: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Filters",
            help="Languages that prompts and answers may be in, as far as one can tell; all if left out.",
            metavar="en,de",
        ),
    ] = None,
    dedup_prompts: Annotated[
        float,
        typer.Option(
            rich_help_panel="Filters",
            help="Leave out prompts this similar to an earlier one (Jaccard of word 5-grams, such as 0.8); 1: equal.",
        ),
    ] = 1.0,
    dedup_answers: Annotated[
        float | None,
        typer.Option(rich_help_panel="Filters", help="The same of answers, which are not compared if left out."),
    ] = None,
    decontaminate: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Filters",
            help="Tasks beside the built-in ones, and those with --data, whose report items must not be learnt.",
            metavar="TASK,TASK",
        ),
    ] = None,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    seam: Annotated[
        str,
        typer.Option(
            help="seam: a linear or orthogonal map, a scale for each channel, or the magnitude of the whole stream."
        ),
    ] = "linear",
    rank: Annotated[int, typer.Option(min=1, rich_help_panel="Training", help="Of the adapters.")] = 64,
    alpha: Annotated[int, typer.Option(min=1, rich_help_panel="Training", help="Adapters count alpha / rank.")] = 16,
    last_k: Annotated[int, typer.Option(min=1, rich_help_panel="Training", help="Layers that last-k trains.")] = 3,
    learning_rate: Annotated[float, typer.Option(rich_help_panel="Training", help="After the warm-up.")] = 2e-4,
    schedule: Annotated[
        str, typer.Option(rich_help_panel="Training", help="Learning rate after the warm-up: constant, linear, cosine.")
    ] = "constant",
    precision: Annotated[
        str, typer.Option(rich_help_panel="Training", help="Products in float32 or bfloat16; auto: bfloat16 on a GPU.")
    ] = "auto",
    graded: Annotated[
        int,
        typer.Option(min=0, rich_help_panel="Training", help="Held-out task questions to answer at each look."),
    ] = 0,
    warmup_steps: Annotated[int, typer.Option(min=0, rich_help_panel="Training", help="Linear warm-up.")] = 50,
    train_batch: Annotated[int, typer.Option(min=1, rich_help_panel="Training", help="Examples a step.")] = 8,
    micro_batch: Annotated[int, typer.Option(min=1, rich_help_panel="Training", help="Examples at once.")] = 4,
    packing: Annotated[
        bool,
        typer.Option(
            "--packing",
            rich_help_panel="Training",
            help="Examples of a micro batch in one row, without padding; none sees another.",
        ),
    ] = False,
    epochs: Annotated[float, typer.Option(rich_help_panel="Training", help="Passes over the examples.")] = 1.0,
    max_steps: Annotated[int | None, typer.Option(min=1, rich_help_panel="Training", help="Stop after these.")] = None,
    max_length: Annotated[
        int, typer.Option(min=2, rich_help_panel="Training", help="Leave out longer examples, in tokens.")
    ] = 8192,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.99, rich_help_panel="Training", help="Share of examples to judge by.")
    ] = 0.1,
    save_every: Annotated[
        int, typer.Option(min=1, rich_help_panel="Training", help="Steps between checkpoints and looks at the loss.")
    ] = 100,
    patience: Annotated[
        int | None,
        typer.Option(min=0, rich_help_panel="Training", help="Looks without a better loss before it stops; 0: never."),
    ] = None,
    rollout_max: Annotated[
        int, typer.Option(min=1, rich_help_panel="Training", help="on-policy: longest own answer, in tokens.")
    ] = 512,
    drift_overlap: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel="Training",
            help="on-policy: share of likeliest tokens in common below which the rest of an answer counts less.",
        ),
    ] = 0.3,
    hidden_weight: Annotated[
        float,
        typer.Option(min=0, rich_help_panel="Training", help="hidden: weight of the states beside the forward KL."),
    ] = 1.0,
    store_top_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel="Training",
            help="forward-kl: keep the teacher's so many likeliest tokens on disk, and learn from those.",
            metavar="K",
        ),
    ] = None,
    keep_adapter: Annotated[
        bool, typer.Option("--keep-adapter", rich_help_panel="Training", help="Do not fold the adapter in.")
    ] = False,
    save_dtype: Annotated[
        str,
        typer.Option(
            rich_help_panel="Training",
            help="Healed weights: float32, bfloat16, float16; auto: as MODEL, or float32 where rounding costs over 2 % "
            "of what healing gained.",
        ),
    ] = "auto",
    report_to: Annotated[
        str | None, typer.Option(rich_help_panel="Training", help="tensorboard, wandb, ...", metavar="NAME,NAME")
    ] = None,
    seed: options.Seed = 42,
    limit: options.Limit = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Heal MODEL, a cut checkpoint: the uncut model answers prompts, and the cut one learns from the answers.

    What is learnt from holds no report item of the built-in tasks. The same command again goes on where it was
    stopped; answers, checkpoints and the loss curve stay in the run folder. Training defaults are the paper's.

    With --loop N, MODEL is the uncut model: each round cuts the layer that matters least by then, and heals.

    Example: layercut heal smollm2-27-layers --teacher bundled:smollm2-135m --prompts task:arithmetic --out runs/healed
    """
    from pathlib import Path

    from layercut.healing.filters import FilterSettings
    from layercut.healing.heal_settings import HealSettings
    from layercut.healing.prompt_sources import SHUFFLE_BUFFER, answering, prompt_source, prompt_specs
    from layercut.healing.settings import TrainSettings
    from layercut.settings import CalibrationSettings
    from layercut.study.checks import check_names, check_prompts

    if teacher is None and loop is None:
        raise InputError("no teacher is named; say --teacher UNCUT, or --loop N to cut and heal in turns.")
    named = [name for name in (decontaminate or "").split(",") if name]
    criterion_row(criterion)
    files = options.local_data(data, data_dir)
    how = answering(preset, decoding, max_new_tokens, system, samples=samples, max_prompt_tokens=max_prompt_tokens)
    specs = prompt_specs(
        prompts,
        readout=readout,
        data=files,
        limit=limit,
        shuffle_buffer=SHUFFLE_BUFFER[preset] if shuffle_buffer is None else shuffle_buffer,
        shuffle_seed=seed,
    )
    check_prompts((spec.source, spec.readout) for spec in specs)
    check_names(named)
    source = prompt_source(specs, system=how.system)
    if responses == "original" and source.records is not None:
        raise InputError(f"{prompts} holds a model's answers, not original ones; give the file of prompts.")
    settings = HealSettings(
        train=TrainSettings(
            method=method,
            objective=objective,
            rank=rank,
            alpha=alpha,
            last_k=last_k,
            learning_rate=learning_rate,
            schedule=schedule,
            precision=precision,
            graded=graded,
            warmup_steps=warmup_steps,
            batch_size=train_batch,
            micro_batch=micro_batch,
            packing=packing,
            epochs=epochs,
            max_steps=max_steps,
            max_length=max_length,
            held_out=held_out,
            save_every=save_every,
            patience=(0 if preset == "paper" else 3) if patience is None else patience,
            rollout_start=min(32, rollout_max),
            rollout_max=rollout_max,
            drift_overlap=drift_overlap,
            hidden_weight=hidden_weight,
            store_top_k=store_top_k,
            seam=seam,
            seed=seed,
            report_to=tuple(name for name in (report_to or "").split(",") if name),
        ),
        filters=FilterSettings(
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            finished_only=not keep_unfinished,
            right_only=right_only,
            languages=tuple(code for code in (languages or "").split(",") if code),
            dedup_prompts=dedup_prompts,
            dedup_answers=dedup_answers,
        ),
        responses=responses,
        match_tokens=match_tokens,
        decontaminate=tuple(named),
        data=files,
        keep_adapter=keep_adapter,
        save_dtype=save_dtype,
    )

    from layercut.engine.handle import ModelHandle
    from layercut.healing.estimate import estimate_healing
    from layercut.healing.heal import Healed, estimate_heal, heal_model
    from layercut.healing.loop import LoopSettings, heal_in_a_loop

    if loop is not None:
        if teacher not in (None, model.model):
            raise InputError(f"in a loop {model.model} is cut and teaches as well; leave out --teacher.")
        rounds = LoopSettings(num_remove=loop, criterion=criterion, calibration=CalibrationSettings(source=calibration))
        if dry_run:
            whole = ModelHandle(model)
            say("the time leaves out how layers are chosen between the rounds")
            show_estimate(estimate_healing(whole, whole, source, settings, how, out=Path(out), rounds=loop), json=json)
            return
        healed: Healed | None
        healed = heal_in_a_loop(model, source, settings, how, rounds, out=Path(out), console=log, say=say)
    else:
        assert teacher is not None
        uncut = ModelSettings(
            model=teacher,
            dtype=model.dtype,
            device=model.device,
            batch_size=model.batch_size,
            engine=model.engine,
            engine_pool=model.engine_pool,
        )
        if dry_run:
            show_estimate(estimate_heal(model, uncut, source, settings, how, out=Path(out)), json=json)
            return
        healed = heal_model(model, uncut, source, settings, how, out=Path(out), console=log, say=say)
    if healed is None:  # one of the other processes of a launcher
        return
    if json:
        as_json({"checkpoint": str(healed.checkpoint), **healed.healing})
        return
    for line in healed.lines():
        result(line)
