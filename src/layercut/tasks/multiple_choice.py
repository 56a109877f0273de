"""Multiple-choice tasks of the LM Evaluation Harness (lm-eval). The only file that knows it.

Contexts, continuations and grades are lm-eval's own, made by its own code from its own task files; only the model is
run by layercut's engine. Gao et al., "The Language Model Evaluation Harness", doi:10.5281/zenodo.12608602.

A sample problem of ARC-Easy: "Which statement best explains why photosynthesis is the foundation of most food webs?"
with the continuation " Sunlight is the source of energy for nearly all ecosystems." and three others.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version as version_of
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.errors import InputError, MissingExtra
from layercut.tasks.base import Readout, Sample, Score, Split
from layercut.tasks.data_files import DataSet, read_local
from layercut.tasks.few_shot import content_id
from layercut.tasks.grading import guessing
from layercut.tasks.splits import SplitNames, choose_splits, first_of

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

VERSION = 1
"""Raised by any change here that can move scores. lm-eval's own versions stand in the settings."""


class MultipleChoice:
    """One multiple-choice task of lm-eval, without examples in the prompt.

    Report items come from the split that lm-eval evaluates (``test``, else ``validation``), selection items from
    ``validation`` or else ``train``; where there is no second split, the items are halved by the hash of their content.

    Metrics: those of the task's own file that are numbers per item, mostly ``acc`` (the most likely choice) and
    ``acc_norm`` (the likelihood divided by the choice's length in characters).
    """

    readouts: tuple[Readout, ...] = ("rank",)
    version = VERSION

    def __init__(self, name: str, task: ConfigurableTask, data: DataSet | None) -> None:
        from lm_eval.api.metrics import mean

        self.name = name
        self._task = task
        self._data = data
        # Others, such as f1, are pairs per item and become a number only over all items.
        self._metrics = [metric for metric, over_items in task.aggregation().items() if over_items is mean]
        if task.OUTPUT_TYPE != "multiple_choice" or not self._metrics:
            raise InputError(
                f"lm-eval's {name} is a {task.OUTPUT_TYPE} task with {', '.join(task.aggregation())}; "
                "layercut takes multiple_choice tasks with a metric per item, such as acc."
            )
        docs = {
            "train": task.training_docs() if task.has_training_docs() else None,
            "validation": task.validation_docs() if task.has_validation_docs() else None,
            "test": task.test_docs() if task.has_test_docs() else None,
        }
        self._docs: dict[str, Iterable[Mapping[str, Any]]] = {s: d for s, d in docs.items() if d is not None}
        self._split_names: SplitNames = choose_splits(self._docs, selection=("validation", "train"))
        self._samples: dict[str, list[Sample]] = {}

    def settings(self) -> Mapping[str, Any]:
        """What decides the samples; a local file counts by its content, not by its place."""
        config = self._task.config
        source = f"{config.dataset_path}/{config.dataset_name}" if self._data is None else self._data.sha256
        return {
            "version": self.version,
            "lm_eval": version_of("lm_eval"),
            "task_version": self._task.VERSION,
            "data": source,
            "splits": self._split_names.describe(),
        }

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in the order of the data set, which is what lm-eval's own ``--limit`` takes."""
        return first_of(split, self._split_names, self._read, limit)

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """lm-eval's context and continuations."""
        return LikelihoodRequest(
            id=sample.id, prompt=sample.data["context"], continuations=tuple(sample.data["continuations"])
        )

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        """lm-eval's metrics for this item; the headline is the first of its task file."""
        assert isinstance(answer, Likelihoods)
        scores = answer.log_likelihoods
        found = self._task.process_results(sample.data["doc"], list(zip(scores, answer.is_greedy, strict=True)))
        metrics = {name: float(found[name]) for name in self._metrics}
        choice = sample.options[scores.index(max(scores))]
        return Score(metrics, choice, "right" if metrics[self._metrics[0]] else "wrong")

    def settled(self, sample: Sample, readout: Readout, text: str) -> bool:
        """Never: nothing is generated."""
        return False

    def draft(self, sample: Sample, readout: Readout) -> str:
        """None: nothing is generated."""
        return ""

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """1 / number of choices, averaged over the items."""
        return guessing(samples, readout, self._metrics)

    def _read(self, split: str) -> Iterator[Sample]:
        made = self._samples.setdefault(split, [])  # kept, because lm-eval's templates take milliseconds an item
        yield from made
        for number, doc in enumerate(islice(self._docs[split], len(made), None), start=len(made) + 1):
            made.append(self._sample(doc, f"{split} row {number}"))
            yield made[-1]

    def _sample(self, doc: Mapping[str, Any], where: str) -> Sample:
        try:
            context = self._task.fewshot_context(doc, 0, gen_prefix=self._task.doc_to_prefix(doc))
            requests = self._task.construct_requests(doc, context)
            choices = self._task.doc_to_choice(doc)
            target = self._task.doc_to_target(doc)
            target = target[0] if isinstance(target, list) else target  # several are right: the first stands for them
            gold = choices[target] if isinstance(target, int) else str(target)
        except Exception as error:  # templates and functions of hundreds of task files raise what they like
            raise _unreadable(self.name, where, error) from error
        contexts = {request.args[0] for request in requests}
        if len(contexts) > 1:
            raise InputError(
                f"lm-eval's {self.name} scores one continuation after several contexts; "
                "layercut takes tasks that score several continuations after one context."
            )
        return Sample(
            id=content_id(self.name, *contexts, *choices),
            question=context,
            gold=gold,
            options=tuple(choices),
            data={
                "doc": doc,
                "context": context,
                "continuations": [request.args[1] for request in requests],
                "cluster": _shared_context(doc),
            },
        )


_SHARED = ("subject", "passage", "article")
"""Fields of data sets that several items have in common: subjects of MMLU, texts of BoolQ and RACE."""


def _shared_context(doc: Mapping[str, Any]) -> str | None:
    """Name of what an item shares with others, for clustered intervals; None where it stands alone."""
    for field in _SHARED:
        if isinstance(text := doc.get(field), str) and text:
            return content_id(field, text)
    return None


def arc_easy(*, data: str | None = None) -> MultipleChoice:
    """ARC-Easy: science questions of grades 3 to 9 with three to five choices. Clark et al., arXiv:1803.05457."""
    return lm_eval_task(name="arc_easy", data=data)


def lm_eval_task(*, name: str, data: str | None = None) -> MultipleChoice:
    """Any multiple-choice task of lm-eval by its name, with its data from the hub or from a local copy.

    Raises:
        MissingExtra: lm-eval is not installed.
        InputError: no such task, one of another kind, or data that cannot be loaded or lacks the fields of the task.
    """
    try:
        import lm_eval  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingExtra(f"the task {name}", "lm-eval") from error
    manager = _manager_of(name)
    local = None if data is None else read_local(data)
    overrides = {} if local is None else {"class": _reading(local)}
    try:
        with _quiet():  # about settings of the task file that its user did not write
            # A group made on the spot is lm-eval's public way to load a task with changed settings.
            loaded = manager.load({"group": "layercut", "task": [{"task": name, **overrides}]})
            task = loaded["tasks"][name]
    except Exception as error:  # as above, and whatever a failed download raises
        if local is not None:
            raise _unreadable(name, str(data), error) from error
        raise InputError(
            f"{name}: its data set cannot be loaded ({_reason(error)}). With no network give a local copy: "
            f"--data {name}=PATH."
        ) from error
    return MultipleChoice(name, task, local)


def _reading(local: DataSet) -> type[ConfigurableTask]:
    """The class of a task that reads its rows from memory instead of the hub."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    class LocalTask(ConfigurableTask):  # type: ignore[misc]
        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(config={key: value for key, value in config.items() if key != "class"})

        def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
            self.dataset = {
                split: Dataset.from_list([dict(row.fields) for row in rows]) for split, rows in local.splits.items()
            }
            # The task file names splits of the hub's data set; what is there decides.
            config = self.config
            for field, split in _SPLIT_FIELDS.items():
                wanted = getattr(config, field) is not None and split in self.dataset
                setattr(config, field, split if wanted else None)
            if config.test_split is None and config.validation_split is None:
                config.test_split = min(self.dataset)
                config.training_split = None
            if self.fewshot_cfg.split not in self.dataset:
                self.fewshot_cfg.split = None

    return LocalTask


_SPLIT_FIELDS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}


def _manager_of(name: str) -> TaskManager:
    """lm-eval's index of task files, with this task in it."""
    import lm_eval.tasks

    # Reading all of its 14,000 task files takes seconds, so the folder of a file of this name is tried first.
    home = Path(lm_eval.tasks.__file__).parent
    for file in sorted(home.rglob(f"{name}.yaml")):
        manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=file.parent)
        if name in manager.all_subtasks:
            return manager
    manager = _full_manager()
    if name in manager.all_subtasks:
        return manager
    if name in manager.all_tasks:
        raise InputError(f"lm-eval's {name} is a group of tasks; name the tasks one by one.")
    near = difflib.get_close_matches(name, manager.all_subtasks, n=3)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    raise InputError(f"unknown lm-eval task {name!r}.{guess} `lm-eval ls tasks` lists them all.")


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


def _unreadable(name: str, where: str, error: Exception) -> InputError:
    return InputError(
        f"{where}: lm-eval's {name} cannot read this data ({_reason(error)}). "
        "It must have the fields of the data set on the hub."
    )


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
