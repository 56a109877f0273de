"""Settings of healing, and the tables of its methods and objectives.

A method says what weights change, an objective what training minimises. A new one is a row and a file; nothing that a
row names is imported before it is used, so ``--help`` and the checks of a command stay quick. The defaults of training
are the paper's (arXiv:2602.01997), as its code effectively ran.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from layercut.base_settings import Names, Number, Seed, Settings, Share, one_of
from layercut.errors import InputError

if TYPE_CHECKING:
    from layercut.models.weights import WeightCounts

ADAPTER_RATE = 2e-4  # the paper's
WHOLE_RATE = 1e-5
"""The default for the head and the last layers in the code of "Reassessing Layer Pruning" (arXiv:2411.15558), and the
rate of s1 (arXiv:2501.19393), whose recipe fully fine-tunes pruned models in "Layer Pruning Harms Inference Scaling"
(COLM 2026)."""
SAVED_AS = ("auto", "float32", "bfloat16", "float16")
RESPONSES = ("self", "original")
"""Whose answers are trained on: the teacher's own, or those that the data set gives with the prompts."""
SEAMS = ("linear", "projection")
"""Kinds of repair at each cut: a map of what the MLP below adds, or its last matrix."""
BETAS = {"beta1": 0.9, "beta2": 0.99}  # of AdamW
SYSTEM = "You are a helpful assistant."  # the paper's system prompt for self-generated answers


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One way to change weights."""

    help: str = ""
    made_by: str | None = None
    """``module:function`` that takes a model and TrainSettings and returns it with gradients."""
    repairs: str | None = None
    """``module:function`` that solves for weights in closed form, in place of training: ``repair_seams``."""
    num_trainable: Callable[[WeightCounts, Any], int] = lambda counts, train: 0  # number of trained weights
    base: Literal["stored", "nf4", "float32"] = "float32"  # how the model's own weights are in memory
    has_adapter: bool = False  # trains adapters and leaves the model's own weights unchanged
    learning_rate: float = WHOLE_RATE  # the default
    takes: tuple[str, ...] = ()  # training settings without effect for methods that do not list them
    is_distributed: bool = True  # several processes can train one model


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
        made_by="layercut.healing.trainable:train_all", num_trainable=lambda counts, train: counts.parameters
    ),
    "last-k": MethodRow(
        help="the head and the last layers",
        made_by="layercut.healing.trainable:train_last",
        num_trainable=lambda counts, train: (
            counts.in_layers * train.last_k // max(counts.num_layers, 1) + counts.vocabulary * counts.hidden_size
        ),
        takes=("last_k",),
    ),
    "seam": MethodRow(
        repairs="layercut.healing.seam:repair_seams", learning_rate=ADAPTER_RATE, takes=("seam",), is_distributed=False
    ),
}
"""By name; the first is the default. ``seam`` solves for a linear map at each cut."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveRow:
    """One loss of training."""

    help: str = ""
    trainer: str  # ``module:class`` of a trainer, whose ``options`` gives what its constructor needs
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
        trainer="layercut.healing.distill:OnPolicyTrainer",
        divergence="reverse-kl",
        answers_itself=True,
        takes=("rollout_max",),
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


def load_by_name(path: str) -> Any:
    """The function or class of a row's ``module:name``."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _explain(rows: Mapping[str, Any]) -> list[str]:
    return [f"{name} ({row.help})" if row.help else name for name, row in rows.items()]


def num_held_out(count: int, share: float) -> int:
    """Number of ``count`` examples that are held out: at least one if the share is above 0 and there are two."""
    return min(max(round(share * count), 1), count - 1) if share and count else 0


class TrainSettings(Settings):
    """Settings of training a pruned model."""

    method: Annotated[str, one_of(METHODS)] = Field(
        next(iter(METHODS)),
        description=", ".join(_explain(METHODS)[:-1]) + f"; or {list(METHODS)[-1]}, which trains nothing.",
    )
    objective: Annotated[str, one_of(OBJECTIVES)] = Field(
        next(iter(OBJECTIVES)), description=f"{', '.join(_explain(OBJECTIVES)[:-1])}, or {_explain(OBJECTIVES)[-1]}."
    )
    rank: int = Field(64, ge=1, description="Rank of the LoRA adapters.")
    """The paper's code asks for 16, which its trainer silently turns into 64."""
    alpha: int = Field(16, ge=1, description="LoRA alpha; updates are scaled by alpha / rank.")
    dropout: Share = Field(0.05, ge=0, lt=1, description="Dropout before the adapters, in training.")
    last_k: int = Field(3, ge=1, description="last-k: number of last layers to train, with the head.")
    """ "Reassessing Layer Pruning", arXiv:2411.15558."""
    learning_rate: Number | None = Field(
        None, description="Learning rate after the warm-up; by default 1e-5 for full and last-k, else 2e-4."
    )
    """A number once the settings are made."""
    schedule: Annotated[str, one_of(("constant", "linear", "cosine"))] = Field(
        "constant", description="Learning rate after the warm-up: constant, or linear or cosine down to 0."
    )
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    optimizer: str = Field(
        "adamw_torch",
        description="One of transformers' optimizers: adamw_torch, adafactor (a row and a column of moments for each "
        "matrix), adamw_bnb_8bit (bitsandbytes), adamw_torch_8bit (torchao), ...",
    )
    weight_decay: Number = Field(1e-4, description="Weight decay of the optimizer.")
    max_grad_norm: Number = Field(1.0, description="Gradients with a larger norm are scaled down to this.")
    batch_size: int = Field(8, ge=1, description="Examples per step, over all devices and accumulation.")
    micro_batch: int = Field(4, ge=1, description="Examples per pass of a device; a batch is accumulated from these.")
    epochs: Number = Field(1.0, description="Passes over the examples.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many steps, even within the epochs.")
    max_length: int = Field(8000, ge=2, description="Drop examples of more tokens, prompt and answer together.")
    precision: Annotated[str, one_of(("auto", "float32", "bfloat16"))] = Field(
        "auto",
        description="Products in float32, or bfloat16 (weights and sums stay in float32); auto: bfloat16 on a GPU that "
        "has it.",
    )
    """Many CPUs are slower with bfloat16, some faster."""
    gradient_checkpointing: Annotated[str, one_of(("auto", "on", "off"))] = Field(
        "auto",
        description="Keep only the inputs of layers and compute the rest again in the backward pass: on, off; auto: on "
        "a GPU.",
    )
    held_out: Share = Field(
        0.1, ge=0, lt=1, description="Share of the examples for evaluation, which are never trained on."
    )
    save_every: int = Field(
        100, ge=1, description="Steps between checkpoints, and between evaluations of the held-out loss."
    )
    patience: int = Field(
        3,
        ge=0,
        description="Stop after this many evaluations without a better held-out loss, and keep the best; 0: never.",
    )
    rollout_max: int = Field(
        512,
        ge=1,
        description="on-policy: last limit of the model's own answers; from 32 tokens it doubles while they do not "
        "repeat. grpo: their limit where the task's own is higher.",
    )
    group: int = Field(8, ge=2, description="grpo: answers to each prompt, which are graded against each other.")
    seam: Annotated[str, one_of(SEAMS)] = Field(
        "linear", description="seam: linear (a map), or projection (the last matrix of the MLPs next to the cut)."
    )
    seed: Seed = Field(42, description="Random seed.")
    report_to: Names = Field((), description="Trackers of the Hugging Face Trainer: tensorboard, wandb, ...")

    @model_validator(mode="after")
    def _rate_of_the_method(self) -> Self:
        """A rate that is left out is the method's, and stays left out in ``given`` and ``replace``."""
        if self.learning_rate is None:
            self.__dict__["learning_rate"] = METHODS[self.method].learning_rate
            self.model_fields_set.discard("learning_rate")
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        if METHODS[self.method].repairs and self.objective != next(iter(OBJECTIVES)):
            raise InputError(f"the method {self.method} trains nothing, so leave out {self.objective}.")
        return self

    @property
    def goal(self) -> ObjectiveRow:
        """The row of its objective."""
        return OBJECTIVES[self.objective]

    def in_effect(self) -> dict[str, Any]:
        """The settings that had an effect."""
        unused = {"report_to"}
        for rows, chosen in ((METHODS, self.method), (OBJECTIVES, self.objective)):
            unused |= {name for row in rows.values() for name in row.takes} - {*rows[chosen].takes}
        return {name: value for name, value in self.as_dict().items() if name not in unused} | BETAS

    def checkpoints(self, *, on_gpu: bool) -> bool:
        """True if only the inputs of layers are kept for the backward pass."""
        return on_gpu if self.gradient_checkpointing == "auto" else self.gradient_checkpointing == "on"

    def autocasts(self, *, has_bfloat16: bool) -> bool:
        """True if weights are multiplied in bfloat16; ``has_bfloat16``: there is a GPU, and it has bfloat16."""
        return self.precision == "bfloat16" or (self.precision == "auto" and has_bfloat16)

    def num_steps(self, num_examples: int) -> int:
        """Optimiser steps on this many training examples, unless training stops early."""
        return self.max_steps or max(1, math.ceil(self.epochs * num_examples / self.batch_size))

    def batches(self, num_processes: int = 1) -> tuple[int, int]:
        """Examples of a micro batch, and how many are accumulated in a process for a step.

        InputError if the micro batches of all processes do not divide the step's examples.
        """
        micro = min(self.micro_batch, max(1, self.batch_size // num_processes))
        if self.batch_size % (micro * num_processes):
            processes = f" in each of {num_processes} processes" if num_processes > 1 else ""
            raise InputError(
                f"batch_size {self.batch_size} is no multiple of micro_batch {micro}{processes}; choose one that is."
            )
        return micro, self.batch_size // (micro * num_processes)


class ArmSettings(Settings):
    """Settings that a single healing and an arm of a study share, beside models, prompts, training and filters."""

    responses: Annotated[str, one_of(RESPONSES)] = Field(
        RESPONSES[0], description="self: the teacher's own answers; original: the data set's answers."
    )
    decontaminate: Names = Field(
        (),
        description="Tasks whose report items must not be trained on, in addition to the built-in ones and those with "
        "data.",
    )
    save_dtype: Annotated[str, one_of(SAVED_AS)] = Field(
        "auto",
        description="Dtype of the healed weights: float32, bfloat16, float16; auto: that of the pruned checkpoint.",
    )


class FilterSettings(Settings):
    """Rules that an answer must meet, beside its length (``max_length`` of training)."""

    finished_only: bool = Field(
        True, description="Drop answers that ran into the length limit: they would teach the model not to stop."
    )
    right_only: bool = Field(
        False, description="Drop answers that the task's grader finds wrong; answers that nothing grades stay."
    )


class HealSettings(ArmSettings):
    """All settings of a healing, beside the models and prompts."""

    train: TrainSettings = TrainSettings()
    filters: FilterSettings = FilterSettings()
    data: Mapping[str, str] = Field({}, description="Local data of the tasks to decontaminate from.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.train.goal.is_graded and self.filters.right_only:
            raise InputError("grpo trains on its own answers, so right_only has no meaning; leave it out.")
        return self

    @property
    def asks_teacher(self) -> bool:
        """True if the original model answers the prompts."""
        return not self.train.goal.is_graded and self.responses == "self"
