"""Multiple-choice tasks of the LM Evaluation Harness (lm-eval), by name. The only file that imports it.

Contexts, continuations and grades are lm-eval's own, made by its own code from its own task files; only the model is
run by layercut's engine. Gao et al., "The Language Model Evaluation Harness", doi:10.5281/zenodo.12608602.

A sample problem of ARC-Easy: "Which statement best explains why photosynthesis is the foundation of most food webs?"
with the continuation " Sunlight is the source of energy for nearly all ecosystems." and three others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError, MissingExtra
from layercut.tasks.choice_rows import hellaswag as prepared_hellaswag
from layercut.tasks.choice_rows import is_prepared_hellaswag, of_subject
from layercut.tasks.choice_task import ChoiceTask
from layercut.tasks.data_files import DataRow, DataSet, read_local
from layercut.tasks.hub_reach import hub_or_cache, why_not
from layercut.tasks.labels import check_label
from layercut.tasks.lm_eval_names import unknown_lm_eval_task
from layercut.tasks.subject import Subject, unreadable

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager


def lm_eval_task(
    *, name: str, data: str | None = None, num_shots: int = 0, max_new_tokens: int | None = None
) -> ChoiceTask:
    """Any multiple-choice or log-likelihood task of lm-eval by its name, or a group of them as one task.

    Args:
        name: of a task, a group or a tag of lm-eval, such as ``sciq`` or ``mmlu``. data: a local file or folder in
        place of the hub's data. Of a group, rows are distinguished by their ``subject``.
        num_shots: worked examples in the prompt. arXiv:2602.01997 takes 5.
        max_new_tokens: longest answer of ``short`` and ``chain``.

    Raises:
        MissingExtra: lm-eval is not installed.
        InputError: no such task, one of another kind, or data that cannot be loaded or lacks the fields of the task.
    """
    try:
        import lm_eval  # noqa: F401 - only whether it is there
        from lm_eval.api.metrics import mean
    except ImportError as error:
        raise MissingExtra(f"the task {name}", "lm-eval") from error
    manager = _manager_of(name)
    local = None if data is None else read_local(data)
    tasks = _load(manager, name, data, local)
    kinds, metrics = [], []
    for one, task in tasks.items():
        # Others, such as f1 and perplexity, become a number only over all items.
        own = [metric for metric, over_items in task.aggregation().items() if over_items is mean]
        if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood") or not own:
            raise InputError(
                f"lm-eval's {one} is a {task.OUTPUT_TYPE} task with {', '.join(task.aggregation())}; layercut supports "
                "multiple_choice and loglikelihood tasks with a metric per item, such as acc."
            )
        kinds.append(task.OUTPUT_TYPE)
        metrics.append(own)
    if len(set(kinds)) > 1:
        raise InputError(f"lm-eval's {name} mixes {' and '.join(sorted(set(kinds)))} tasks; name them one by one.")
    shared = [metric for metric in metrics[0] if all(metric in own for own in metrics)]
    if not shared:
        raise InputError(f"the tasks of lm-eval's {name} have no metric in common; name them one by one.")
    first = next(iter(tasks.values()))
    source = f"{first.config.dataset_path}/{first.config.dataset_name if len(tasks) == 1 else name}"
    described = {
        "lm_eval": version_of("lm_eval"),
        "task_version": first.VERSION,
        "data": source if local is None else local.sha256,
    }
    return ChoiceTask(
        f"{name}:{num_shots}" if num_shots else name,
        [Subject(one, task, num_shots) for one, task in tasks.items()],
        shared,
        described,
        max_new_tokens,
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
piqa = partial(lm_eval_task, name="piqa")
"""PIQA: which of two ways reaches a goal. Bisk et al., arXiv:1911.11641."""
winogrande = partial(lm_eval_task, name="winogrande")
"""WinoGrande: which of two names a pronoun stands for. Sakaguchi et al., arXiv:1907.10641. Each option is put into the
sentence, and what follows it is scored."""


def _load(manager: TaskManager, name: str, data: str | None, local: DataSet | None) -> dict[str, ConfigurableTask]:
    members = _members(manager, name)
    changed = {} if local is None else {"class": _reading(local, in_group=len(members) > 1)}
    _compile_templates_once()
    try:
        with hub_or_cache(), _quiet():  # about settings of the task file that its user did not write
            # A group made on the spot is lm-eval's public way to load a task with changed settings.
            loaded = manager.load({"group": "layercut", "task": [{**one, **changed} for one in members]})
    except InputError:
        raise
    except Exception as error:  # task files run any code, and a failed download raises what it likes
        if local is not None:
            raise unreadable(name, str(data), error) from error
        raise InputError(
            f"{name}: its data set cannot be loaded ({why_not(error)}). With no network give a local copy: "
            f"--data {name}=PATH."
        ) from error
    tasks: dict[str, ConfigurableTask] = loaded["tasks"]
    return tasks


def _members(manager: TaskManager, name: str) -> list[dict[str, Any]]:
    """The tasks of a group or tag, with what the group changes in each; a task is its own only member."""
    from lm_eval.tasks._yaml_loader import load_yaml  # the index names a group's file and does not open it

    if name in manager.all_tags:
        return [{"task": one} for one in sorted(manager.task_index[name].tags)]
    if name not in manager.all_groups:
        return [{"task": name}]
    members: list[dict[str, Any]] = []
    for child in load_yaml(manager.task_index[name].yaml_path, resolve_func=False)["task"]:
        if isinstance(child, str):
            members += _members(manager, child)
        elif isinstance(child.get("task"), str):
            members += [{**one, **child, "task": one["task"]} for one in _members(manager, child["task"])]
        else:
            raise InputError(f"lm-eval's group {name} makes groups of its own in its file; name its tasks one by one.")
    return members


@cache
def _compile_templates_once() -> None:
    """Keep lm-eval's templates: it compiles each again for every row and field, and reading costs little else."""
    from lm_eval.utils import env

    env.from_string = lru_cache(maxsize=1024)(env.from_string)


def _reading(local: DataSet, *, in_group: bool) -> type[ConfigurableTask]:
    """The class of a task that reads its rows from memory instead of the hub."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    class LocalTask(ConfigurableTask):  # type: ignore[misc]
        missing_examples: str | None = None
        places: Mapping[str, Sequence[str]]
        """Where the rows of each split stand in the user's files."""

        def __init__(self, config: dict[str, Any]) -> None:
            try:
                super().__init__(config={key: value for key, value in config.items() if key != "class"})
            except Exception as error:  # lm-eval reads the first row of what it evaluates
                docs = getattr(self, "task_docs", None)
                if docs is None:
                    raise
                split = "test" if self.has_test_docs() else "validation"
                where = self.places[split][0] if len(self.places[split]) == len(docs) else f"{split} row 1"
                check_label(self, docs[0], where)
                raise unreadable(self.config.task, where, error) from error

        def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
            config, examples = self.config, self.fewshot_cfg
            rows = of_subject(local, config.dataset_name, config.task, in_group=in_group)
            fields = {split: [dict(row.fields) for row in of_split] for split, of_split in rows.items()}
            if is_prepared_hellaswag(rows[min(rows)]) and config.process_docs is not None:
                fields = {split: prepared_hellaswag(of_split) for split, of_split in fields.items()}
                config.process_docs = examples.process_docs = None
            self.dataset = {split: Dataset.from_list(of_split) for split, of_split in fields.items()}
            if config.process_docs is not None:
                read = [(self.dataset[split], of_split) for split, of_split in rows.items()]
                config.process_docs = partial(_prepared, config.process_docs, read, config.task)
            # The task file names splits of the hub's data set; what is there decides.
            for field, split in _SPLIT_FIELDS.items():
                wanted = getattr(config, field) is not None and split in self.dataset
                setattr(config, field, split if wanted else None)
            if config.test_split is None and config.validation_split is None:
                config.test_split = min(self.dataset)
                config.training_split = None
            own = {split: getattr(config, field) for field, split in _SPLIT_FIELDS.items()}
            self.places = {split: [row.where for row in rows[name]] for split, name in own.items() if name}
            if examples.split == "dev" and "dev" not in self.dataset and "validation" in self.dataset:
                examples.split = "validation"  # a dev file without a validation file beside it
            if examples.split not in self.dataset:
                self.missing_examples, examples.split = examples.split, None

    return LocalTask


def _prepared(
    prepare: Callable[[Dataset], Dataset], read: Sequence[tuple[Dataset, Sequence[DataRow]]], name: str, data: Dataset
) -> Dataset:
    """Rows as a task file prepares them, with an error that names the row on which it fails."""
    try:
        return prepare(data)
    except Exception:  # task files run any code
        for number, row in enumerate(next((rows for part, rows in read if part is data), ())):
            try:
                prepare(data.select([number]))
            except Exception as error:
                raise unreadable(name, row.where, error) from error
        raise


_SPLIT_FIELDS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}


def _manager_of(name: str) -> TaskManager:
    """lm-eval's index of task files, with this task in it."""
    import lm_eval.tasks

    # Reading all of its 14,000 task files takes seconds, so the places where this one may be are tried first.
    home = Path(lm_eval.tasks.__file__).parent
    places = [*(file.parent for file in sorted(home.rglob(f"{name}.yaml"))), home / name / "default", home / name]
    for place in places:
        if place.is_dir():
            manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=place)
            if name in manager.all_subtasks or name in manager.all_groups:
                return manager
    manager = _full_manager()
    if name in manager.all_tasks:
        return manager
    raise unknown_lm_eval_task(name, manager.all_tasks)


@cache
def _full_manager() -> TaskManager:
    import lm_eval.tasks

    return lm_eval.tasks.TaskManager()


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
