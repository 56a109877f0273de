"""The steps of the work as Python functions: choose layers, cut, diagnose, heal, with the defaults of the command line

    plan = layercut.select_layers("bundled:smollm2-135m", "block_influence", 3, out="runs/bi")
    cut = layercut.cut("bundled:smollm2-135m", plan, "smollm2-27-layers")
    layercut.diagnose("bundled:smollm2-135m", [cut], only=["brackets"], limit=16, out="runs/broken")
    healed = layercut.heal(cut, "bundled:smollm2-135m", "task:arithmetic", out="runs/healed", max_steps=50)

Each keeps what it does in its run folder; the same call again goes on where it was stopped. A model is a hub id, a
local folder, a ``.gguf`` file, ``bundled:smollm2-135m``, or a ModelSettings that says how it is loaded. Nothing is
printed; ``say`` is called with the lines that the command line prints on its way. To score a model:
``layercut.evaluate``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from layercut.seed import check_seed
from layercut.settings import ModelSettings, TaskSettings

if TYPE_CHECKING:
    from rich.console import Console

    from layercut.diagnostics.diagnose import Diagnosed
    from layercut.surgery.plan import CutPlan

Model = str | PathLike[str] | ModelSettings
Say = Callable[[str], None]


def _silent(text: str) -> None:
    """Say nothing."""


def select_layers(
    model: Model,
    criterion: str,
    num_remove: int,
    *,
    out: str | PathLike[str],
    tasks: Sequence[str | TaskSettings] = (),
    limit: int | None = None,
    protect: str | None = None,
    seed: int = 0,
    say: Say = _silent,
    **more: Any,
) -> CutPlan:
    """Choose the layers to remove; ``layercut select``.

    Args:
        model: the original model.
        criterion: how layers are ranked: ``block_influence``, ``task_accuracy``, ...; or your own ``module:function``.
        num_remove: how many go.
        out: run folder. The plan is also written there, as plan.json.
        tasks: whose selection items judge plans, for criteria that take an objective.
        limit: selection items of each task that is given by its name; 100 if left out.
        protect: layers that must stay, such as ``first:4,last:2``.
        seed: random seed.
        say: called with each line for people.
        more: what ``layercut.selection.select.select_layers`` takes: calibration, settings, race, num_held_out, ...

    Returns:
        The plan, its layers in order of removal, with scores per layer (higher means keep) under
        ``scores["importance"]``.
    Raises:
        InputError: a model, criterion, task or setting that cannot be used, or a run folder that holds another run.
    """
    from layercut.progress import silent
    from layercut.selection.select import select_layers as select

    check_seed(seed)
    wanted = [TaskSettings(task=task, limit=limit) if isinstance(task, str) else task for task in tasks]
    chosen = select(
        _settings(model),
        criterion=criterion,
        num_remove=num_remove,
        out=Path(out),
        tasks=wanted,
        protect=protect,
        seed=seed,
        progress=more.pop("progress", silent),
        say=say,
        **more,
    )
    return chosen.plan


def cut(
    model: Model,
    remove: str | CutPlan,
    out: str | PathLike[str],
    *,
    verify: bool = True,
    seed: int = 0,
    say: Say = _silent,
) -> Path:
    """Write a checkpoint without some of its layers, which plain transformers loads; ``layercut cut``.

    Args:
        model: the original model.
        remove: a plan, or one as the command line takes it: ``3,8,21-24``, ``reverse:3``, the path of a plan.json.
        out: the new folder; or the new GGUF file, if it ends in ``.gguf`` and the model is one.
        verify: reload it and compare its logits with those of the bypassed model before the folder takes its name.
        seed: of ``random:N``.
        say: called with each line for people.

    Returns:
        The folder or file.
    Raises:
        InputError: a model or plan that cannot be used, a folder that is not empty, or a file that exists.
        VerificationError: the reloaded model is another one.
    """
    from layercut.engine.handle import ModelHandle
    from layercut.selection.specs import plan_maker, plan_of
    from layercut.surgery.cut import cut_model
    from layercut.surgery.gguf import cut_gguf, gguf_to_gguf

    check_seed(seed)
    settings = _settings(model)
    if (file := gguf_to_gguf(settings.model, Path(out))) is not None:
        make_plan = plan_maker(remove, seed, settings.plan_from_another_model)
        cut_gguf(settings, make_plan, file, Path(out), verify=verify, say=say)
        return Path(out)
    handle = ModelHandle(settings)
    cut_model(
        handle.source,
        plan_of(handle, remove, seed),
        Path(out),
        uncut=(lambda: handle.loaded) if verify else None,
        say=say,
    )
    return Path(out)


def diagnose(
    model: Model,
    cuts: Sequence[str | PathLike[str]],
    *,
    out: str | PathLike[str],
    only: Sequence[str] = (),
    limit: int = 32,
    num_samples: int = 64,
    seed: int = 0,
    say: Say = _silent,
) -> Diagnosed:
    """What exactly broke in pruned models, item by item beside the original one; ``layercut diagnose``.

    Args:
        model: the original model.
        cuts: plans as the command line takes them, or folders of cut or healed checkpoints.
        out: run folder; diagnose.md and report.html are written there.
        only: names of diagnostics, such as ``brackets``; all if empty.
        limit: items of each kind of question.
        num_samples: answers drawn for each item where answers are drawn.
        seed: random seed.
        say: called with each line for people.

    Returns:
        ``report``, the path of diagnose.md, and ``data``, what diagnose.json holds.
    Raises:
        InputError: a model, cut or diagnostic that cannot be used, or a run folder that holds another run.
    """
    from layercut.diagnostics.diagnose import diagnose_model

    done = diagnose_model(
        _settings(model),
        [fspath(one) for one in cuts],
        only=only,
        limit=limit,
        num_samples=num_samples,
        out=Path(out),
        seed=seed,
        dry_run=False,
        console=_quiet(),
        say=say,
    )
    assert done is not None, "it was no dry run"
    return done


def heal(
    cut: Model,
    teacher: Model,
    prompts: str | PathLike[str],
    *,
    out: str | PathLike[str],
    limit: int | None = None,
    readout: str | None = None,
    max_new_tokens: int | None = None,
    responses: Literal["self", "original"] = "self",
    keep_adapter: bool = False,
    say: Say = _silent,
    **train: Any,
) -> Path:
    """Let the original model answer prompts and the pruned one learn from the answers; ``layercut heal``.

    Args:
        cut: the checkpoint that was cut.
        teacher: the original model.
        prompts: a file, ``hub:NAME``, ``task:NAME`` (its selection items), several with commas between, or a run folder
            of ``layercut generate``.
        out: run folder.
        limit: at most this many prompts of each source.
        readout: how a task's items are asked, ``chain`` or ``short``.
        max_new_tokens: longest answer.
        responses: learn from the teacher's answers or from those that came with the prompts.
        keep_adapter: write the LoRA adapter, for PEFT over ``cut``, and not a whole model.
        say: called with each line for people.
        train: fields of ``layercut.healing.settings.TrainSettings``: method, objective, rank, max_steps, seed, ...

    Returns:
        The folder of the healed checkpoint, or of the adapter.
    Raises:
        InputError: models, prompts or settings that cannot be used, or a run folder that holds another run.
        MissingExtra: TRL or PEFT is not installed, for methods other than ``seam``.
    """
    from layercut.healing.heal import heal_model
    from layercut.healing.heal_settings import HealSettings
    from layercut.healing.prompt_sources import Answering, prompt_source, prompt_specs
    from layercut.healing.settings import TrainSettings

    settings = HealSettings(train=TrainSettings(**train), responses=responses, keep_adapter=keep_adapter)
    how = Answering(max_new_tokens=max_new_tokens)
    specs = prompt_specs(fspath(prompts), readout=readout, limit=limit, shuffle_seed=settings.train.seed)
    healed = heal_model(
        _settings(cut),
        _settings(teacher),
        prompt_source(specs, system=how.system),
        settings,
        how,
        out=Path(out),
        console=_quiet(),
        say=say,
    )
    # In a team of processes only the first one writes; all know where.
    return Path(out, "checkpoint") if healed is None else healed.checkpoint


def _settings(model: Model) -> ModelSettings:
    return model if isinstance(model, ModelSettings) else ModelSettings(model=fspath(model))


def _quiet() -> Console:
    from rich.console import Console

    return Console(quiet=True)
