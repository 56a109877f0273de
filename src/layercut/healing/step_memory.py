"""What a training takes: the memory of a step, by part, counted without numbers or by a rule of thumb; and the disk."""

from __future__ import annotations

from typing import NamedTuple

from layercut.engine.handle import ModelHandle
from layercut.healing.settings import TrainSettings
from layercut.healing.weight_counts import WeightCounts, dtype_of, weight_counts
from layercut.models.placement import pick_device


class Longest(NamedTuple):
    """The longest example."""

    tokens: int
    in_loss: int
    """Tokens of its answer."""


def training_parts(
    cut: ModelHandle, teacher: ModelHandle | None, train: TrainSettings, longest: Longest
) -> dict[str, int]:
    """Bytes by part when training takes most; by rule of thumb for a model that cannot run without numbers."""
    from layercut.healing.memory import Shape, Where, training_bytes

    batches = train.batches()
    where = Where(
        is_on_gpu(cut), _has_bfloat16(cut), dtype_of(cut), "float32" if teacher is None else dtype_of(teacher)
    )
    try:
        return training_bytes(
            cut.source.path,
            None if teacher is None else teacher.source.path,
            train,
            Shape(batches.micro, longest.tokens, longest.in_loss),
            where,
            accumulation=batches.accumulation * (train.group if train.is_graded else 1),
        )
    except Exception:  # whatever such a model's code does that needs numbers
        return rule_of_thumb(cut, teacher, train, longest)


def rule_of_thumb(
    cut: ModelHandle, teacher: ModelHandle | None, train: TrainSettings, longest: Longest
) -> dict[str, int]:
    """Roughly what ``training_parts`` counts, from the headers of the weights alone."""
    weights, tokens = weight_counts(cut), train.batches().micro * longest.tokens
    trainable = num_trainable(weights, train)
    return {
        "weights": weights.bytes_in_memory if train.method in ("lora", "qlora") else 4 * weights.parameters,
        "gradients": 4 * trainable,
        "optimizer": 8 * trainable,
        # 34 x tokens x hidden size values of two bytes a layer (Korthikanti et al., arXiv:2205.05198)
        "activations": tokens * weights.num_layers * weights.hidden_size * 68,
        "logits": min(tokens * weights.vocabulary, 2**25) * 12,
        "teacher": 0 if teacher is None else weight_counts(teacher).bytes_in_memory,
    }


def num_trainable(weights: WeightCounts, train: TrainSettings) -> int:
    """Number of weights that are trained."""
    if train.method in ("lora", "qlora"):
        return train.rank * weights.adapter_parameters
    if train.method == "full":
        return weights.parameters
    last = weights.layer_parameters * train.last_k // max(weights.num_layers, 1)
    return last + weights.vocabulary * weights.hidden_size


def training_disk(weights: WeightCounts, train: TrainSettings) -> int:
    """Most bytes on disk while a model is trained and then written, without the model that is written.

    A checkpoint of the training holds the adapter, or all weights of the model, and both moments of AdamW. There are
    three while one is saved.
    """
    if train.method == "seam":
        return 0
    trainable = num_trainable(weights, train)
    kept = 4 * (trainable if train.method in ("lora", "qlora") else weights.parameters)
    return 3 * (kept + 8 * trainable)


def is_on_gpu(handle: ModelHandle) -> bool:
    """Whether the model will run on a CUDA device."""
    return pick_device(handle.settings.device).type == "cuda"


def _has_bfloat16(handle: ModelHandle) -> bool:
    import torch

    return is_on_gpu(handle) and torch.cuda.is_bf16_supported()
