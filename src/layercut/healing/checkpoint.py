"""The checkpoint of a healed model: merged weights in a dtype that keeps the training gain, or a PEFT adapter.

Training and folding work in float32; the pruned checkpoint is mostly bfloat16, with 8 bits of mantissa. A weight that
moved by less than half of such a step rounds back, so rounding to the nearest undoes all small updates. The written
weights are therefore reloaded and compared with the trained model: by the logits, and by the loss on held-out examples.
Where rounding to the nearest loses more than ``SHARE`` of the healing gain, or where no loss can tell, weights are
rounded stochastically (up with the probability of the remainder, so updates survive in the mean). Weights keep the
pruned checkpoint's dtype, also where both cost more, which is then recorded; ``save_dtype`` names another dtype. All
losses are computed in float32 arithmetic, as rounded weights run on a CPU.
"""

# Shapes: N tokens in the loss, V vocabulary.

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from layercut.errors import VerificationError
from layercut.healing.examples import Data, TrainingExample, in_loss, padded
from layercut.healing.logits import lazy_logits_in_loss, over_rows
from layercut.healing.methods import MethodRow
from layercut.healing.record import HealingRecord, healed_card
from layercut.healing.trainable import merge_adapters, probe_logits, quantization
from layercut.models.loading import load_model
from layercut.models.placement import give_back_memory
from layercut.models.quiet import quiet_transformers
from layercut.models.sources import ModelSource, describe_source
from layercut.models.weights import EARLIER_PLANS_FILE, PLAN_FILE, read_config, stored_tensors
from layercut.runs.atomic import new_directory, write_json
from layercut.surgery.checkpoint import earlier_plans, files_to_copy, read_plans
from layercut.surgery.config_fields import with_older_fields
from layercut.surgery.cut import with_weights_of
from layercut.surgery.plan import CutPlan
from layercut.surgery.verify import ROUNDING_STEPS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CURVE_FILE = "healing_loss.jsonl"
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def stored_dtype(folder: Path) -> str:
    """The dtype of most numbers of a checkpoint, as torch names it; float32 for any other kind."""
    sizes: Counter[str] = Counter()
    for tensor in stored_tensors(folder):
        sizes[tensor.entry.dtype] += tensor.entry.num_parameters
    return _DTYPES.get(sizes.most_common(1)[0][0], "float32")


class TrainedModel(NamedTuple):
    """The result of training as a whole model."""

    model: PreTrainedModel  # in float32
    checked: str  # how the merge was verified, as text; empty if there was nothing to verify
    judge: Judge | None


def trained_model(cut: ModelSource, final: Path, method: MethodRow, data: Data | None = None) -> TrainedModel:
    """The trained weights as a whole model; VerificationError if the merged model is not the adapter model.

    ``cut`` is the model before training, ``final`` that of ``layercut.healing.sft.Trained``; ``data`` has the examples
    that measure what rounding costs.
    """
    from transformers import AutoModelForCausalLM

    if method.base == "nf4":  # the adapter was trained on weights rounded to 4 bits: round them and return
        with quiet_transformers():
            packed: Any = AutoModelForCausalLM.from_pretrained(cut.path, quantization_config=quantization())
            base: PreTrainedModel = packed.dequantize().float()
    else:
        base = load_model(cut, dtype="float32", device="cpu").model
    judge = None if data is None else judged_by(base, data)
    if method.has_adapter:
        merged = merge_adapters(base, final)
        return TrainedModel(merged.model, merged.describe(), judge)
    del base
    with quiet_transformers():
        whole: Any = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32, device_map="cpu")
    return TrainedModel(whole.eval(), "", judge)


def write_healed(
    model: PreTrainedModel,
    cut: ModelSource,
    *,
    out: Path,
    record: HealingRecord,
    curve: Path | None = None,
    dtype: str = "auto",
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Write the healed model as the pruned one's folder with other weights, complete or not at all.

    Tokenizer, generation config and chat template are copied; ``plan.json`` keeps the cut's plan, and its ``healing``
    list gets an entry, which is returned. The folder is reloaded with plain transformers and compared before it takes
    its name.

    Args:
        model: in float32; afterwards it holds the written weights.
        cut: the model before healing.
        record: for plan.json; its ``checked`` gets what is verified here.
        curve: the loss curve, to be copied.
        dtype: of the weights; auto is that of the pruned checkpoint.
        judge: measures what rounding costs.

    Raises:
        InputError: ``out`` is not empty.
        VerificationError: the reloaded model is another one.
    """
    with new_directory(out) as folder:
        written = write_weights(model, folder, stored=stored_dtype(cut.path), dtype=dtype, judge=judge)
        _copy_files(cut.path, folder)
        record = replace(record, written=written.to_dict(judge))
        return _describe(cut.path, folder, record, written.describe(judge), curve)


def write_adapter(
    cut: ModelSource, final: Path, *, out: Path, record: HealingRecord, curve: Path | None = None
) -> dict[str, Any]:
    """Write the adapters alone, as a PEFT folder that names the pruned model as its base; see ``write_healed``."""
    with new_directory(out) as folder:
        for name in _ADAPTER_FILES:
            shutil.copyfile(final / name, folder / name)
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": cut.name})
        _copy_files(cut.path, folder)
        return _describe(cut.path, folder, record, f"an adapter for {cut.name}, not merged", curve)


def _copy_files(source: Path, folder: Path) -> None:
    for name in files_to_copy(source):
        if name != "README.md":
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    if (source / EARLIER_PLANS_FILE).is_file():
        shutil.copyfile(source / EARLIER_PLANS_FILE, folder / EARLIER_PLANS_FILE)


def _describe(source: Path, folder: Path, record: HealingRecord, checked: str, curve: Path | None) -> dict[str, Any]:
    """Write plan.json, the loss curve and the card; returns the entry of plan.json."""
    record = replace(record, checked=[*record.checked, checked])
    if curve is not None and curve.is_file():
        shutil.copyfile(curve, folder / CURVE_FILE)
        record = replace(record, loss_curve=CURVE_FILE)
    entry = record.to_dict()
    plan = _plan_data(source)
    write_json(folder / PLAN_FILE, plan | {"healing": [*plan.get("healing", []), entry]})
    card = source / "README.md"
    cut_card = card.read_text("utf-8") if card.is_file() and earlier_plans(source) else ""  # the original's is another
    if any(folder.glob("model*.safetensors")):  # none of an adapter
        cut_card = with_weights_of(cut_card, folder)
    (folder / "README.md").write_text(healed_card(cut_card, entry), encoding="utf-8")
    return entry


def _plan_data(source: Path) -> dict[str, Any]:
    """The cut's plan.json with earlier healing entries; for a folder without one, the plan of an original model."""
    if (source / PLAN_FILE).is_file():
        return read_plans(source)[-1]
    metadata = describe_source(ModelSource(name=source.name, path=source))
    return CutPlan(num_layers=metadata.num_layers, model=source.name, model_hash=metadata.model_hash).to_dict()


SHARE = 0.02  # share of the healing gain in loss that rounding may cost
JUDGED = 64  # most examples for measuring the loss: four passes read them, possibly on a CPU
_BATCH = 4
_WEIGHTS = "*.safetensors*"


class Judge(NamedTuple):
    """Examples that measure what rounding costs."""

    examples: list[TrainingExample]
    are_held_out: bool
    before: float  # loss of the pruned model on them before healing, in nats a token

    def costs(self, trained: float, written: float) -> bool:
        """True if rounding lost too much of the gain; true for NaN."""
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
    logit_difference: float  # the largest on random tokens
    trained: float
    written: float  # losses; NaN without examples
    note: str = ""  # the cost of rounding, where it is more than ``SHARE`` of the gain

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


_ROUNDINGS = {"float32": ("none",), "float16": ("nearest",), "bfloat16": ("nearest", "stochastic")}
"""Ways to round to a dtype, in the order in which they are tried; without a judge the last one alone."""
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
    """Write ``model`` and read it back, as ``write_healed`` says.

    ``stored`` is the dtype of the pruned checkpoint. Without a judge, weights are rounded stochastically to bfloat16.
    """
    model.eval()  # type: ignore[no-untyped-call]
    expected = probe_logits(model)
    trained = math.nan if judge is None else mean_loss(model, judge.examples)
    tries: list[Written] = []
    reloaded: Any = None
    dtype = stored if dtype == "auto" else dtype
    roundings = _ROUNDINGS[dtype]
    for rounding in roundings if judge is not None else roundings[-1:]:
        reloaded = None  # frees the one before
        reloaded = _write(model, folder, dtype, rounding)
        loss = math.nan if judge is None else mean_loss(reloaded, judge.examples)
        difference = (probe_logits(reloaded) - expected).abs().max().item()
        tries.append(Written(dtype, rounding, difference, trained, loss))
        if judge is None or not judge.costs(trained, loss):
            break
    result = tries[-1]
    if judge is not None and judge.costs(trained, result.written):  # every rounding costs too much
        result = min(tries, key=lambda written: written.written)
        if result is not tries[-1]:
            reloaded = _write(model, folder, dtype, result.rounding)
    if judge is not None:
        result = result._replace(note=_note(result, tries[0], judge, trained))
    _check(model, reloaded, folder, dtype)
    return result


def _note(result: Written, first: Written, judge: Judge, trained: float) -> str:
    def share(one: Written) -> str:
        gain = judge.before - trained
        return f"{(one.written - trained) / gain:.0%} of what healing gained" if gain > 0 else "more loss"

    if judge.costs(trained, result.written):
        return f"rounding costs {share(result)}; `save_dtype` float32 costs nothing"
    return "" if result.rounding == first.rounding else f"rounding to the nearest would cost {share(first)}"


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
        write_json(folder / "config.json", with_older_fields(read_config(folder)))
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
