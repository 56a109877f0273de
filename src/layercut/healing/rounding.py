"""Write trained weights in a dtype that keeps the training gain.

Training and folding work in float32; the pruned checkpoint is mostly bfloat16, with 8 bits of mantissa. A weight that
moved by less than half of such a step rounds back, so rounding to the nearest undoes all small updates. The written
weights are therefore reloaded and compared with the trained model: by the logits, and by the loss on held-out examples.
Where rounding to the nearest loses more than ``SHARE`` of the healing gain, weights are rounded stochastically (up with
the probability of the remainder, so updates survive in the mean). Where that loses as much, they are written in
float32. All losses are computed in float32 arithmetic, as rounded weights run on a CPU.
"""

# Shapes: N tokens in the loss, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from layercut.errors import VerificationError
from layercut.healing.adapters import probe_logits
from layercut.healing.batches import in_loss, padded
from layercut.healing.examples import Data, TrainingExample
from layercut.healing.logits import lazy_logits_in_loss, over_rows
from layercut.models.placement import give_back_memory
from layercut.models.quiet import quiet_transformers
from layercut.surgery.verify import ROUNDING_STEPS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE = 0.02
"""Share of the healing gain in loss that rounding may cost."""
JUDGED = 64
"""Most examples for measuring the loss: four passes read them, possibly on a CPU."""
_BATCH = 4
_WEIGHTS = "*.safetensors*"


class Judge(NamedTuple):
    """Examples that measure what rounding costs."""

    examples: list[TrainingExample]
    are_held_out: bool
    before: float
    """Loss of the pruned model on them before healing, in nats a token."""

    def costs(self, trained: float, written: float) -> bool:
        """Whether rounding lost too much of the gain; true for NaN."""
        return not written - trained <= SHARE * max(self.before - trained, 0.0)

    def describe(self, trained: float, written: float) -> str:
        """One line for people."""
        where = f"{'held-out' if self.are_held_out else 'training'} example{'s' * (len(self.examples) != 1)}"
        return (
            f"loss on {len(self.examples)} {where} before healing {self.before:.4f}, trained {trained:.4f}, "
            f"written {written:.4f}"
        )


class Written(NamedTuple):
    """The weights on disk, compared with the trained ones."""

    dtype: str
    rounding: str
    logit_difference: float
    """The largest on random tokens."""
    trained: float
    written: float
    """Losses; NaN without examples."""
    note: str = ""
    """Why the dtype is not the pruned checkpoint's, or what it costs."""

    def to_dict(self, judge: Judge | None) -> dict[str, Any]:
        """For plan.json."""
        metadata = {"dtype": self.dtype, "rounding": self.rounding, "logit_difference": self.logit_difference}
        if judge is None:
            return metadata
        losses = {"before": judge.before, "trained": self.trained, "written": self.written}
        on = {"n": len(judge.examples), "held_out": judge.are_held_out}
        return metadata | {"loss": {name: value for name, value in losses.items() if value == value} | on}

    def describe(self, judge: Judge | None) -> str:
        how = "" if self.rounding == "none" else f", rounded {_WORDS[self.rounding]}"
        text = f"written in {self.dtype}{how}: a logit differs from the trained model's by at most "
        text += f"{self.logit_difference:.2g}"
        if judge is not None:
            text += f"; {judge.describe(self.trained, self.written)}"
        return text + (f"; {self.note}" if self.note else "")


_WORDS = {"nearest": "to the nearest", "stochastic": "stochastically"}


def judged_by(model: Any, data: Data) -> Judge:
    """The judge for a healing of ``model``, the untrained pruned one, on held-out examples, or else training ones."""
    examples = (data.held_out or data.train)[:JUDGED]
    return Judge(examples, bool(data.held_out), mean_loss(model, examples))


@torch.no_grad()
def mean_loss(model: Any, examples: Sequence[TrainingExample]) -> float:
    """Mean negative log-likelihood of the completions' tokens, in nats. All tokens have the same weight."""
    total, count = 0.0, 0
    ordered = sorted(examples, key=len)
    for start in range(0, len(ordered), _BATCH):
        batch = {name: ids.to(model.device) for name, ids in padded(ordered[start : start + _BATCH]).items()}
        targets_N = batch["labels"][:, 1:][in_loss(batch)]
        sums = over_rows(_sum_of_losses, lazy_logits_in_loss(model, batch), rows=[targets_N])
        total += sums.double().sum().item()
        count += len(targets_N)
    return total / max(count, 1)


def _sum_of_losses(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    """(1,)"""
    return cross_entropy(logits_CV.float(), targets_C, reduction="sum")[None]


def write_weights(
    model: PreTrainedModel, folder: Path, *, stored: str, dtype: str = "auto", judge: Judge | None = None
) -> Written:
    """Write ``model`` and read it back.

    Args:
        model: the trained model in float32. Afterwards it holds the written weights.
        folder: for config and weights.
        stored: dtype of the pruned checkpoint.
        dtype: of the written weights; auto is ``stored``, or float32 where rounding to it costs too much.
        judge: measures what rounding costs; without one, weights are rounded to the nearest.

    Raises:
        VerificationError: the model on disk is another one.
    """
    model.eval()  # type: ignore[no-untyped-call]
    expected = probe_logits(model)
    trained = math.nan if judge is None else mean_loss(model, judge.examples)
    wanted = stored if dtype == "auto" else dtype
    tries = _tries(wanted, dtype == "auto" and judge is not None, is_judged=judge is not None)
    found: list[Written] = []
    again: Any = None
    for name, rounding in tries:
        again = None  # frees the one before
        again = _write(model, folder, name, rounding)
        loss = math.nan if judge is None else mean_loss(again, judge.examples)
        found.append(Written(name, rounding, (probe_logits(again) - expected).abs().max().item(), trained, loss))
        if judge is None or not judge.costs(trained, loss):
            break
    else:
        if len(found) > 1 and found[-1].dtype != "float32":  # all cost too much, and the user wants this dtype
            best = min(found, key=lambda one: one.written)
            if best is not found[-1]:
                again = _write(model, folder, best.dtype, best.rounding)
            found.append(best)
    result = found[-1]
    if judge is not None:
        result = result._replace(note=_note(result, found[0], judge, trained))
    _check(model, again, folder, result.dtype)
    return result


def _tries(wanted: str, falls_back: bool, *, is_judged: bool) -> list[tuple[str, str]]:
    """Dtypes and roundings, in the order in which they are tried."""
    if wanted == "float32":
        return [("float32", "none")]
    tries = [(wanted, "nearest")]
    if is_judged and wanted == "bfloat16":
        tries.append((wanted, "stochastic"))
    return [*tries, ("float32", "none")] if falls_back else tries


def _note(result: Written, first: Written, judge: Judge, trained: float) -> str:
    def share(one: Written) -> str:
        gain = judge.before - trained
        return f"{(one.written - trained) / gain:.0%} of what healing gained" if gain > 0 else "more loss"

    if result.dtype != first.dtype:
        return f"{first.dtype} would cost {share(first)}; `save_dtype` {first.dtype} takes it all the same"
    if result.rounding != first.rounding:
        return f"rounding to the nearest would cost {share(first)}"
    if judge.costs(trained, result.written):
        return f"rounding costs {share(result)}; `save_dtype` float32 costs nothing"
    return ""


def _write(model: Any, folder: Path, dtype: str, rounding: str) -> Any:
    """Write the weights in a dtype, and read them back in float32."""
    from transformers import AutoModelForCausalLM

    for file in folder.glob(_WEIGHTS):
        file.unlink()
    target = getattr(torch, dtype)
    kept = [parameter.data for parameter in model.parameters()]
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in model.parameters():  # not model.to, which would round the rotary frequencies too
            parameter.data = (
                stochastic_bfloat16(parameter.data, generator)
                if rounding == "stochastic"
                else parameter.data.to(target)
            )
        model.config.dtype = target
        with quiet_transformers():
            model.save_pretrained(folder, max_shard_size="5GB")
    finally:
        for parameter, value in zip(model.parameters(), kept, strict=True):
            parameter.data = value
    give_back_memory()
    with quiet_transformers():
        again: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, device_map=model.device, local_files_only=True
        )
    return again.eval()


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


@torch.no_grad()
def _check(model: Any, again: Any, folder: Path, dtype: str) -> None:
    """Compare every weight with the trained one, within one rounding step, and the logits of both models."""
    read, step = dict(again.named_parameters()), torch.finfo(getattr(torch, dtype))
    for name, parameter in model.named_parameters():
        value = read.get(name)
        if value is None or value.shape != parameter.shape:
            raise VerificationError(f"{folder} is not the healed model: {name} is missing after reloading.")
        far = (value - parameter.data.float()).abs() > step.eps * parameter.data.float().abs() + step.tiny
        if far.any() or not value.isfinite().all():
            raise VerificationError(f"{folder} is not the healed model: {name} is another one after reloading.")
        parameter.data = value.data
    expected = probe_logits(model)
    difference = (probe_logits(again) - expected).abs().max().item()
    tolerance = ROUNDING_STEPS * torch.finfo(torch.float32).eps * max(1.0, expected.abs().max().item())
    if not difference <= tolerance:
        raise VerificationError(f"{folder} is not the healed model: a logit differs by {difference:g} after reloading.")
