"""The memory and disk that training takes, by formula from the headers of the weight files.

It decides ``gradient_checkpointing`` auto on a CPU: a GPU that is full says so, but where a machine's own memory is
full, the system kills the process without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from layercut.engine.handle import ModelHandle
from layercut.healing.methods import METHODS
from layercut.healing.settings import TrainSettings
from layercut.models.placement import device_type
from layercut.models.weights import WeightCounts
from layercut.progress import Say

if TYPE_CHECKING:
    from layercut.healing.examples import Data

OF_A_STEP = ("gradients", "optimizer", "activations", "logits")
"""Parts of the memory of a step, without the models, which are loaded by then."""
CGROUP = Path("/sys/fs/cgroup")


class Longest(NamedTuple):
    """The longest example."""

    tokens: int
    in_loss: int  # tokens of its answer


def training_parts(
    cut: ModelHandle, teacher: ModelHandle | None, train: TrainSettings, longest: Longest
) -> dict[str, int]:
    """Bytes by part when a training step takes most, about.

    Activations are those of Korthikanti et al. (arXiv:2205.05198) without the attention scores, which torch's kernel
    does not keep: 17 values for each token, layer and hidden unit. Adapters keep the input of each of their matrices
    again, 11 values more, and what passes through their rank. With gradient checkpointing each layer
    keeps its input alone, and one layer at a time the rest. Logits are taken in chunks of at most 2**25 values, each
    with its gradient and copies in float32.
    """
    counts = cut.counts
    rows = train.batches().micro
    method = METHODS[train.method]
    trainable = method.num_trainable(counts, train)
    width = 2 if train.autocasts(has_bfloat16=has_bfloat16(cut)) else 4
    values = 17 * counts.hidden_size + (11 * counts.hidden_size + 7 * train.rank if method.has_adapter else 0)
    a_layer = width * values
    layers = a_layer * counts.num_layers
    if train.checkpoints(on_gpu=is_on_gpu(cut)):
        layers = width * counts.hidden_size * counts.num_layers + a_layer
    moments = 0 if train.optimizer == "adafactor" else 2 if "8bit" in train.optimizer else 8  # bytes of a weight
    weights = {
        "stored": counts.in_memory(cut.dtype),
        # NF4 with double quantisation: 4.127 bits a weight (arXiv:2305.14314)
        "nf4": round(4.127 / 8 * counts.in_layers) + 4 * (counts.parameters - counts.in_layers),
        "float32": 4 * counts.parameters,
    }[method.base]
    return {
        "weights": weights,
        "gradients": 4 * trainable,
        "optimizer": moments * trainable,
        "activations": rows * longest.tokens * layers,
        "logits": (24 if teacher is None else 48) * min(rows * longest.in_loss * counts.vocabulary, 2**25),
        "teacher": 0 if teacher is None else teacher.bytes_in_memory,
    }


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
    if is_on_gpu(cut):
        return train
    free, longest = free_memory(), _longest(train, data)
    takes = _taken(training_parts(cut, teacher, train, longest))
    if takes > free and train.gradient_checkpointing == "auto":
        train = train.replace(gradient_checkpointing="on")
        say(f"gradient checkpointing is on: without it a step takes about {_gb(takes)}, and {_gb(free)} is free")
        takes = _taken(training_parts(cut, teacher, train, longest))
    if takes > free:
        less = "gradient_checkpointing on" if train.gradient_checkpointing == "off" else "a smaller `max_length`"
        if train.micro_batch > 1:
            less = "micro_batch 1"
        say(f"a training step takes about {_gb(takes)}, and {_gb(free)} is free; if the system ends it, give {less}")
    return train


def free_memory() -> int:
    """Bytes that are free: of the machine, or of the container (cgroup v2) where that is less."""
    free: int = psutil.virtual_memory().available
    try:
        most, taken = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        parts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return min(free, most - taken + int(parts.get("inactive_file", 0)))  # pages of files that were read are given back


def training_disk(counts: WeightCounts, train: TrainSettings) -> int:
    """Most bytes on disk while a model is trained and then written, without the model that is written.

    A checkpoint of the training holds the adapter, or all weights of the model, and both moments of AdamW. There are
    three while one is saved.
    """
    method = METHODS[train.method]
    if not method.made_by:
        return 0
    trainable = method.num_trainable(counts, train)
    kept = 4 * (trainable if method.has_adapter else counts.parameters)
    return 3 * (kept + 8 * trainable)


def is_on_gpu(handle: ModelHandle) -> bool:
    """True if the model will run on a CUDA device."""
    return device_type(handle.settings.device) == "cuda"


def has_bfloat16(handle: ModelHandle) -> bool:
    """True if the model will run on a GPU that has it."""
    if not is_on_gpu(handle):
        return False
    import torch

    return bool(torch.cuda.is_bf16_supported())


def _taken(parts: dict[str, int]) -> int:
    return sum(parts[name] for name in OF_A_STEP)


def _longest(train: TrainSettings, data: Data) -> Longest:
    """The longest example; with answers of the pruned model's own, the longest that may be drawn."""
    own = train.rollout_max if train.answers_itself else 0
    examples = (*data.train, *data.held_out)
    tokens = max(len(example.prompt) + max(len(example.completion), own) for example in examples)
    return Longest(min(tokens, train.max_length), max(own, *(len(example.completion) for example in examples)))


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
