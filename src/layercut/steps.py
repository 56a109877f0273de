"""The steps of the work as Python functions, with the defaults of the command line

    result = layercut.prune("bundled:smollm2-135m", use="math", keep=0.8, max_depth=2)
    plan = layercut.select_layers("bundled:smollm2-135m", "block_influence", 3, out="runs/bi")
    cut = layercut.cut("bundled:smollm2-135m", plan, "smollm2-27-layers")
    layercut.diagnose("bundled:smollm2-135m", [cut], only=["brackets"], limit=16, out="runs/broken")
    healed = layercut.heal(cut, "bundled:smollm2-135m", "task:arithmetic", out="runs/healed", max_steps=50)

Each keeps what it does in its run folder; the same call again goes on where it was stopped. A model is a hub id, a
local folder, a ``.gguf`` file, ``bundled:smollm2-135m``, a ModelSettings that says how it is loaded, or a transformers
model in memory with its ``tokenizer``. A plan is a CutPlan, layers (``"24-26"``, ``[24, 25, 26]``) or the path of a
plan.json. An argument that does not exist is refused with the nearest right one. Progress is shown on stderr, also in
notebooks; ``progress=False`` silences it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Union, cast

from layercut.base_settings import share
from layercut.errors import InputError, unknown
from layercut.healing.settings import TrainSettings
from layercut.seed import check_seed
from layercut.selection.base import RACE_ERROR, SearchSettings
from layercut.settings import CalibrationSettings, DecodingSettings, Depth, ModelSettings, TaskSettings

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from layercut.diagnostics.diagnose import Diagnosed
    from layercut.engine.base import Decoding, Engine
    from layercut.engine.handle import ModelHandle
    from layercut.evidence.advice import Advice
    from layercut.evidence.comparison import ComparisonRow
    from layercut.models.loading import LoadedModel
    from layercut.models.sources import ModelSource
    from layercut.pruning.pruned import Pruned
    from layercut.selection.sweep import Swept
    from layercut.study.run import StudyOutcome
    from layercut.study.settings import StudySettings
    from layercut.surgery.plan import CutPlan
    from layercut.tasks.base import Split, Task
    from layercut.tasks.evaluate import Records, TaskResult

Model = Union[str, "PathLike[str]", ModelSettings, "PreTrainedModel"]
Plan = Union["CutPlan", str, Sequence[int]]
Tokenizer = Union["PreTrainedTokenizerBase", None]
Say = Callable[[str], None] | None
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


_SHARED = {
    "tokenizer": "of a model in memory.",
    "seed": "random seed for items, sampling, training and bootstrap.",
    "progress": "show progress on stderr, also in a notebook.",
    "say": "called with each line for people, in place of stderr.",
    **{name: one.description for kind in (SearchSettings, TrainSettings) for name, one in kind.model_fields.items()},
}
"""What an argument is that several steps take, or that is a field of settings."""


def _checked(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Refuse an argument that does not exist with the nearest right one, and name all in the signature and the help.

    ``**train`` is the fields of TrainSettings.
    """
    own = dict(inspect.signature(function).parameters)
    if own.pop("train", None) is not None:
        for name, field in TrainSettings.model_fields.items():
            kind = field.annotation if "Annotated" not in str(field.annotation) else inspect.Parameter.empty
            own[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=kind)
    doc = function.__doc__ or ""
    more = [f"        {name}: {_SHARED[name]}\n" for name in own if name in _SHARED and f" {name}: " not in doc]

    @functools.wraps(function)
    def checked(*args: Arguments.args, **given: Arguments.kwargs) -> Result:
        for name in given:
            if name not in own:
                raise unknown(f"argument of {function.__name__}", name, own)
        return function(*args, **given)

    checked.__doc__ = doc.replace("\n    Returns:", "".join(more) + "\n    Returns:", 1)
    checked.__signature__ = inspect.signature(function).replace(parameters=[*own.values()])  # type: ignore[attr-defined]
    return checked


@_checked
def prune(
    model: Model,
    tokenizer: Tokenizer = None,
    *,
    use: str | None = None,
    tasks: str | Sequence[str | PathLike[str]] = (),
    keep: float | str = 0.9,
    max_depth: str | float = "25%",
    num_remove: str | float | None = None,
    heal: str = "auto",
    time: str | None = None,
    items: int | None = None,
    out: str | PathLike[str] | None = None,
    seed: int = 0,
    anyway: bool = False,
    strict: bool = False,
    max_new_tokens: int | None = None,
    data: Mapping[str, str] | None = None,
    progress: bool = True,
    say: Say = None,
) -> Pruned:
    """Make a model shallower for a use, and write the checkpoint of the deepest plan that is shown to keep it;
    ``layercut prune``.

    Args:
        model: the original model.
        use: what the model is for: ``math``, ``code``, ``summarize``, ``classify``, ``chat``, ``copy`` or ``all``.
        tasks: in place of a use: names of tasks, or files of your own prompts and answers (``my.jsonl``).
        keep: share of the score above chance that every task must keep: 0.9 or ``"90%"``.
        max_depth: most layers that are removed, or their share: ``"25%"``.
        num_remove: exactly this many, or this share.
        heal: ``auto``, ``none``, or a method of ``heal``.
        time: about how long it may take: ``"2h"``. Items and depths follow from it.
        items: report items of each task, in place of a time.
        out: folder; ``runs/prune-<model>`` if left out.
        anyway: write the best plan's checkpoint even where none passed.
        strict: stop before the search where the report items are too few for the goal.
        max_new_tokens: longest answer, of tasks where it can be chosen.
        data: local files of tasks, by task.

    Returns:
        ``model`` (loaded on first use), ``plan``, ``kept`` by task, ``report``, ``checkpoint`` and ``result``, all that
        result.json holds.
    Raises:
        InputError: a model, task or setting that cannot be used, or a folder that holds another run.
    """
    from layercut.pruning.goal import check_prune, goal_tasks
    from layercut.pruning.job import prune_model
    from layercut.pruning.settings import PruneSettings
    from layercut.report.reports import prune_reports
    from layercut.tasks.run import slug

    named = tasks.split(",") if isinstance(tasks, str) else [fspath(one) for one in tasks]
    given: dict[str, Any] = {"use": use, "tasks": tuple(named)}
    given |= {"keep": keep, "heal": heal, "time": time, "items": items, "max_new_tokens": max_new_tokens}
    given |= {"max_depth": str(max_depth)} if num_remove is None else {"remove": str(num_remove)}
    settings = PruneSettings(**given)
    goal = goal_tasks(settings, data)
    console, say = _heard(progress, say)
    handle = _handle(model, tokenizer, say, lambda named: check_prune(named, settings, goal))
    name = getattr(model, "name_or_path", None) or handle.settings.model
    done = prune_model(
        handle,
        settings,
        goal=goal,
        out=Path(out) if out is not None else Path("runs", slug(f"prune-{name}")),
        seed=check_seed(seed),
        anyway=anyway,
        strict=strict,
        console=console,
        say=say,
    )
    prune_reports(done.folder, seed=seed)
    return done


@_checked
def select_layers(
    model: Model,
    criterion: str,
    num_remove: float | str = "25%",
    *,
    out: str | PathLike[str],
    tokenizer: Tokenizer = None,
    tasks: Sequence[str | TaskSettings] = (),
    limit: int | None = None,
    protect: str | None = None,
    keep: float | str | None = None,
    calibration: CalibrationSettings | None = None,
    settings: Mapping[str, Any] | None = None,
    normalise: str = "raw",
    race: str = "exact",
    race_error: float | str = RACE_ERROR,
    decoding: DecodingSettings | None = None,
    num_held_out: int | None = None,
    seed: int = 0,
    progress: bool = True,
    say: Say = None,
) -> CutPlan:
    """Choose the layers to remove; ``layercut select``.

    Args:
        model: the original model.
        criterion: how layers are ranked: ``block_influence``, ``task_accuracy``, ...; or your own ``module:function``.
        num_remove: how many are removed, or which share.
        out: run folder. The plan is also written there, as plan.json.
        tasks: whose selection items judge plans, for criteria that take an objective.
        limit: selection items of each task that is given by its name; 100 if left out.
        protect: layers that must stay, such as ``first:4,last:2``.
        keep: of a search by task scores, only as many layers as keep this share on its selection items.
        calibration: text that criteria are measured on.
        settings: of the criterion.
        decoding: how answers are drawn; greedy if left out.
        num_held_out: items of each task on which the plan is scored again; as many as ``limit`` if left out.

    Returns:
        The plan, its layers in order of removal, with scores per layer (higher means keep) under
        ``scores["importance"]``.
    Raises:
        InputError: a model, criterion, task or setting that cannot be used, or a run folder that holds another run.
    """
    from layercut.models.depth import depth_of
    from layercut.progress.bars import SelectionProgress
    from layercut.selection.select import select_layers as select
    from layercut.study.checks import check_selection, check_tasks

    search = SearchSettings(race=race, race_error=share(race_error, "race_error"), normalise=normalise)
    depth, wanted = Depth(text=str(num_remove)), _tasks(tasks, limit)
    check_seed(seed)
    console, say = _heard(progress, say)

    def check(named: ModelSettings) -> None:
        check_tasks(wanted)
        number = depth.layers(depth_of(named.model, named.revision) or 1)
        check_selection(named, criterion, number, protect=protect, has_tasks=bool(wanted))

    handle = _handle(model, tokenizer, say, check)
    with SelectionProgress(console) as bars:
        chosen = select(
            handle,
            criterion=criterion,
            num_remove=depth.layers(handle.num_layers),
            out=Path(out),
            tasks=wanted,
            calibration=calibration,
            protect=protect,
            settings=settings,
            **search.as_dict(),
            decoding=decoding,
            num_held_out=num_held_out,
            keep=None if keep is None else share(keep, "keep"),
            seed=seed,
            progress=bars,
            say=say,
        )
    return chosen.plan


@_checked
def cut(
    model: Model,
    remove: Plan,
    out: str | PathLike[str],
    *,
    tokenizer: Tokenizer = None,
    verify: bool = True,
    seed: int = 0,
    progress: bool = True,
    say: Say = None,
) -> Path:
    """Write a checkpoint without some of its layers, which plain transformers loads; ``layercut cut``.

    Args:
        model: the original model.
        remove: a plan, a list of layers, or a plan as the command line takes it: ``3,8,21-24``, ``reverse:3``,
            ``reverse:25%``, the path of a plan.json.
        out: the new folder; or the new GGUF file, if it ends in ``.gguf`` and the model is one.
        verify: reload it and compare its logits with those of the bypassed model before the folder takes its name.
        seed: of ``random:N``.

    Returns:
        The folder or file.
    Raises:
        InputError: a model or plan that cannot be used, a folder that is not empty, or a file that exists.
        VerificationError: the reloaded model is another one.
    """
    from layercut.selection.specs import plan_maker, plan_of
    from layercut.surgery.cut import cut_model
    from layercut.surgery.gguf import cut_gguf, gguf_to_gguf

    check_seed(seed)
    _, say = _heard(progress, say)
    if isinstance(model, str | PathLike) and (file := gguf_to_gguf(fspath(model), Path(out))) is not None:
        settings = _settings(model, None, say)
        make_plan = plan_maker(remove, seed, settings.plan_from_another_model)
        cut_gguf(settings, make_plan, file, Path(out), verify=verify, say=say)
        return Path(out)
    handle = _handle(model, tokenizer, say, _fits([remove], seed))
    cut_model(
        handle.source,
        plan_of(handle, remove, seed),
        Path(out),
        uncut=(lambda: handle.loaded) if verify else None,
        say=say,
    )
    return Path(out)


@_checked
def evaluate(
    task: str | TaskSettings | Task,
    model: Model | LoadedModel | Engine,
    plan: Plan | None = None,
    *,
    tokenizer: Tokenizer = None,
    readout: str | None = None,
    split: Split | None = None,
    limit: int | None = None,
    decoding: Decoding | None = None,
    num_samples: int = 1,
    journal: Records | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    progress: bool = True,
) -> TaskResult:
    """Ask a task's items of a model, whole or under a plan, and grade the answers. Nothing is written.

    Args:
        task: its name, a task with settings, or one of ``load_task``.
        model: the model, or an engine over it. An engine is kept between calls; a name is loaded each time.
        plan: layers to leave out; none if left out.
        readout: how answers are read; the task's first one if left out.
        split: ``report`` items for results, ``full`` for the whole test set, ``selection`` items for choosing layers.
            If left out, the whole test set of a task of which the plan and the healing behind the model used no item,
            else the report items. An engine does not know how its model was made, so it gets the report items.
        limit: at most this many items.
        decoding: how tokens are drawn, greedy if left out.
        num_samples: answers to each item.
        journal: records that are there already, and where new ones go.
        on_progress: called with (items done, items in all), in place of progress on stderr.

    Returns:
        ``metrics``, a row each, and ``records``, one per item.
    Raises:
        InputError: a model, task, readout or plan that cannot be used.
    """
    from layercut.models.loading import LoadedModel
    from layercut.progress.bars import watched
    from layercut.surgery.checkpoint import earlier_plans, healings
    from layercut.surgery.plan import as_plan
    from layercut.tasks import load_task
    from layercut.tasks.evaluate import evaluate as ask
    from layercut.tasks.reported import reported_split
    from layercut.tasks.selected_items import used_items

    if isinstance(task, str):
        task = TaskSettings(task=task)
    if isinstance(task, TaskSettings):
        readout, limit = readout or (task.readouts or (None,))[0], limit or task.limit
        task = load_task(task.task, data=task.data, max_new_tokens=task.max_new_tokens)
    source: ModelSource | None = None
    if isinstance(model, LoadedModel):
        from layercut.engine.shared import SharedEngine

        engine: Engine = SharedEngine(model)
        source = model.source
    elif hasattr(model, "completions"):
        engine = cast("Engine", model)
    else:
        handle = _handle(cast("Model", model), tokenizer, _heard(progress, None)[1], _fits([plan], 0))
        engine, source = handle.engine, handle.source
    cut = as_plan(plan, engine.num_layers)
    if split is None:
        used = None if source is None else used_items([*earlier_plans(source.path), cut], healings(source))
        split = reported_split(task, used)
    console, _ = _heard(progress and on_progress is None, None)
    with watched(f"Scoring {task.name}", len(task.samples(split, limit)), console, "items") as shown:
        return ask(
            task,
            engine,
            cut,
            readout=readout,
            split=split,
            limit=limit,
            decoding=decoding,
            num_samples=num_samples,
            journal=journal,
            on_progress=on_progress or shown,
        )


@_checked
def sweep(
    model: Model,
    tasks: Sequence[str | TaskSettings],
    *,
    out: str | PathLike[str],
    tokenizer: Tokenizer = None,
    limit: int = 100,
    layers: str | None = None,
    split: Split = "selection",
    parent: str | PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
    say: Say = None,
) -> Swept:
    """Skip each layer alone and measure what every task keeps; ``layercut sweep``.

    Args:
        model: the original model.
        tasks: what is asked.
        out: run folder; sweep.md and report.html are written there.
        limit: items of each task that is given by its name.
        layers: which are skipped, such as ``0-9,20``; all if left out.
        split: ``selection`` or ``report`` items.
        parent: the model that this one was made of; reports show layers with its numbers.

    Returns:
        ``sweep``, with a row for each layer and task, and ``folder``.
    Raises:
        InputError: a model, task or layer that cannot be used, or a run folder that holds another run.
    """
    from layercut.report.reports import write_reports
    from layercut.selection.sweep import sweep_model
    from layercut.study.checks import check_layers, check_tasks

    console, say = _heard(progress, say)
    objective = _tasks(tasks, limit)
    check_tasks(objective)
    done = sweep_model(
        _settings(model, tokenizer, say, lambda named: check_layers(named, layers)),
        objective=objective,
        layers=layers,
        split=split,
        parent=None if parent is None else fspath(parent),
        out=Path(out),
        seed=check_seed(seed),
        decoding=DecodingSettings(),
        dry_run=False,
        console=console,
        say=say,
    )
    assert done is not None, "it was no dry run"
    write_reports(done.folder)
    return done


@_checked
def diagnose(
    model: Model,
    cuts: Sequence[str | PathLike[str]],
    *,
    out: str | PathLike[str],
    tokenizer: Tokenizer = None,
    only: Sequence[str] = (),
    limit: int = 32,
    num_samples: int = 64,
    seed: int = 0,
    progress: bool = True,
    say: Say = None,
) -> Diagnosed:
    """What exactly broke in pruned models, item by item beside the original one; ``layercut diagnose``.

    Args:
        model: the original model.
        cuts: plans as the command line takes them, or folders of cut or healed checkpoints.
        out: run folder; diagnose.md and report.html are written there.
        only: names of diagnostics, such as ``brackets``; all if empty.
        limit: items of each kind of question.
        num_samples: answers drawn for each item where answers are drawn.

    Returns:
        ``report``, the path of diagnose.md, and ``data``, what diagnose.json holds.
    Raises:
        InputError: a model, cut or diagnostic that cannot be used, or a run folder that holds another run.
    """
    from layercut.diagnostics import is_plan, known
    from layercut.diagnostics.diagnose import diagnose_model
    from layercut.report.reports import write_reports

    known(only)
    check_seed(seed)
    console, say = _heard(progress, say)
    named = [fspath(one) for one in cuts]
    done = diagnose_model(
        _settings(model, tokenizer, say, _fits([one for one in named if is_plan(one)], seed)),
        named,
        only=only,
        limit=limit,
        num_samples=num_samples,
        out=Path(out),
        seed=seed,
        dry_run=False,
        console=console,
        say=say,
    )
    assert done is not None, "it was no dry run"
    write_reports(done.file.parent)
    return done


@_checked
def heal(
    cut: Model,
    teacher: Model,
    prompts: str | PathLike[str],
    *,
    out: str | PathLike[str],
    tokenizer: Tokenizer = None,
    limit: int | None = None,
    readout: str | None = None,
    max_new_tokens: int | None = None,
    responses: Literal["self", "original"] = "self",
    keep_adapter: bool = False,
    progress: bool = True,
    say: Say = None,
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
        train: fields of ``layercut.healing.settings.TrainSettings``: method, objective, rank, max_steps, seed, ...

    Returns:
        The folder of the healed checkpoint, or of the adapter.
    Raises:
        InputError: models, prompts or settings that cannot be used, or a run folder that holds another run.
        MissingExtra: TRL or PEFT is not installed, for methods other than ``seam``.
    """
    from layercut.healing.heal import heal_model
    from layercut.healing.prompt_sources import Answering, prompt_source, prompt_specs
    from layercut.healing.settings import HealSettings
    from layercut.report.reports import write_reports

    console, say = _heard(progress, say)
    settings = HealSettings(train=TrainSettings(**train), responses=responses, keep_adapter=keep_adapter)
    how = Answering(max_new_tokens=max_new_tokens)
    specs = prompt_specs(fspath(prompts), readout=readout, limit=limit, shuffle_seed=settings.train.seed)
    healed = heal_model(
        _settings(cut, tokenizer, say),
        _settings(teacher, tokenizer, say),
        prompt_source(specs, system=how.system),
        settings,
        how,
        out=Path(out),
        console=console,
        say=say,
    )
    if healed is None:  # one of the other processes of a launcher
        return Path(out, "checkpoint")
    write_reports(Path(out))
    return healed.checkpoint


@_checked
def run_study(
    study: StudySettings | Mapping[str, Any] | str | PathLike[str],
    *,
    out: str | PathLike[str] | None = None,
    seed: int | None = None,
    limit: int | None = None,
    progress: bool = True,
    say: Say = None,
) -> list[StudyOutcome]:
    """Run a study of models, plans, healing arms and tasks, or go on with it; ``layercut run``.

    Args:
        study: a YAML file, what such a file holds, or StudySettings.
        out: run folder in place of the study's own.
        seed: in place of the study's own.
        limit: lowers every task's number of items.

    Returns:
        An outcome for each model: ``rows`` of comparisons, ``paths`` of reports and checkpoints, and what ``failed``.
    Raises:
        InputError: anything in the study that cannot be used, or a run folder that holds another study.
    """
    from layercut.report.reports import study_reports
    from layercut.study.checks import check_study_layers
    from layercut.study.file import load_study, study_from_dict
    from layercut.study.run import run_study as run
    from layercut.study.settings import StudySettings

    if isinstance(study, StudySettings):
        settings = study
    elif isinstance(study, Mapping):
        settings = study_from_dict(dict(study))
    else:
        settings = load_study(Path(study))
    check_study_layers(settings)
    console, say = _heard(progress, say)
    where = None if out is None else Path(out)
    return [
        done._replace(paths=study_reports(done.folder, done.study) | done.paths)
        for done in run(settings, out=where, seed=seed, limit=limit, console=console, say=say)
    ]


@_checked
def advise(
    folder: str | PathLike[str],
    *,
    use: str = "all",
    keep: float | str = 0.9,
    confidence: float | str = 0.95,
    seed: int = 0,
) -> Advice:
    """Say how deep the model of a finished study can be cut for a use, by which plan; ``layercut advise``.

    Args:
        folder: of the study. advice.md is written there.
        use: what the model is for.
        keep: share of the score above chance that every task of the use must keep.
        confidence: probability that a recommended plan does keep it.

    Returns:
        ``recommended``, the plan or None, and all that it rests on.
    Raises:
        InputError: an unknown use, or no finished study.
    """
    from layercut.evidence.uses import named_use
    from layercut.report.advice_text import write_advice

    named_use(use)
    least, sure = share(keep, "keep"), share(confidence, "confidence")
    return write_advice(Path(folder), use=use, keep=least, confidence=sure, seed=seed)[0]


@_checked
def compare(first: str | PathLike[str], second: str | PathLike[str], *, seed: int = 0) -> list[ComparisonRow]:
    """Compare two runs item by item; ``layercut compare``.

    Args:
        first: run folder of a study's plan or of an evaluation.
        second: another one, of the same items.

    Returns:
        A row for each task, readout and metric; ``uncut`` of a row is the first run, ``cut`` the second.
    Raises:
        InputError: runs that are not finished or cannot be compared.
    """
    from layercut.evidence.two_runs import compare_two, open_run

    return compare_two(open_run(Path(first)), open_run(Path(second)), seed=check_seed(seed))


def _handle(
    model: Model, tokenizer: Tokenizer, say: Say, check: Callable[[ModelSettings], None] = lambda _: None
) -> ModelHandle:
    """A model as the steps take it; one in memory stays there. ``check`` comes before any file of weights is read."""
    from layercut.engine.handle import ModelHandle

    if not _is_in_memory(model, tokenizer):
        return ModelHandle(_settings(model, None, say, check))
    from layercut.models.loaded import settings_of, wrap_loaded

    assert say is not None
    loaded = wrap_loaded(cast("PreTrainedModel", model), tokenizer, say=say)
    check(settings_of(loaded))
    return ModelHandle(settings_of(loaded), source=loaded.source, loaded=loaded)


def _settings(
    model: Model, tokenizer: Tokenizer, say: Say, check: Callable[[ModelSettings], None] = lambda _: None
) -> ModelSettings:
    """How a model is loaded, for steps that load it themselves."""
    if not isinstance(model, ModelSettings) and _is_in_memory(model, tokenizer):
        return _handle(model, tokenizer, say, check).settings
    found = model if isinstance(model, ModelSettings) else ModelSettings(model=fspath(cast("str", model)))
    check(found)
    return found


def _fits(plans: Sequence[Plan | None], seed: int) -> Callable[[ModelSettings], None]:
    """A check that plans, as people write them, are of layers that a model has."""
    from layercut.study.checks import check_plans

    lists = [",".join(map(str, plan)) if isinstance(plan, list | tuple) else plan for plan in plans]
    return lambda named: check_plans(named, [plan for plan in lists if isinstance(plan, str)], seed)


def _tasks(tasks: Sequence[str | TaskSettings], limit: int | None) -> list[TaskSettings]:
    """Tasks with settings; ``limit`` is for those that are given by their names."""
    return [TaskSettings(task=task, limit=limit) if isinstance(task, str) else task for task in tasks]


def _is_in_memory(model: object, tokenizer: Tokenizer) -> bool:
    from layercut.models.loaded import is_loaded

    if is_loaded(model):
        return True
    if not isinstance(model, str | PathLike | ModelSettings):
        raise InputError(
            f"{type(model).__name__} is no model; give a name, a folder, a ModelSettings or a transformers model."
        )
    return False


def _heard(progress: bool, say: Say) -> tuple[Console, Callable[[str], None]]:
    """Where progress goes, and lines for people: to stderr, in a notebook too, or nowhere."""
    from layercut.progress.console import SafeConsole

    console = SafeConsole(stderr=True, quiet=not progress, force_jupyter=False)
    return console, say or (lambda text: console.print(text, soft_wrap=True))
