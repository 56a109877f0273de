"""What a training objective needs beside the pruned model: its trainer, the teacher, questions and stored answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layercut.engine.handle import ModelHandle
from layercut.healing.examples import Data
from layercut.healing.pair import Pair, load_cut, load_pair
from layercut.healing.prompt_sources import TaskPrompts
from layercut.healing.settings import TrainSettings

TRAINING = "training"


class ToTrain(NamedTuple):
    """What the first process of a group sends to the others."""

    data: Data
    folder: Path


def objective_of(
    pair: Pair,
    teacher: ModelHandle,
    settings: TrainSettings,
    shared: ToTrain,
    records: list[dict[str, Any]],
    tasks: Sequence[TaskPrompts] = (),
) -> dict[str, Any]:
    """Options of ``train`` that an objective needs, such as its trainer and the teacher.

    ``records`` are the answers that the data come from; ``tasks`` grade answers.
    """
    if settings.objective == "sft":
        return {}
    if settings.is_graded:
        from layercut.healing.grpo import GrpoTrainer, questions_in

        questions = questions_in(shared.data, tasks, settings)
        return {"trainer": GrpoTrainer, "cut": pair.cut, "questions": questions, "group": settings.group}
    from layercut.healing.distill import DistillTrainer, check_teacher
    from layercut.healing.examples import encode_example
    from layercut.healing.on_policy import OnPolicyTrainer, RolloutLength

    loaded, uncut = pair.cut, pair.uncut or load_cut(teacher, TrainSettings())
    check_teacher(loaded.model, uncut.model)
    options: dict[str, Any] = {"teacher": uncut.model, "kind": settings.objective, "alpha": settings.jsd_alpha}
    if settings.objective != "on-policy":
        return options | {"trainer": DistillTrainer}
    by_prompt = {encode_example(loaded.tokenizer, one).prompt: one for one in records if one["completion"]}
    length = RolloutLength(settings.rollout_start, settings.rollout_max)
    more = {"kind": "jsd", "cut": loaded, "records": by_prompt, "length": length, "drift": settings.drift_overlap}
    return options | more | {"trainer": OnPolicyTrainer}


def train_along(cut: ModelHandle, teacher: ModelHandle, settings: TrainSettings, shared: ToTrain) -> None:
    """Training in the other processes of a group, on the data that the first one sent."""
    from layercut.healing.sft import train
    from layercut.healing.trainable import make_trainable

    pair = load_pair(cut, teacher, settings)
    options = objective_of(pair, teacher, settings, shared, [])
    model = make_trainable(pair.cut.model, settings)
    train(model, pair.cut.tokenizer, shared.data, settings, shared.folder / TRAINING, **options)
