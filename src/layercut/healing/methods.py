"""The methods of healing, which say what weights change, and the objectives of training. A new one is a row and a file.

Nothing that a row names is imported before it is used, so ``--help`` and the checks of a command stay quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from layercut.models.weights import WeightCounts

ADAPTER_RATE = 2e-4  # the paper's (arXiv:2602.01997)
WHOLE_RATE = 1e-5
"""The default for the head and the last layers in the code of "Reassessing Layer Pruning" (arXiv:2411.15558), and the
rate of s1 (arXiv:2501.19393), whose recipe fully fine-tunes pruned models in "Layer Pruning Harms Inference Scaling"
(COLM 2026)."""


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One way to change weights."""

    help: str = ""
    made_by: str | None = None
    """``module:function`` that takes a model and TrainSettings and returns it with gradients; None: nothing is trained,
    the weights are solved for in closed form."""
    num_trainable: Callable[[WeightCounts, Any], int] = lambda counts, train: 0  # number of trained weights
    base: Literal["stored", "nf4", "float32"] = "float32"  # how the model's own weights are in memory
    has_adapter: bool = False  # trains adapters and leaves the model's own weights unchanged
    learning_rate: float = WHOLE_RATE  # the default
    takes: tuple[str, ...] = ()  # training settings without effect for methods that do not list them
    is_distributed: bool = True  # several processes can train one model


def _num_last_k(counts: WeightCounts, train: Any) -> int:
    last: int = counts.in_layers * train.last_k // max(counts.num_layers, 1)
    return last + counts.vocabulary * counts.hidden_size


_ADAPTERS: dict[str, Any] = {
    "made_by": "layercut.healing.trainable:add_adapters",
    "num_trainable": lambda counts, train: train.rank * counts.of_adapters,
    "has_adapter": True,
    "learning_rate": ADAPTER_RATE,
    "takes": ("rank", "alpha", "dropout"),
}
METHODS = {
    "lora": MethodRow(base="stored", **_ADAPTERS),
    "qlora": MethodRow(help="4-bit base", base="nf4", is_distributed=False, **_ADAPTERS),
    "full": MethodRow(
        made_by="layercut.healing.trainable:train_all",
        num_trainable=lambda counts, train: counts.parameters,
    ),
    "last-k": MethodRow(
        help="the head and the last layers",
        made_by="layercut.healing.trainable:train_last",
        num_trainable=_num_last_k,
        takes=("last_k",),
    ),
    "seam": MethodRow(help="which trains nothing", learning_rate=ADAPTER_RATE, is_distributed=False),
}
"""By name; the first is the default. ``seam`` solves for a linear map at each cut."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveRow:
    """One loss of training."""

    help: str = ""
    trainer: str  # ``module:class`` of a trainer, whose ``options`` gives from Material what its constructor needs
    divergence: Literal["forward-kl", "reverse-kl"] | None = None
    """From the distributions of the original model, which is in memory while the pruned one is trained."""
    answers_itself: bool = False  # the pruned model answers the prompts while it is trained
    is_graded: bool = False  # by the grades of these answers
    takes: tuple[str, ...] = ()  # training settings without effect for objectives that do not list them


OBJECTIVES = {
    "sft": ObjectiveRow(help="the answers' tokens", trainer="layercut.healing.sft:HealingTrainer"),
    "forward-kl": ObjectiveRow(trainer="layercut.healing.distill:DistillTrainer", divergence="forward-kl"),
    "reverse-kl": ObjectiveRow(trainer="layercut.healing.distill:DistillTrainer", divergence="reverse-kl"),
    "on-policy": ObjectiveRow(
        trainer="layercut.healing.on_policy:OnPolicyTrainer",
        divergence="reverse-kl",
        answers_itself=True,
        takes=("rollout_start", "rollout_max"),
    ),
    "grpo": ObjectiveRow(
        help="grades of own answers, by TRL's trainer; prompts of tasks; a run that was stopped goes on, to other "
        "weights than without",
        trainer="layercut.healing.grpo:GrpoTrainer",
        answers_itself=True,
        is_graded=True,
        takes=("rollout_max", "group"),
    ),
}
"""By name; the first is the default."""


def named_in(path: str) -> Any:
    """The function or class of a row's ``module:name``."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def unused_settings(rows: Mapping[str, MethodRow] | Mapping[str, ObjectiveRow], chosen: str) -> set[str]:
    """Settings that belong to other rows than the chosen one."""
    return {name for row in rows.values() for name in row.takes} - set(rows[chosen].takes)


def explain(rows: Mapping[str, MethodRow] | Mapping[str, ObjectiveRow]) -> list[str]:
    """Each name, with its help in brackets."""
    return [f"{name} ({row.help})" if row.help else name for name, row in rows.items()]
