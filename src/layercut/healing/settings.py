"""Settings of healing. The defaults of training are the paper's (arXiv:2602.01997), as its code effectively ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from layercut.errors import InputError, unknown
from layercut.seed import check_seed

METHODS = ("lora", "qlora", "full", "last-k", "seam")
"""Which weights change. ``seam`` trains nothing: it solves for a linear map at each cut."""
SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("auto", "float32", "bfloat16")
SAVED_AS = ("auto", "float32", "bfloat16", "float16")
OBJECTIVES = ("sft", "forward-kl", "reverse-kl", "jsd", "hidden", "on-policy")
"""What is learnt: the answers' tokens, or the teacher's distributions on them (``hidden``: and its hidden states), or
its distributions on the cut model's own answers."""
SEAMS = ("linear", "orthogonal", "scale", "magnitude")
"""What ``seam`` does at each cut: a map of what the MLP below adds, or a factor for the whole stream."""
SYSTEM = "You are a helpful assistant."
"""The paper's system prompt for self-generated answers."""


class Batches(NamedTuple):
    """A step, as one process sees it."""

    micro: int
    """Examples at once."""
    accumulation: int
    """Micro batches a step."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a cut model is trained."""

    method: str = "lora"
    """lora, qlora (4-bit base), full, or last-k (the head and the last layers)."""
    objective: str = "sft"
    """sft, forward-kl, reverse-kl, jsd, hidden or on-policy."""
    rank: int = 64
    """Of the LoRA adapters. The paper's code asks for 16, which its trainer silently turns into 64."""
    alpha: int = 16
    """LoRA's scale is alpha / rank."""
    dropout: float = 0.05
    """Before the adapters, while training."""
    last_k: int = 3
    """Layers at the end that ``last-k`` trains, with the head ("Reassessing Layer Pruning", 2411.15558)."""
    learning_rate: float = 2e-4
    schedule: str = "constant"
    """Of the learning rate after the warm-up: constant, or down to 0 at the end of training, linear or as a cosine."""
    warmup_steps: int = 50
    """Linear warm-up."""
    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    """Of AdamW."""
    max_grad_norm: float = 1.0
    batch_size: int = 8
    """Examples a step, over all devices and accumulation."""
    micro_batch: int = 4
    """Examples at once on a device; the rest of a batch is accumulated."""
    packing: bool = False
    """Lay the examples of a micro batch one behind the other, without padding; attention stays within an example."""
    epochs: float = 1.0
    max_steps: int | None = None
    """Stop after so many steps, whatever the epochs."""
    max_length: int = 8192
    """Longest example in tokens; longer ones are left out."""
    precision: str = "auto"
    """Of products in training: float32, bfloat16 (weights and sums stay in float32), or auto: bfloat16 on a GPU that
    has it. Many CPUs are slower with it, some faster."""
    held_out: float = 0.1
    """Share of the examples that judge and are never learnt from."""
    save_every: int = 100
    """Steps between checkpoints, and between looks at the held-out loss."""
    patience: int = 3
    """Stop after so many looks without a better held-out loss, and keep the best; 0 never stops early."""
    graded: int = 0
    """Held-out questions of each task that are answered at every look; how many come right stands in the loss curve."""
    jsd_alpha: float = 0.5
    """Weight of the teacher in the mixture of JSD and on-policy distillation."""
    rollout_start: int = 32
    """On-policy: longest answer of the cut model at first, in tokens."""
    rollout_max: int = 512
    """On-policy: longest answer at last. The limit doubles whenever answers repeat themselves little."""
    drift_overlap: float = 0.3
    """On-policy: share of the two models' 16 likeliest tokens that must be the same, over the last 16 tokens; below it
    the rest of an answer counts less, below half of it not at all. 0: everything counts."""
    hidden_weight: float = 1.0
    """hidden: weight of the hidden states' distance beside the forward KL."""
    store_top_k: int | None = None
    """forward-kl: work out the teacher's so many likeliest tokens once and keep them on disk; if None, its whole
    distributions are worked out as they are needed."""
    seam: str = "linear"
    """What ``seam`` solves for: a linear or orthogonal map, a scale for each channel, or the stream's magnitude."""
    seed: int = 42
    report_to: tuple[str, ...] = ()
    """Trackers of the Hugging Face Trainer: tensorboard, wandb, ..."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if self.objective not in OBJECTIVES:
            raise unknown("objective", self.objective, OBJECTIVES)
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        check_seed(self.seed)
        if self.graded and not self.held_out:
            raise InputError("graded questions are held-out ones, and held_out is 0; hold some out.")
        if self.method == "seam" and self.objective != "sft":
            raise InputError(f"the method seam trains nothing, so {self.objective} has no meaning; leave it out.")
        if self.seam not in SEAMS:
            raise unknown("seam repair", self.seam, SEAMS)
        for name in ("rank", "alpha", "last_k", "batch_size", "micro_batch", "save_every", "rollout_start"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)} is too small; use 1 or more.")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out {self.held_out} leaves nothing to learn from; write a share below 1.")
        if not 0 < self.jsd_alpha < 1:
            raise InputError(f"jsd_alpha {self.jsd_alpha} is no mixture; write a number between 0 and 1.")
        if not 0 <= self.drift_overlap <= 1:
            raise InputError(f"drift_overlap {self.drift_overlap} is no share; write a number from 0 to 1.")
        if self.hidden_weight < 0:
            raise InputError(f"hidden_weight {self.hidden_weight} is below 0; write 0 or more.")
        if self.store_top_k is not None and self.store_top_k < 1:
            raise InputError(f"store_top_k {self.store_top_k} is too small; use 1 or more.")
        if self.store_top_k is not None and self.objective != "forward-kl":
            raise InputError(
                f"the likeliest tokens alone do not give {self.objective}; say --objective forward-kl, or leave out "
                "--store-top-k."
            )
        if self.rollout_max < self.rollout_start:
            raise InputError(f"rollout_max {self.rollout_max} is below rollout_start {self.rollout_start}; raise it.")

    def batches(self, num_processes: int = 1) -> Batches:
        """How a step's examples are spread over processes and time.

        Raises:
            InputError: the batch is no multiple of the micro batches of all processes.
        """
        micro = min(self.micro_batch, max(1, self.batch_size // num_processes))
        if self.batch_size % (micro * num_processes):
            processes = f" in each of {num_processes} processes" if num_processes > 1 else ""
            raise InputError(
                f"batch_size {self.batch_size} is no multiple of micro_batch {micro}{processes}; choose one that is."
            )
        return Batches(micro, self.batch_size // (micro * num_processes))
