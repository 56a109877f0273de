"""Tasks of lm-eval by name. Prompts and grades are lm-eval's own; only the model is run by layercut's engine.

A sample problem of ARC-Easy: "Which statement best explains why photosynthesis is the foundation of most food webs?"
with the continuation " Sunlight is the source of energy for nearly all ecosystems." and three others.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError, MissingExtra
from layercut.tasks.data_files import read_local
from layercut.tasks.lm_eval.choice_task import ChoiceTask
from layercut.tasks.lm_eval.loading import load
from layercut.tasks.lm_eval.names import own_folder
from layercut.tasks.lm_eval.rolling_task import RollingSubject, RollingTask, rolling_metrics
from layercut.tasks.lm_eval.subject import ChoiceSubject
from layercut.tasks.lm_eval.written_task import WrittenSubject, WrittenTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layercut.tasks.base import Task

_SCORED = ("multiple_choice", "loglikelihood")


def lm_eval_task(
    *,
    name: str,
    data: str | None = None,
    num_shots: int | None = None,
    max_new_tokens: int | None = None,
    chat: bool = False,
    shown_name: str | None = None,
) -> Task:
    """Any task of lm-eval by its name, or a group of tasks of one kind as one task.

    Args:
        name: of a task, a group or a tag of lm-eval, such as ``sciq``, ``gsm8k_cot`` or ``mmlu``.
        data: a local file or folder in place of the hub's data. Of a group, rows are distinguished by their
            ``subject``.
        num_shots: worked examples in the prompt; if left out, none for multiple choice, and as many as the task's file
            asks for where answers are written. arXiv:2602.01997 takes 5.
        max_new_tokens: longest answer of what is written.
        chat: ask in the model's chat format, worked examples as earlier turns: what lm-eval does under
            ``--apply_chat_template --fewshot_as_multiturn``.
        shown_name: what it is called in results, without the number of examples, where that is not ``name``.

    Raises:
        MissingExtra: lm-eval is not installed.
        InputError: no such task, one that is not supported, or data that cannot be loaded or lacks the fields of the
            task.
    """
    try:
        import lm_eval  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingExtra(f"the task {name}", "lm-eval") from error
    local = None if data is None else read_local(data)
    tasks = load(name, data, local)
    kinds = sorted({task.OUTPUT_TYPE for task in tasks.values()})
    if len(kinds) > 1:
        raise InputError(f"lm-eval's {name} mixes {' and '.join(kinds)} tasks; name them one by one.")
    first = next(iter(tasks.values()))
    source = f"{first.config.dataset_path}/{first.config.dataset_name if len(tasks) == 1 else name}"
    described = {
        "lm_eval": version_of("lm_eval"),
        "task_version": first.VERSION,
        "data": source if local is None else local.sha256,
    }
    if (folder := own_folder(name)[0]) is not None:
        texts = [file.read_bytes() for file in sorted(folder.rglob("*")) if file.name.endswith(("yaml", ".py"))]
        described["files"] = sha256(b"\n".join(texts)).hexdigest()[:16]
    called, form = shown_name or name, "+chat" if chat else ""
    if kinds[0] in _SCORED:
        metrics = _shared(name, [_means(one, task) for one, task in tasks.items()])
        called = f"{called}:{num_shots}" if num_shots else called
        scored = [ChoiceSubject(one, task, num_shots or 0, chat=chat) for one, task in tasks.items()]
        return ChoiceTask(called + form, scored, metrics, described, max_new_tokens)
    if kinds[0] == "loglikelihood_rolling":
        if num_shots or chat or max_new_tokens is not None:
            raise InputError(
                f"{name} scores whole documents; it takes no worked examples, no chat format and no max_new_tokens."
            )
        documents = [RollingSubject(one, task, 0) for one, task in tasks.items()]
        return RollingTask(called, documents, _shared(name, map(rolling_metrics, tasks.values())), described)
    written = [WrittenSubject(one, task, num_shots, chat=chat) for one, task in tasks.items()]
    called = called if num_shots is None else f"{called}:{num_shots}"
    return WrittenTask(
        called + form, written, _shared(name, [one.measures for one in written]), described, max_new_tokens
    )


arc_easy = partial(lm_eval_task, name="arc_easy")
"""ARC-Easy: science questions of grades 3 to 9 with three to five choices. Clark et al., arXiv:1803.05457."""
arc_challenge = partial(lm_eval_task, name="arc_challenge")
"""ARC-Challenge: those of the same set that simple methods got wrong. Clark et al., arXiv:1803.05457."""
hellaswag = partial(lm_eval_task, name="hellaswag")
"""HellaSwag: which of four sentences goes on. Zellers et al., arXiv:1905.07830."""
mmlu = partial(lm_eval_task, name="mmlu")
"""MMLU: exam questions of 57 subjects, four choices. Hendrycks et al., arXiv:2009.03300."""
openbookqa = partial(lm_eval_task, name="openbookqa")
"""OpenBookQA: elementary science with four choices, the book closed. Mihaylov et al., arXiv:1809.02789."""
piqa = partial(lm_eval_task, name="piqa")  # PIQA: which of two ways reaches a goal. Bisk et al., arXiv:1911.11641.
winogrande = partial(lm_eval_task, name="winogrande")
"""WinoGrande: which of two names a pronoun stands for. Sakaguchi et al., arXiv:1907.10641. Each option is put into the
sentence, and what follows it is scored."""


def _means(name: str, task: Any) -> list[str]:
    """The metrics of a task with options that are numbers per item. Raises InputError: it has none."""
    from lm_eval.api.metrics import mean

    # Others, such as f1 and perplexity, become a number only over all items.
    own = [metric for metric, over_items in task.aggregation().items() if over_items is mean]
    if not own:
        raise InputError(
            f"lm-eval's {name} is a {task.OUTPUT_TYPE} task with {', '.join(task.aggregation())}; layercut supports "
            "those with a metric per item, such as acc."
        )
    return own


def _shared(name: str, metrics: Sequence[Sequence[str]] | Sequence[Mapping[str, Any]] | Any) -> list[str]:
    """The metrics that all tasks of a group have. Raises InputError: there is none."""
    first, *others = metrics
    shared = [metric for metric in first if all(metric in own for own in others)]
    if not shared:
        raise InputError(f"the tasks of lm-eval's {name} have no metric in common; name them one by one.")
    return shared
