"""The verbs as Python functions, with the fields and defaults of the command line

    result = layercut.prune("bundled:smollm2-135m", use="math", keep=0.8, max_depth=2)
    plan = layercut.select_layers("bundled:smollm2-135m", "block_influence", "3 layers", out="runs/bi")
    cut = layercut.cut("bundled:smollm2-135m", plan, "smollm2-27-layers")
    layercut.diagnose("bundled:smollm2-135m", [cut], only=["brackets"], limit=16, out="runs/broken")
    healed = layercut.heal(cut, "bundled:smollm2-135m", "task:arithmetic", out="runs/healed", max_steps=50)

Each keeps what it does in its run folder; the same call again goes on where it was stopped. A model is a hub id, a
local folder, a ``.gguf`` file, ``bundled:smollm2-135m``, a ModelSettings that says how it is loaded, or a transformers
model in memory with its ``tokenizer``. An argument that does not exist is refused with the nearest right one. Progress
is shown on stderr, also in notebooks; ``progress=False`` silences it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from layercut.errors import InputError, unknown
from layercut.requests.base import Request, Slot, slots
from layercut.requests.cut import CutRequest
from layercut.requests.diagnose import DiagnoseRequest
from layercut.requests.draft import DraftRequest
from layercut.requests.evaluate import EvalRequest
from layercut.requests.generate import GenerateRequest
from layercut.requests.heal import HealRequest
from layercut.requests.io import Io
from layercut.requests.prune import PruneRequest
from layercut.requests.push import PushRequest
from layercut.requests.results import AdviseRequest, CompareRequest
from layercut.requests.select import SelectRequest
from layercut.requests.study import StudyRequest
from layercut.requests.sweep import SweepRequest
from layercut.settings import ModelSettings, TaskSettings

if TYPE_CHECKING:
    from pathlib import Path

    from layercut.diagnostics.diagnose import Diagnosed
    from layercut.drafting.job import DraftDone
    from layercut.engine.base import Decoding, Engine
    from layercut.engine.handle import ModelHandle
    from layercut.evidence.advice import Advice
    from layercut.evidence.comparison import ComparisonRow
    from layercut.healing.prompts import AnswerRecord
    from layercut.models.sources import ModelSource
    from layercut.pruning.pruned import Pruned
    from layercut.selection.sweep import Swept
    from layercut.study.run import StudyOutcome
    from layercut.surgery.plan import CutPlan
    from layercut.tasks.base import Split, Task
    from layercut.tasks.evaluate import Records, TaskResult
    from layercut.tasks.run import Evaluated

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_DOOR = {
    "tokenizer": "of a model in memory; or, by its name, of a served model.",
    "progress": "show progress on stderr, also in a notebook.",
    "say": "called with each line for people, in place of stderr.",
}
"""Arguments that are no fields of a request."""
_MODELS = ("model", "teacher")
"""Fields that may be a model in memory."""


def _asks(kind: type[Request], *first: str) -> Callable[[Callable[[Any, Io], Result]], Callable[..., Result]]:
    """Make a function of a request one of the request's fields, of which ``first`` may be given by position.

    Signature and help name every field, with its default and description.
    """

    def decorate(function: Callable[[Any, Io], Result]) -> Callable[..., Result]:
        name, known = function.__name__, slots(kind)
        takes = {**known, **_DOOR}

        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> Result:
            if len(args) > len(first):
                raise InputError(
                    f"{name} takes {len(first)} arguments by position, {', '.join(first)}; name the others."
                )
            given = dict(zip(first, args, strict=False)) | given
            _check(name, given, takes)
            tokenizer, progress, say = (given.pop(one, None) for one in _DOOR)
            if isinstance(tokenizer, str):  # a name, of a served model
                given["tokenizer"] = tokenizer
            io = _heard(progress is not False, say)
            loaded: dict[str, ModelHandle] = {}
            for one in _MODELS:
                if one in given and one in known:
                    given[one] = _named(given[one], tokenizer, io, loaded)
            request = kind.of(**given)
            request.fit()
            with request.tracked():
                return function(request, io._replace(loaded=loaded))

        listed = {one: slot.info.description or "" for one, slot in known.items()} | _DOOR
        summary, _, rest = (function.__doc__ or "").partition("\n\n")
        lines = "".join(f"        {one}: {' '.join(text.split())}\n" for one, text in listed.items())
        call.__doc__ = f"{summary}\n\n    Args:\n{lines}\n{rest}"
        parameters = [
            _parameter(one, known.get(one), one in first)
            for one in (*first, *(one for one in takes if one not in first))
        ]
        call.asks = kind  # type: ignore[attr-defined]
        call.__signature__ = inspect.signature(function).replace(parameters=parameters)  # type: ignore[attr-defined]
        return call

    return decorate


def _refusing(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Refuse an argument that does not exist with the nearest right one."""

    @functools.wraps(function)
    def call(*args: Arguments.args, **given: Arguments.kwargs) -> Result:
        _check(function.__name__, given, inspect.signature(function).parameters)
        return function(*args, **given)

    return call


def _check(function: str, given: Iterable[str], takes: Iterable[str]) -> None:
    for one in given:
        if one not in takes:
            raise unknown(f"argument of {function}", one, takes)


def _parameter(name: str, slot: Slot | None, by_position: bool) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if by_position else inspect.Parameter.KEYWORD_ONLY
    if slot is None:
        return inspect.Parameter(name, kind, default=True if name == "progress" else None)
    default = inspect.Parameter.empty if slot.info.is_required() else slot.info.default
    return inspect.Parameter(name, kind, default=default)


def _named(model: Any, tokenizer: Any, io: Io, loaded: dict[str, ModelHandle]) -> Any:
    """A model as requests take it; one in memory is kept in ``loaded`` by the folder that holds the same weights."""
    from layercut.models.loaded import is_loaded, settings_of, wrap_loaded

    if isinstance(model, str | PathLike | ModelSettings):
        return fspath(model) if isinstance(model, PathLike) else model
    if not is_loaded(model):
        raise InputError(
            f"{type(model).__name__} is no model; give a name, a folder, a ModelSettings or a transformers model."
        )
    from layercut.engine.handle import ModelHandle

    found = wrap_loaded(model, tokenizer, say=io.say)
    settings = settings_of(found)
    loaded[settings.model] = ModelHandle(settings, source=found.source, loaded=found)
    return settings


def _heard(progress: bool, say: Any) -> Io:
    """Progress and lines for people on stderr, in a notebook too, or nowhere."""
    from layercut.progress.console import SafeConsole

    console = SafeConsole(stderr=True, quiet=not progress, force_jupyter=False)
    return Io(console, say or (lambda text: console.print(text, soft_wrap=True)))


@_asks(PruneRequest, "model", "tokenizer")
def prune(request: PruneRequest, io: Io) -> Pruned:
    """Make a model smaller for a use, and write the checkpoint of the smallest plan that is shown to keep it.

    Returns:
        ``model`` (loaded on first use), ``plan``, ``kept`` by task, ``report``, ``checkpoint`` and ``result``, all that
        result.json holds.
    Raises:
        InputError: a model, task or setting that cannot be used, or a folder that holds another run.
    """
    from layercut.report.reports import prune_reports

    done = request.run(io)
    prune_reports(done.folder, seed=request.seed)
    return done


@_asks(DraftRequest, "model", "tokenizer")
def draft(request: DraftRequest, io: Io) -> DraftDone:
    """Find a plan that makes a model write faster as a draft of itself; ``layercut draft``.

    Returns:
        ``result``, all that draft.json holds, ``folder``, and ``times``.
    Raises:
        InputError: a model, task or plan that cannot be used, or a folder that holds another run.
    """
    from layercut.report.draft import draft_reports

    done = request.run(io)
    if done.result is not None:
        draft_reports(done.folder)
    return done


@_asks(SelectRequest, "model", "criterion", "remove")
def select_layers(request: SelectRequest, io: Io) -> CutPlan:
    """Choose the layers to remove; ``layercut select``.

    Returns:
        The plan, its layers in order of removal, with scores per layer (higher means keep) under
        ``scores["importance"]``.
    Raises:
        InputError: a model, criterion, task or setting that cannot be used, or a run folder that holds another run.
    """
    return request.run(io).plan


@_asks(CutRequest, "model", "remove", "out")
def cut(request: CutRequest, io: Io) -> Path:
    """Write a checkpoint without some of its layers, which plain transformers loads; ``layercut cut``.

    Returns:
        The folder; or the GGUF file, if ``out`` ends in ``.gguf`` and the model is one.
    Raises:
        InputError: a model or plan that cannot be used, a folder that is not empty, or a file that exists.
        VerificationError: the reloaded model is another one.
    """
    request.run(io)
    return cast("Path", request.out)


@_asks(EvalRequest, "model", "tasks")
def score(request: EvalRequest, io: Io) -> Evaluated:
    """Score a model on tasks in a run folder, whole or without some layers; ``layercut eval``.

    Returns:
        ``folder``, and ``metrics``, all that metrics.json holds.
    Raises:
        InputError: a model, task, readout or plan that cannot be used, or a run folder that holds another run.
    """
    return cast("Evaluated", request.run(io))


@_asks(GenerateRequest, "model", "prompts")
def generate(request: GenerateRequest, io: Io) -> list[AnswerRecord]:
    """Let a model answer prompts, whole or without some layers; ``layercut generate``.

    Returns:
        A record for each answer, in the order of the prompts.
    Raises:
        InputError: a model, source or plan that cannot be used, or a run folder that holds another run.
    """
    return request.run(io)


@_asks(SweepRequest, "model", "objective")
def sweep(request: SweepRequest, io: Io) -> Swept | Diagnosed:
    """Skip each layer alone and measure what every task keeps; ``layercut sweep``.

    Returns:
        ``sweep``, with a row for each layer and task, and ``folder``; with ``diagnose``, ``report`` and ``data``.
    Raises:
        InputError: a model, task or layer that cannot be used, or a run folder that holds another run.
    """
    from layercut.report.reports import write_reports

    done = request.run(io)
    assert done is not None, "it was no dry run"
    write_reports(done.folder)
    return done


@_asks(DiagnoseRequest, "model", "cuts")
def diagnose(request: DiagnoseRequest, io: Io) -> Diagnosed:
    """Find out what exactly broke in pruned models, item by item; ``layercut diagnose``.

    Returns:
        ``report``, the path of diagnose.md, and ``data``, what diagnose.json holds.
    Raises:
        InputError: a model, cut or diagnostic that cannot be used, or a run folder that holds another run.
    """
    from layercut.report.reports import write_reports

    done = request.run(io)
    assert done is not None, "it was no dry run"
    write_reports(done.folder)
    return done


@_asks(HealRequest, "model", "teacher", "prompts")
def heal(request: HealRequest, io: Io) -> Path:
    """Let the original model answer prompts and the pruned one learn from the answers; ``layercut heal``.

    Returns:
        The folder of the healed checkpoint, or of the adapter.
    Raises:
        InputError: models, prompts or settings that cannot be used, or a run folder that holds another run.
        MissingExtra: TRL or PEFT is not installed, for methods other than ``seam``.
    """
    from layercut.report.reports import write_reports

    if request.run(io) is not None:  # None in the other processes of a launcher
        write_reports(request.out)
    return request.checkpoint


@_asks(StudyRequest, "study")
def run_study(request: StudyRequest, io: Io) -> list[StudyOutcome]:
    """Run a study of models, plans, healing arms and tasks, or go on with it; ``layercut run``.

    Returns:
        An outcome for each model: ``rows`` of comparisons, ``paths`` of reports and checkpoints, and what ``failed``.
    Raises:
        InputError: anything in the study that cannot be used, or a run folder that holds another study.
    """
    from layercut.report.reports import study_reports

    if (other := request.other) is not None:
        own = [one for one in globals().values() if getattr(one, "asks", None) is type(other)]
        with request.trust():
            done = own[0].__wrapped__(other, io) if own else other.run(io)
        return cast("list[StudyOutcome]", done)
    return [done._replace(paths=study_reports(done.folder, done.study) | done.paths) for done in request.run(io)]


@_asks(AdviseRequest, "folder")
def advise(request: AdviseRequest, io: Io) -> Advice:
    """Say how deep the model of a finished study can be cut for a use, by which plan; ``layercut advise``.

    Returns:
        ``recommended``, the plan or None, and all that it rests on.
    Raises:
        InputError: an unknown use, or no finished study.
    """
    from layercut.report.advice_text import write_advice

    return write_advice(
        request.folder, use=request.use, keep=request.keep, confidence=request.confidence, seed=request.seed
    )[0]


@_asks(CompareRequest, "first", "second")
def compare(request: CompareRequest, io: Io) -> list[ComparisonRow]:
    """Compare two runs item by item; ``layercut compare``.

    Returns:
        A row for each task, readout and metric; ``uncut`` of a row is the first run, ``cut`` the second.
    Raises:
        InputError: runs that are not finished or cannot be compared.
    """
    from layercut.evidence.two_runs import compare_two, open_run

    return compare_two(open_run(request.first), open_run(request.second), seed=request.seed)


@_asks(PushRequest, "folder", "repo")
def push(request: PushRequest, io: Io) -> str:
    """Push a checkpoint with its evidence to the Hugging Face hub; ``layercut push``.

    Returns:
        Address of the repository.
    Raises:
        InputError: a folder without a checkpoint of layercut, or a refusal of the hub.
    """
    return request.run(io)


@_refusing
def evaluate(
    task: str | TaskSettings | Task,
    model: Any,
    plan: CutPlan | str | Sequence[int] | None = None,
    *,
    tokenizer: Any = None,
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
        model: the model, a LoadedModel, or an engine over it, which is kept between calls;
            a name is loaded each time.
        plan: layers to leave out; none if left out.
        tokenizer: of a model in memory.
        readout: how answers are read; the task's first one if left out.
        split: ``report`` items for results, ``full`` for the whole test set, ``selection`` items for choosing layers.
            If left out, the whole test set of a task of which the plan and the healing behind the model used no item,
            else the report items. An engine does not know how its model was made, so it gets the report items.
        limit: at most this many items.
        decoding: how tokens are drawn, greedy if left out.
        num_samples: answers to each item.
        journal: records that are there already, and where new ones go.
        on_progress: called with (items done, items in all), in place of progress on stderr.
        progress: show progress on stderr, also in a notebook.

    Returns:
        ``metrics``, a row each, and ``records``, one per item.
    Raises:
        InputError: a model, task, readout or plan that cannot be used.
    """
    from layercut.models.loading import LoadedModel
    from layercut.progress.bars import watched
    from layercut.selection.specs import LayerSpec, fits
    from layercut.surgery.checkpoint import earlier_plans, healings
    from layercut.surgery.plan import CutPlan
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
        loaded: dict[str, ModelHandle] = {}
        io = _heard(progress, None)
        named = _named(model, tokenizer, io, loaded)
        settings = named if isinstance(named, ModelSettings) else ModelSettings(model=named)
        fits(settings, [None if plan is None else LayerSpec.parse(plan)])
        handle = io._replace(loaded=loaded).handle(settings)
        engine, source = handle.engine, handle.source
    cut = CutPlan(num_layers=engine.num_layers)
    if plan is not None:
        cut = LayerSpec.parse(plan).bind(num_layers=engine.num_layers)
    if split is None:
        used = None if source is None else used_items([*earlier_plans(source.path), cut], healings(source))
        split = reported_split(task, used)
    console = _heard(progress and on_progress is None, None).console
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
