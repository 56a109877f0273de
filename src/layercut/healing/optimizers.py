"""Optimizers that take less memory than AdamW on float32 weights, which takes 16 bytes a parameter with gradients.

| weights  | optimizer | bytes a parameter: weight, gradient, moments |
|----------|-----------|----------------------------------------------|
| float32  | adamw     | 4 + 4 + 8                                    |
| float32  | adafactor | 4 + 4 + (a row and a column of each matrix)  |
| bfloat16 | adamw     | 2 + 2 + 4                                    |
| bfloat16 | adafactor | 2 + 2 + (a row and a column of each matrix)  |

A step changes most weights by less than half of bfloat16's spacing, so rounding to the nearest would undo it. Here an
update is computed in float32 and rounded stochastically, so it survives in the mean (Zamirai et al., "Revisiting
BFloat16 Training", arXiv:2010.06192). Draws depend on the seed and the step alone: a resumed training rounds the same
way, and so do all processes of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import Adafactor

from layercut.healing.settings import TrainSettings

CHUNK_SIZE = 2**24
"""Numbers that are updated in float32 at once: 64 MB each for weights, gradients and moments."""


def optimizer_of(settings: TrainSettings) -> tuple[type[Optimizer], dict[str, Any]] | None:
    """The class of the optimizer and its arguments, as the Trainer takes them; None for the Trainer's own."""
    if settings.weights == "float32":
        return None
    shared = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "seed": settings.seed}
    if settings.optimizer == "adamw":
        return RoundedAdamW, shared | {"betas": (settings.beta1, settings.beta2)}
    # The learning rate is that of the schedule.
    return RoundedAdafactor, shared | {"scale_parameter": False, "relative_step": False}


class OptimizerBytes(NamedTuple):
    """Memory of an optimizer."""

    state: int
    """Bytes that it keeps between steps."""
    step: int
    """Bytes of a step that are freed after it."""


def optimizer_bytes(settings: TrainSettings, shapes: Sequence[Sequence[int]], *, on_gpu: bool) -> OptimizerBytes:
    """The memory of the optimizer for trained weights of these shapes, whose gradients exist."""
    sizes = [math.prod(shape) for shape in shapes]
    total, largest = sum(sizes), max(sizes, default=0)
    is_rounded = settings.weights == "bfloat16"
    if settings.optimizer == "adafactor":
        factored = [
            size if len(shape) < 2 else size // shape[-1] + size // shape[-2]
            for size, shape in zip(sizes, shapes, strict=True)
        ]
        # The update and what it is made of; for bfloat16 also the weight and its gradient in float32.
        return OptimizerBytes(4 * sum(factored), (16 if is_rounded else 8) * largest)
    if is_rounded:  # weights, gradients, moments and the roots of a chunk, then the bits of their rounding
        return OptimizerBytes(4 * total, 36 * min(largest, CHUNK_SIZE))
    # The roots of second moments: on a GPU all at once, else of one weight, before and after their correction.
    return OptimizerBytes(8 * total, 4 * total if on_gpu else 8 * largest)


class Rounded(Optimizer):
    """Base of optimizers of bfloat16 weights whose updates are rounded stochastically."""

    def __init__(self, params: Any, *args: Any, seed: int, **kwargs: Any) -> None:
        super().__init__(params, *args, **kwargs)
        for group in self.param_groups:
            group["seed"], group["num_steps"] = seed, 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all weights that have a gradient."""
        result = None if closure is None else closure()
        for index, group in enumerate(self.param_groups):
            group["num_steps"] += 1
            draws: dict[torch.device, torch.Generator] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    if weight.device not in draws:
                        draws[weight.device] = torch.Generator(weight.device)
                        draws[weight.device].manual_seed(group["seed"] + (group["num_steps"] * 64 + index << 32))
                    self._update(weight, group, draws[weight.device])
        return result

    def _update(self, weight: Tensor, group: dict[str, Any], draws: torch.Generator) -> None:
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the state in its own dtype, where torch would give it the dtype of the weights."""
        super().load_state_dict(state_dict)
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for index, saved in state_dict["state"].items():
            for name, value in saved.items():
                if isinstance(value, Tensor):
                    self.state[weights[index]][name] = value.to(weights[index].device, copy=True)


class RoundedAdamW(Rounded):
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101) on bfloat16 weights, with bfloat16 moments.

    Moments are rounded stochastically as well: with beta2 = 0.99 a second moment moves by up to 1 % a step, which is
    close to bfloat16's spacing of 0.4 to 0.8 %.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        seed: int,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, seed=seed)

    def _update(self, weight: Tensor, group: dict[str, Any], draws: torch.Generator) -> None:
        state, (beta1, beta2) = self.state[weight], group["betas"]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
        state["step"] += 1
        rate = group["lr"] / (1 - beta1 ** state["step"])
        correction = (1 - beta2 ** state["step"]) ** 0.5
        assert weight.grad is not None
        for parts in _chunks(weight, weight.grad.contiguous(), state["exp_avg"], state["exp_avg_sq"]):
            weights, gradient, mean, square = (part.float() for part in parts)
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            weights.mul_(1 - group["lr"] * group["weight_decay"])
            weights.addcdiv_(mean, (square.sqrt() / correction).add_(group["eps"]), value=-rate)
            for part, value in zip((parts[0], *parts[2:]), (weights, mean, square), strict=True):
                part.copy_(stochastic_bfloat16(value, draws))


class RoundedAdafactor(Rounded, Adafactor):
    """Adafactor (Shazeer and Stern, arXiv:1804.04235) on bfloat16 weights, with float32 moments."""

    def _update(self, weight: Tensor, group: dict[str, Any], draws: torch.Generator) -> None:
        """Adafactor's own step on this weight alone, in float32 for the moment."""
        groups, kept = self.param_groups, weight.data
        self.param_groups = [{**group, "params": [weight]}]
        weight.data = kept.float()
        try:
            Adafactor.step(self)  # type: ignore[no-untyped-call]
            for part, value in _chunks(kept, weight.data):
                part.copy_(stochastic_bfloat16(value, draws))
        finally:
            weight.data, self.param_groups = kept, groups


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of at most CHUNK_SIZE numbers of tensors of the same shape."""
    return zip(*(torch.split(tensor.view(-1), CHUNK_SIZE) for tensor in tensors), strict=True)


def stochastic_bfloat16(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Float32 as bfloat16, each number rounded up or down at random, up with the probability of its nearness to the
    upper.

    The mean over draws is the number itself, and numbers that bfloat16 represents stay unchanged.
    """
    noise = torch.randint(1 << 16, weights.shape, dtype=torch.int32, generator=generator, device=generator.device)
    noise = noise.to(weights.device)
    bits = weights.float().contiguous().view(torch.int32)
    rounded = ((bits + noise) & -(1 << 16)).view(torch.float32)
    nearest = weights.to(torch.bfloat16)
    return torch.where(rounded.isfinite(), rounded.to(torch.bfloat16), nearest)
