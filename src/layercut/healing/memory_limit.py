"""Whether a training step fits into the memory that is free: this decides ``gradient_checkpointing`` auto on a CPU.

A GPU that is full says so. Where a machine's own memory is full, the system kills the process without a word.
"""

from __future__ import annotations

from pathlib import Path

import psutil

from layercut.engine.handle import ModelHandle
from layercut.healing.examples import Data
from layercut.healing.settings import TrainSettings
from layercut.healing.step_memory import Longest, rule_of_thumb, training_parts
from layercut.models.placement import pick_device
from layercut.progress import Say

PARTS = ("gradients", "optimizer", "activations", "logits")
"""What a step takes beside the models, which are loaded by then."""
CGROUP = Path("/sys/fs/cgroup")
_SURE = 8
"""Where this many times the rule of thumb is free, bytes are not counted one by one, which takes seconds."""


def within_memory(
    cut: ModelHandle, teacher: ModelHandle | None, train: TrainSettings, data: Data, say: Say
) -> TrainSettings:
    """The settings of a training whose models are loaded, with gradient checkpointing where a step needs it to fit.

    It changes no number of the training. Where even that is not enough, a line says what would be; training is tried.

    Args:
        cut: the pruned model.
        teacher: the original model, if it is in memory.
        say: called with a line where memory is short.
    """
    if not _on_cpu(cut):
        return train
    free, longest = free_memory(), _longest(train, data)
    if _SURE * _taken(rule_of_thumb(cut, teacher, train, longest)) < free:
        return train
    takes = _taken(training_parts(cut, teacher, train, longest))
    if takes > free and may_checkpoint(cut, train):
        train = train.replace(gradient_checkpointing="on")
        say(f"gradient checkpointing is on: without it a step takes {_gb(takes)}, and {_gb(free)} is free")
        takes = _taken(training_parts(cut, teacher, train, longest))
    if takes > free:
        less = "gradient_checkpointing on" if train.gradient_checkpointing == "off" else "a smaller `max_length`"
        if train.micro_batch > 1:
            less = "micro_batch 1"
        say(f"a training step takes about {_gb(takes)}, and {_gb(free)} is free; if the system ends it, give {less}")
    return train


def may_checkpoint(cut: ModelHandle, train: TrainSettings) -> bool:
    """Whether gradient checkpointing goes on where a step does not fit without it."""
    return train.gradient_checkpointing == "auto" and _on_cpu(cut)


def free_memory() -> int:
    """Bytes that are free: of the machine, or of the container (cgroup v2) where that is less."""
    free: int = psutil.virtual_memory().available
    try:
        most, taken = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        parts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return min(free, most - taken + int(parts.get("inactive_file", 0)))  # pages of files that were read are given back


def _on_cpu(handle: ModelHandle) -> bool:
    return pick_device(handle.settings.device).type == "cpu"


def _taken(parts: dict[str, int]) -> int:
    return sum(parts[name] for name in PARTS)


def _longest(train: TrainSettings, data: Data) -> Longest:
    """The longest example; with answers of the pruned model's own, the longest that may be drawn."""
    own = train.rollout_max if train.answers_itself else 0
    examples = (*data.train, *data.held_out)
    tokens = max(len(one.prompt) + max(len(one.completion), own) for one in examples)
    return Longest(min(tokens, train.max_length), max(own, *(len(one.completion) for one in examples)))


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
