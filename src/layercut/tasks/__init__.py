"""Tasks by name. A new one is a file here and a line in TASKS; it is imported on first use."""

from __future__ import annotations

import difflib
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import InputError, unknown
from layercut.runs.foreign_code import check_function_name, function_named
from layercut.seed import check_seed
from layercut.tasks.lm_eval.names import check_mentioned, has_lm_eval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layercut.tasks.base import Task

LM_EVAL = "lm-eval:"  # prefix of the name of a task of the LM Evaluation Harness; ``lm_eval:`` does as well

_PREFIXES = (LM_EVAL, LM_EVAL.replace("-", "_"))
_LONGEST_NAME = 200
_ASKED = re.compile(r"(?P<name>.+?)(:(?P<shots>\d+))?(?P<chat>\+chat)?")
_OWN_FILE = re.compile(r"(?P<path>.+\.(?:jsonl|json|csv|parquet)(?:\.gz)?)(?::(?P<grade>[a-z_]+))?")


OF_LM_EVAL = ("rank", "gold", "token", "short", "chain")  # readouts that a task of lm-eval may have
_BY_LM_EVAL = "lm_eval.by_name:"


class KnownTask(NamedTuple):
    """One line of the list of tasks."""

    factory: str  # ``module:function`` below layercut.tasks; the function takes the options that the task has
    summary: str
    worked: str = ""  # the task of lm-eval that is asked for with worked examples, ``NAME:8``, where it is another one


TASKS = {
    "arithmetic": KnownTask(
        "builtin.lines:arithmetic", "sums, differences and products of one and two digits (built in)"
    ),
    "brackets": KnownTask("builtin.lines:brackets", "close open brackets: ( [ { (built in)"),
    "copy": KnownTask("builtin.lines:copying", "repeat a list of four to eight words (built in)"),
    "chain_sum": KnownTask("builtin.steps:chain_sum", "sums of five to seven numbers, worked out in steps (built in)"),
    "gsm_symbolic": KnownTask(
        "builtin.steps:gsm_symbolic", "grade-school word problems made from templates (built in)"
    ),
    "gsm8k": KnownTask(
        "benchmarks.boxed:gsm8k", "grade-school word problems (openai/gsm8k, or a local copy)", "gsm8k_cot"
    ),
    "humaneval": KnownTask(
        "benchmarks.code_problems:humaneval", "complete a Python function (openai/openai_humaneval, or a local copy)"
    ),
    "humaneval_plus": KnownTask(
        "benchmarks.code_problems:humaneval_plus", "the same, many more tests (evalplus/humanevalplus, or a local copy)"
    ),
    "mbpp": KnownTask(
        "benchmarks.code_problems:mbpp", "short Python problems (google-research-datasets/mbpp, or a local copy)"
    ),
    "mbpp_plus": KnownTask(
        "benchmarks.code_problems:mbpp_plus", "the same, many more tests (evalplus/mbppplus, or a local copy)"
    ),
    "math500": KnownTask(
        "benchmarks.boxed:math500", "competition mathematics (HuggingFaceH4/MATH-500, or a local copy)"
    ),
    "xsum": KnownTask("benchmarks.xsum:xsum", "one-sentence summaries, by ROUGE (EdinburghNLP/xsum, or a local copy)"),
    "arc_easy": KnownTask("lm_eval.by_name:arc_easy", "science questions with three to five choices"),
    "arc_challenge": KnownTask("lm_eval.by_name:arc_challenge", "the harder of these science questions"),
    "hellaswag": KnownTask("lm_eval.by_name:hellaswag", "which of four sentences continues a text"),
    "mmlu": KnownTask("lm_eval.by_name:mmlu", "exam questions of 57 subjects with four choices"),
    "openbookqa": KnownTask("lm_eval.by_name:openbookqa", "elementary science with four choices"),
    "piqa": KnownTask("lm_eval.by_name:piqa", "which of two ways reaches an everyday goal"),
    "winogrande": KnownTask("lm_eval.by_name:winogrande", "which of two names fits into a sentence"),
    "general": KnownTask("builtin.checked:general", "everyday requests, to choose and heal with (built in)"),
    "general_code": KnownTask(
        "builtin.checked:general_code", "short programs to write and explain, to choose and heal with (built in)"
    ),
    "endings": KnownTask(
        "builtin.side_effects:endings",
        "answers of one or two sentences that end by themselves (built in)",
    ),
    "same_language": KnownTask(
        "builtin.side_effects:same_language",
        "answers in the language of the request, one of ten (built in)",
    ),
    "instructions": KnownTask(
        "builtin.side_effects:instructions",
        "instructions about an answer's form, after IFEval (built in)",
    ),
    "needle_2k": KnownTask("builtin.side_effects:needle_2k", "a number in a text of 2,000 tokens (built in)"),
    "needle_8k": KnownTask("builtin.side_effects:needle_8k", "a number in a text of 8,000 tokens (built in)"),
}


def load_task(name: str, *, data: str | None = None, seed: int = 0, max_new_tokens: int | None = None) -> Task:
    """A task by name.

    Args:
        name: one of ``TASKS``; a file of your own (``my.jsonl``, ``my.csv:number``; see
            ``layercut.tasks.own_file``); the name of a task or group of the LM Evaluation Harness (``lm-eval:NAME``
            where one of ours has the same name); ``lm-eval:FOLDER/NAME`` for one whose task file is in a folder of
            your own; or ``my.module:function``. ``NAME:5`` asks with five
            worked examples, for tasks that have them, and ``NAME:5+chat`` in the model's chat format, for tasks of
            lm-eval.
        data: a local file or folder in place of the data set on the hub, for tasks that have one.
        seed: of the generator, for tasks whose problems are made; others have no use for it.
        max_new_tokens: longest answer, for tasks where it can be chosen.

    Raises:
        InputError: no such task, an option it does not have, or data that cannot be used.
        MissingExtra: the task needs an optional part that is not installed.
    """
    check_seed(seed)
    factory, options = _factory(name)
    asked = _asked(name)
    parameters = inspect.signature(factory).parameters
    given = {"data": data, "max_new_tokens": max_new_tokens, "num_shots": asked.num_shots, "chat": asked.chat or None}
    for option, value in given.items():
        if value is not None and option not in parameters:
            raise InputError(f"the task {name} takes no {option}, but {option} {value!r} was given; leave it out.")
    options |= {option: value for option, value in given.items() if value is not None}
    if "seed" in parameters:
        options["seed"] = seed
    from layercut.tasks.base import Task  # imported here, because lists of names need no engine

    task = factory(**options)
    if not isinstance(task, Task):
        raise InputError(f"the task {name} gives a {type(task).__name__}; it must be a layercut.tasks.base.Task.")
    return task


def check_task(
    name: str, readouts: Sequence[str] | None = None, *, data: str | None = None, max_new_tokens: int | None = None
) -> None:
    """Refuse, before torch or lm-eval is imported, what ``load_task`` and ``Task.check_readout`` would refuse later.

    A task of one's own is not imported for it, and lm-eval has the last word on its own.

    Args:
        name: as ``load_task`` takes it.
        readouts: how it is to be read out; not checked for None.
        data: as ``load_task`` takes it; nothing is read.

    Raises:
        InputError: no such task, an option or a readout that it does not have.
    """
    from layercut.tasks.base import check_known

    base, num_shots, _ = _asked(name)
    own = _own_file(base) is not None
    if not own and base not in TASKS and ":" in base and not base.startswith(_PREFIXES):
        return
    ours = base in TASKS and not TASKS[base].factory.startswith(_BY_LM_EVAL)
    if own or (ours and not (num_shots is not None and TASKS[base].worked)):
        task = load_task(name, data=data, max_new_tokens=max_new_tokens)
        if own:
            task.samples("report", None)  # refuses a bad row before a model is loaded
        for readout in readouts or ():
            task.check_readout(readout)
        return
    if base not in TASKS:
        _factory(name)  # refuses one of ours that is misspelt
        check_mentioned(base_name(name))
    for readout in readouts or ():
        check_known(name, readout, OF_LM_EVAL)


def takes(name: str, option: str) -> bool:
    """True if a task has an option, such as ``max_new_tokens``. Raises InputError: no such task."""
    return option in inspect.signature(_factory(name)[0]).parameters


def check_name(name: str) -> None:
    """Refuse ``my.module:function`` from a source that is not trusted, before anything is imported.

    Raises:
        InputError: such a name.
    """
    base = base_name(name)
    if ":" in base and not name.startswith(_PREFIXES) and _own_file(base) is None:
        check_function_name(base, "task")


def _factory(name: str) -> tuple[Any, dict[str, Any]]:
    """The factory of a task, and the options that its name gives."""
    base, num_shots, _ = _asked(name)
    if (own := _own_file(base)) is not None:
        from layercut.tasks.own_file import own_file

        return own_file, own.groupdict()
    if len(name) > _LONGEST_NAME:
        raise InputError(f"no task has a name of {len(name)} letters ({name[:40]!r}...); separate names by commas.")
    worked = TASKS[base].worked if num_shots is not None and base in TASKS else ""
    if worked or base.startswith(_PREFIXES) or _only_lm_eval_may_know(base):
        from layercut.tasks.lm_eval.by_name import lm_eval_task

        if worked:
            return lm_eval_task, {"name": worked, "shown_name": base}
        named = base_name(name)
        bare = named.rpartition("/")[2]  # behind the folder of a task of one's own
        has_own = bare in TASKS and not TASKS[bare].factory.startswith(_BY_LM_EVAL)
        return lm_eval_task, {"name": named, "shown_name": f"{LM_EVAL}{bare}" if has_own else bare}
    return _resolve(base), {}


def _own_file(name: str) -> re.Match[str] | None:
    """The path and grade of a file of one's own, ``my.jsonl:number``; None for other names.

    ``my.json:load`` may be a function of a module too, and is one where no such file is there.
    """
    match = _OWN_FILE.fullmatch(name)
    if match is None or match["grade"] is None:
        return match
    path = match["path"]
    return match if "/" in path or ".jsonl" in path or Path(path).is_file() else None


def base_name(name: str) -> str:
    """A task's name without ``lm-eval:``, the number of examples and ``+chat``.

    >>> base_name("lm-eval:sciq:5"), base_name("mmlu:5+chat"), base_name("gsm8k")
    ('sciq', 'mmlu', 'gsm8k')
    """
    base = _asked(name).name
    return base.partition(":")[2] if base.startswith(_PREFIXES) else base


class _Asked(NamedTuple):
    name: str
    num_shots: int | None
    chat: bool


def _asked(name: str) -> _Asked:
    """A name without what stands behind it, the number of examples, and whether the chat format is asked for."""
    found = _ASKED.fullmatch(name)
    if found is None:  # empty, or of several lines
        return _Asked(name, None, False)
    return _Asked(found["name"], None if found["shots"] is None else int(found["shots"]), found["chat"] is not None)


def _only_lm_eval_may_know(name: str) -> bool:
    """True if a bare name is none of ours and not one of ours misspelt, so that it is worth looking for elsewhere."""
    is_ours = name in TASKS or ":" in name or difflib.get_close_matches(name, TASKS, n=1, cutoff=0.75)
    return not is_ours and has_lm_eval()


def _resolve(name: str) -> Any:
    if name in TASKS:
        module, _, function = TASKS[name].factory.partition(":")
        return getattr(import_module(f"layercut.tasks.{module}"), function)
    if ":" not in name:
        hint = f"Or {LM_EVAL}NAME for a task of lm-eval, my.jsonl or module:function for your own."
        raise unknown("task", name, TASKS, hint)
    return function_named(name, "task")
