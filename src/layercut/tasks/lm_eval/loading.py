"""Tasks of lm-eval by name. Prompts and grades are lm-eval's own; only the model is run by layercut's engine.

A sample problem of ARC-Easy: "Which statement best explains why photosynthesis is the foundation of most food webs?"
with the continuation " Sunlight is the source of energy for nearly all ecosystems." and three others.

ARC: Clark et al., arXiv:1803.05457. HellaSwag: Zellers et al., arXiv:1905.07830. MMLU: Hendrycks et al.,
arXiv:2009.03300. OpenBookQA: Mihaylov et al., arXiv:1809.02789. PIQA: Bisk et al., arXiv:1911.11641. WinoGrande:
Sakaguchi et al., arXiv:1907.10641; each option is put into the sentence, and what follows it is scored.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from hashlib import sha256
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError, MissingExtra
from layercut.tasks.base import Task
from layercut.tasks.data_files import DataRow, DataSet, read_local_data, use_cache_without_hub, why_no_data
from layercut.tasks.lm_eval import own_task_folder
from layercut.tasks.lm_eval.kinds import ChoiceSubject, ChoiceTask, WrittenSubject, WrittenTask
from layercut.tasks.lm_eval.subject import reason_of, unreadable_task

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

SUBJECT = "subject"
"""The field that says which part of a data set a row belongs to, as in MMLU; the hub has a configuration for each."""
_SPLIT_FIELDS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
_LAST_SENTENCE = re.compile(r"(?:.*[.!?]\s)?(?P<last>[^.!?]*)", re.DOTALL)


def lm_eval_task(
    *,
    name: str,
    data: str | None = None,
    num_shots: int | None = None,
    max_new_tokens: int | None = None,
    chat: bool = False,
    shown_name: str | None = None,
) -> Task:
    """Any task, group or tag of lm-eval as one task; see ``layercut.tasks.load_task``.

    Args:
        data: a local file or folder. Of a group, rows are distinguished by their ``subject``.
        num_shots: if left out, none for multiple choice, else as many as the task's file asks for.
        chat: what lm-eval does under ``--apply_chat_template --fewshot_as_multiturn``.
        shown_name: name in results, without the number of examples, where that is not ``name``.
    """
    try:
        import lm_eval  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingExtra(f"the task {name}", "lm-eval") from error
    local = None if data is None else read_local_data(data)
    tasks = _load(name, data, local)
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
    if (folder := own_task_folder(name)[0]) is not None:
        texts = [file.read_bytes() for file in sorted(folder.rglob("*")) if file.name.endswith(("yaml", ".py"))]
        described["files"] = sha256(b"\n".join(texts)).hexdigest()[:16]
    called, form = shown_name or name, "+chat" if chat else ""
    if kinds[0] in ("multiple_choice", "loglikelihood"):
        metrics = _shared(name, [_means(member, task) for member, task in tasks.items()])
        choices = [ChoiceSubject(member, task, num_shots or 0, chat=chat) for member, task in tasks.items()]
        called = f"{called}:{num_shots}" if num_shots else called
        return ChoiceTask(called + form, choices, metrics, described)
    if kinds[0] == "loglikelihood_rolling":
        raise InputError(f"lm-eval's {name} scores whole documents: `python -m layercut.tools.lm_eval` runs it.")
    written = [WrittenSubject(member, task, num_shots, chat=chat) for member, task in tasks.items()]
    called = called if num_shots is None else f"{called}:{num_shots}"
    metrics = _shared(name, [list(subject.measures) for subject in written])
    return WrittenTask(called + form, written, metrics, described, max_new_tokens)


def _means(name: str, task: Any) -> list[str]:
    """The metrics of a task with options that are numbers per item. Raises InputError: it has none."""
    from lm_eval.api.metrics import mean

    # Others, such as f1 and perplexity, become a number only over all items.
    own = [metric for metric, over_items in task.aggregation().items() if over_items is mean]
    if not own:
        raise InputError(f"lm-eval's {name} has no metric per item, such as acc, but {', '.join(task.aggregation())}.")
    return own


def _shared(name: str, metrics: Sequence[Sequence[str]]) -> list[str]:
    """The metrics that all tasks of a group have. Raises InputError: there is none."""
    shared = [metric for metric in metrics[0] if all(metric in own for own in metrics)]
    if not shared:
        raise InputError(f"the tasks of lm-eval's {name} have no metric in common; name them one by one.")
    return shared


def _load(name: str, data: str | None, local: DataSet | None) -> dict[str, ConfigurableTask]:
    """lm-eval's task of this name, or those of a group or tag, by their names, with ``local`` rows of ``data``."""
    manager = _manager_of(name)
    members = _members(manager, own_task_folder(name)[1])
    files = {
        member["task"]: Path(entry.yaml_path)
        for member in members
        if (entry := manager.task_index.get(member["task"])) is not None and entry.yaml_path
    }
    for task, file in files.items():
        _check_file(task, file, is_local=local is not None)
    changed = {} if local is None else {"class": local_reader(local, in_group=len(members) > 1)}
    _compile_templates_once()
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of settings of its own task files
    try:
        use_cache_without_hub()
        # A group made on the spot is lm-eval's public way to load a task with changed settings.
        loaded = manager.load({"group": "layercut", "task": [{**member, **changed} for member in members]})
    except InputError:
        raise
    except (ImportError, AssertionError) as error:  # task files check by either what they need
        missing = getattr(error, "name", None)
        mend = f"pip install {missing}" if missing else "Install what it asks for."
        raise InputError(f"lm-eval's {name} cannot be set up here ({reason_of(error)}). {mend}") from error
    except Exception as error:  # task files run any code, and a failed download raises what it likes
        if local is not None:
            raise unreadable_task(name, str(data), error) from error
        raise InputError(f"{name}: no data ({why_no_data(error)}). Give a local copy: `data` {name}=PATH.") from error
    finally:
        logger.setLevel(level)
    tasks: dict[str, ConfigurableTask] = loaded["tasks"]
    return tasks


def _manager_of(name: str) -> TaskManager:
    """lm-eval's index of task files, with this task in it."""
    import lm_eval.tasks

    folder, bare = own_task_folder(name)
    if folder is not None:
        for with_defaults in (False, True):  # its files may name lm-eval's own
            manager = lm_eval.tasks.TaskManager(include_defaults=with_defaults, include_path=str(folder))
            if bare in manager.all_tasks and (with_defaults or bare in manager.all_subtasks):
                return manager
        raise _unknown_task(bare, manager.all_tasks)
    # Reading all of its 14,000 task files takes seconds, so the places where this one may be are tried first.
    home = Path(lm_eval.tasks.__file__).parent
    places = [*(file.parent for file in sorted(home.rglob(f"{name}.yaml"))), home / name / "default", home / name]
    if not any(place.is_dir() for place in places):
        places = [file.parent for file in files_of_task(name)]
    for place in places:
        if place.is_dir():
            manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=place)
            if name in manager.all_subtasks or name in manager.all_groups:
                return manager
    manager = _full_manager()
    if name in manager.all_tasks:
        return manager
    raise _unknown_task(name, manager.all_tasks)


def files_of_task(name: str) -> list[Path]:
    """lm-eval's task files with a line ``task: NAME``; mostly one, which need not have the task's name."""
    import lm_eval.tasks

    quote = rb"[\"']?"
    line = re.compile(rb"^%btask%b:[ \t]*%b%b%b[ \t]*$" % (quote, quote, quote, re.escape(name.encode()), quote), re.M)
    files = Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")
    return sorted(file for file in files if line.search(file.read_bytes()))


def _unknown_task(name: str, names: list[str]) -> InputError:
    near = difflib.get_close_matches(name, names, n=3)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    return InputError(f"unknown lm-eval task {name!r}.{guess} `lm-eval ls tasks` lists them all.")


@cache
def _full_manager() -> TaskManager:
    import lm_eval.tasks

    return lm_eval.tasks.TaskManager()


def _members(manager: TaskManager, name: str) -> list[dict[str, Any]]:
    """The tasks of a group or tag, with what the group changes in each; a task is its own only member."""
    from lm_eval.tasks._yaml_loader import load_yaml  # the index names a group's file and does not open it

    if name in manager.all_tags:
        return [{"task": task} for task in sorted(manager.task_index[name].tags)]
    if name not in manager.all_groups:
        return [{"task": name}]
    members: list[dict[str, Any]] = []
    for child in load_yaml(manager.task_index[name].yaml_path, resolve_func=False)["task"]:
        if isinstance(child, str):
            members += _members(manager, child)
        elif isinstance(child.get("task"), str):
            members += [{**member, **child, "task": member["task"]} for member in _members(manager, child["task"])]
        else:
            raise InputError(f"lm-eval's group {name} makes groups of its own in its file; name its tasks one by one.")
    return members


def _check_file(name: str, file: Path, *, is_local: bool) -> None:
    """Refuse by its file, whose functions are not even imported: those of some files run programs to try it."""
    from lm_eval.tasks._yaml_loader import load_yaml

    described = load_yaml(file, resolve_func=False)
    if described.get("unsafe_code"):
        raise InputError(f"lm-eval's {name} runs programs without isolation; use humaneval, mbpp or their _plus.")
    if is_local and "class" in described:
        raise InputError(f"lm-eval's {name} is a Python class that takes no local rows; leave `data` out.")


@cache
def _compile_templates_once() -> None:
    """Keep lm-eval's templates: it compiles each again for every row and field, and reading costs little else."""
    from lm_eval.utils import env

    env.from_string = lru_cache(maxsize=1024)(env.from_string)


def local_reader(local: DataSet, *, in_group: bool) -> type[ConfigurableTask]:
    """The class of a task that reads its rows from memory instead of the hub."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    class LocalTask(ConfigurableTask):  # type: ignore[misc]
        missing_examples: str | None = None
        places: Mapping[str, Sequence[str]]  # places of the rows of each split in the user's files

        def __init__(self, config: dict[str, Any]) -> None:
            try:
                super().__init__(config={key: value for key, value in config.items() if key != "class"})
            except Exception as error:  # lm-eval reads the first row of what it evaluates
                docs = getattr(self, "task_docs", None)
                if docs is None:
                    raise
                split = "test" if self.has_test_docs() else "validation"
                where = self.places[split][0] if len(self.places[split]) == len(docs) else f"{split} row 1"
                raise unreadable_task(self.config.task, where, error) from error

        def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
            config, examples = self.config, self.fewshot_cfg
            rows = _rows_of_subject(local, config.dataset_name, config.task, in_group=in_group)
            fields = {split: [dict(row.fields) for row in of_split] for split, of_split in rows.items()}
            first = fields[min(fields)][0]
            if {"activity_label", "ctx", "endings"} <= first.keys() and "ctx_a" not in first:
                fields = {split: prepare_hellaswag(of_split) for split, of_split in fields.items()}
                config.process_docs = examples.process_docs = None
            self.dataset = {split: Dataset.from_list(of_split) for split, of_split in fields.items()}
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


def prepare_hellaswag(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose contexts are joined, as lm-eval's own preparation leaves those of the hub: ``query`` and ``choices``.

    lm-eval capitalises the part of the context that the ending continues (``ctx_b``). In a joined context that is the
    beginning of a sentence at the end, in small letters and without a full stop: "A man sits. he" gets "He".
    """
    return [
        {
            "query": f"{row['activity_label']}: {_capitalised(str(row['ctx']))}".strip(),
            "choices": list(row["endings"]),
            # None where a hidden test label stands, so that the row is refused by name.
            "label": int(str(label)) if str(label := row.get("label")).isdigit() else None,
        }
        for row in rows
    ]


def _capitalised(context: str) -> str:
    match = _LAST_SENTENCE.fullmatch(context)
    last = match["last"] if match else ""
    return context[: len(context) - len(last)] + last.capitalize() if last[:1].islower() else context


def _rows_of_subject(local: DataSet, subject: str | None, task: str, *, in_group: bool) -> dict[str, list[DataRow]]:
    """The rows of a local data set that belong to one task, by split.

    A file that holds several subjects is divided by its field ``subject``; one without that field belongs to the task
    as a whole, and so does one whose subjects are no configurations of the data set on the hub.
    """
    rows = {split: list(of_split) for split, of_split in local.splits.items()}
    known = {str(row.fields[SUBJECT]) if SUBJECT in row.fields else None for part in rows.values() for row in part}
    if subject is None or None in known or (subject not in known and not in_group):
        return rows
    if subject not in known:
        raise InputError(f"no rows of the {SUBJECT} {subject!r}, which {task} needs, but of {len(known)} others")
    own = {split: [row for row in part if str(row.fields[SUBJECT]) == subject] for split, part in rows.items()}
    return {split: of_split for split, of_split in own.items() if of_split}
