"""The verbs as Python functions, with the fields and defaults of the command line

    result = layercut.prune("bundled:smollm2-135m", use="math", keep=0.8, smaller=0.2)
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

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from layercut.engine.base import Decoding, Engine
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError, unknown_name
from layercut.models.sources import ModelSource
from layercut.progress.activity import SafeConsole
from layercut.selection.specs import LayerSpec, check_fits
from layercut.settings import ModelSettings, TaskSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Split, Task
from layercut.tasks.evaluate import TaskResult, evaluate_items
from layercut.text import printed_result
from layercut.verbs import verb_class
from layercut.verbs.base import Io, Slot, Verb, field_slots

if TYPE_CHECKING:
    from rich.console import Console

_DOOR = {
    "tokenizer": "of a model in memory.",
    "progress": "show progress on stderr, also in a notebook.",
    "say": "called with each line for people, in place of stderr.",
}
"""Arguments that are no fields of a verb."""
_MODELS = ("model", "teacher")  # fields that may be a model in memory


def function_of(kind: type[Verb]) -> Callable[..., Any]:
    """The Python function of a verb. Signature and help name every field, with its default and description."""
    name, known, first = kind.FUNCTION or kind.VERB, field_slots(kind), kind.POSITIONAL
    door = {name: text for name, text in _DOOR.items() if name != "tokenizer" or "model" in known}
    takes = {**known, **door}

    def call(*args: Any, **given: Any) -> Any:
        if len(args) > len(first):
            raise InputError(f"{name} takes {len(first)} arguments by position, {', '.join(first)}; name the others.")
        given = dict(zip(first, args, strict=False)) | given
        if unknown := given.keys() - takes:
            raise unknown_name(f"argument of {name}", min(unknown), takes)
        tokenizer, progress, say = (given.pop(name, None) for name in _DOOR)
        io = _heard(progress is not False, say)
        loaded: dict[str, ModelHandle] = {}
        for field in _MODELS:
            if field in given and field in known:
                given[field] = _named(given[field], tokenizer, io, loaded)
        verb = kind.of(**given)
        verb.fit()
        with verb.tracked():
            done = verb.run(io._replace(loaded=loaded))
        return printed_result(verb.returned(done), _Drawing(verb, done, io))

    listed = {name: slot.info.description or "" for name, slot in known.items()} | door
    lines = "".join(f"        {name}: {' '.join(text.split())}\n" for name, text in listed.items())
    summary = (inspect.getdoc(kind) or "").partition("\n\n")[0]
    call.__doc__ = (
        f"{summary}\n\n    ``layercut {kind.VERB}``.\n\n    Args:\n{lines}\n    Returns:\n        {kind.RETURNS}\n"
        "    Raises:\n        InputError: a value that cannot be used, or a run folder that holds another run.\n    "
    )
    call.__name__ = call.__qualname__ = name
    call.__module__ = __name__
    order = (*first, *(name for name in takes if name not in first))
    parameters = [_parameter(name, known.get(name), name in first) for name in order]
    gives = kind.run if kind.returned is Verb.returned else kind.returned
    result = gives.__annotations__["return"]
    call.__signature__ = inspect.Signature(parameters, return_annotation=result)  # type: ignore[attr-defined]
    return call


@dataclass(frozen=True, eq=False)
class _Drawing:
    """The tables and lines of a result, as the command line shows them."""

    verb: Verb
    done: Any
    io: Io

    def __call__(self, width: int | None) -> Console:
        shown, console = self.verb.show(self.done, self.io), SafeConsole(record=True, file=StringIO(), width=width)
        for block in shown.blocks:
            console.print(block)
        for line in (*shown.lines, *(f"note: {note}" for note in shown.notes)):
            console.print(line, soft_wrap=True)
        return console

    def __reduce__(self) -> Any:
        return type(None), ()  # results that are pickled print as plain data


def _parameter(name: str, slot: Slot | None, by_position: bool) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if by_position else inspect.Parameter.KEYWORD_ONLY
    if slot is None:
        return inspect.Parameter(name, kind, default=True if name == "progress" else None)
    default = slot.info.default
    default = str(default) if isinstance(default, LayerSpec) else default  # as people write it
    return inspect.Parameter(name, kind, default=inspect.Parameter.empty if slot.info.is_required() else default)


def _named(model: Any, tokenizer: Any, io: Io, loaded: dict[str, ModelHandle]) -> Any:
    """A model as requests take it; one in memory is kept in ``loaded`` by the folder that holds the same weights."""
    from layercut.models.loading import LoadedModel, wrap_loaded

    if isinstance(model, str | PathLike | ModelSettings):
        return fspath(model) if isinstance(model, PathLike) else model
    from transformers import PreTrainedModel

    if isinstance(model, LoadedModel):
        wrapped = model
    elif isinstance(model, PreTrainedModel):
        wrapped = wrap_loaded(model, tokenizer, say=io.say)
    else:
        raise InputError(
            f"{type(model).__name__} is no model; give a name, a folder, a ModelSettings or a transformers model."
        )
    settings = ModelSettings(model=str(wrapped.source.path), dtype=wrapped.dtype, device=str(wrapped.model.device))
    loaded[settings.model] = ModelHandle(settings, source=wrapped.source, loaded=wrapped)
    return settings


def _heard(progress: bool, say: Any) -> Io:
    """Progress and lines for people on stderr, in a notebook too, or nowhere."""
    console = SafeConsole(stderr=True, quiet=not progress, force_jupyter=False)
    return Io(console, say or (lambda text: console.print(text, soft_wrap=True)))


prune, draft, quantise, select_layers, cut = (
    function_of(verb_class(name)) for name in ("prune", "draft", "quantise", "select", "cut")
)
evaluate, generate = (function_of(verb_class(name)) for name in ("eval", "generate"))
sweep, diagnose, heal, run_study = (function_of(verb_class(name)) for name in ("sweep", "diagnose", "heal", "run"))
compare, push = (function_of(verb_class(name)) for name in ("compare", "push"))


def evaluate_task(
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
        progress: show progress on stderr, also in a notebook.

    Returns:
        ``metrics``, a row each, and ``records``, one per item.
    Raises:
        InputError: a model, task, readout or plan that cannot be used.
    """
    from layercut.progress.bars import progress_bar
    from layercut.surgery.checkpoint import earlier_plans, recorded_healings
    from layercut.tasks import load_task
    from layercut.tasks.selected_items import reported_split, used_items

    if isinstance(task, str):
        task = TaskSettings(task=task)
    if isinstance(task, TaskSettings):
        readout, limit = readout or (task.readouts or (None,))[0], limit or task.limit
        task = load_task(task.task, data=task.data, max_new_tokens=task.max_new_tokens)
    engine: Engine
    source: ModelSource | None = None
    io = _heard(progress, None)
    if hasattr(model, "ask"):
        engine = model
    else:
        loaded: dict[str, ModelHandle] = {}
        named = _named(model, tokenizer, io, loaded)
        settings = named if isinstance(named, ModelSettings) else ModelSettings(model=named)
        check_fits(settings, [None if plan is None else LayerSpec.parse(plan)])
        handle = io._replace(loaded=loaded).handle(settings)
        engine, source = handle.engine, handle.source
    cut = CutPlan(num_layers=engine.num_layers)
    if plan is not None:
        cut = LayerSpec.parse(plan).bind(num_layers=engine.num_layers)
    if split is None:
        used = None if source is None else used_items([*earlier_plans(source.path), cut], recorded_healings(source))
        split = reported_split(task, used)
    with progress_bar(f"Scoring {task.name}", len(task.samples(split, limit)), io.console, "items") as shown:
        return evaluate_items(
            task,
            engine,
            cut,
            readout=readout,
            split=split,
            limit=limit,
            decoding=decoding,
            num_samples=num_samples,
            on_progress=shown,
        )
