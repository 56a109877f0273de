"""The checkpoint of a healed model: merged weights in a dtype that keeps the training gain.

A weight that moved by less than half a step of bfloat16 rounds back, so rounding to the nearest undoes small updates.
Written weights are therefore reloaded and compared with the trained model, by the logits and by the loss on held-out
examples, in float32. Where rounding to the nearest loses more than ``SHARE`` of the healing gain, or where no loss can
tell, it is stochastic: up with the probability of the remainder, so updates survive in the mean.
"""

# Shapes: N tokens in the loss, V vocabulary.

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from layercut.errors import VerificationError
from layercut.healing.examples import Data, TrainingExample, lazy_logits_in_loss, mask_of_loss, over_rows, pad_examples
from layercut.healing.settings import METHODS, HealSettings
from layercut.healing.trainable import merge_adapters, nf4_quantization, probe_logits
from layercut.models.loading import load_model
from layercut.models.placement import give_back_memory
from layercut.models.quiet import quiet_transformers
from layercut.models.sources import ModelSource, describe_source
from layercut.models.weights import EARLIER_PLANS_FILE, PLAN_FILE, read_config, stored_tensors
from layercut.progress import Say
from layercut.runs.atomic import new_directory, write_json
from layercut.runs.healing import healing_lines
from layercut.surgery.checkpoint import earlier_plans, files_to_copy, recorded_plans_of
from layercut.surgery.config_fields import with_older_fields
from layercut.surgery.cut import UNMEASURED, with_weights_of
from layercut.surgery.plan import CutPlan
from layercut.surgery.verify import ROUNDING_STEPS
from layercut.text import count_of, escaped_markdown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNTRAINED = "Nothing was trained after the cut."  # a line in the card of a pruned model
SHARE = 0.02  # share of the healing gain in loss that rounding may cost
JUDGED = 64  # most examples for measuring the loss: four passes read them, possibly on a CPU
ROUNDINGS = {"float32": ("none",), "float16": ("nearest",), "bfloat16": ("nearest", "stochastic")}
"""Ways to round to a dtype, in the order in which they are tried; without a judge the last one alone."""
_WORDS = {"none": "", "nearest": ", rounded to the nearest", "stochastic": ", rounded stochastically"}
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_BATCH = 4


def write_trained(
    cut: ModelSource,
    final: Path,
    settings: HealSettings,
    data: Data,
    *,
    out: Path,
    record: Mapping[str, Any],
    say: Say,
) -> None:
    """Write trained weights, adapters merged; ``cut`` is the model before training.

    Raises VerificationError: the merged model is not the adapter model, and as ``write_healed``.
    """
    say("folding in, writing and comparing with the trained model ...")
    from transformers import AutoModelForCausalLM

    method, judge, checked = METHODS[settings.train.method], None, []
    if method.base == "nf4":  # the adapter was trained on weights rounded to 4 bits: round them and return
        with quiet_transformers():
            packed: Any = AutoModelForCausalLM.from_pretrained(cut.path, quantization_config=nf4_quantization())
            model: Any = packed.dequantize().float()
    else:
        model = load_model(cut, dtype="float32", device="cpu").model
    if not settings.train.goal.is_graded:  # a loss on given answers cannot say what rounding costs
        judge = judge_of_rounding(model, data)
    if method.has_adapter:
        model, compared = merge_adapters(model, final)
        checked = [compared]
    else:
        del model
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32, device_map="cpu")
    record = {**record, "checked": checked}
    write_healed(model.eval(), cut, out=out, record=record, dtype=settings.save_dtype, judge=judge)


def write_healed(
    model: PreTrainedModel,
    cut: ModelSource,
    *,
    out: Path,
    record: Mapping[str, Any],
    dtype: str = "auto",
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Write the healed model as the pruned one's folder with other weights, complete or not at all.

    ``plan.json`` keeps the cut's plan, and its ``healing`` list gets the entry, ``record`` with more, which is
    returned. The folder is reloaded with plain transformers and compared before it takes its name.

    Args:
        model: in float32; afterwards it holds the written weights.
        judge: measures what rounding costs. Without one, weights are rounded stochastically to bfloat16.

    Raises VerificationError: the reloaded model is another one.
    """
    with new_directory(out) as folder:
        dtype = stored_dtype(cut.path) if dtype == "auto" else dtype
        written, line = _write_weights(model, folder, dtype, judge)
        checked = [*record.get("checked", ()), line]
        return _complete(cut.path, folder, {**record, "checked": checked, "written": written})


def stored_dtype(folder: Path) -> str:
    """The dtype of most numbers of a checkpoint, as torch names it; float32 for any other kind."""
    sizes: Counter[str] = Counter()
    for tensor in stored_tensors(folder):
        sizes[tensor.dtype] += tensor.num_parameters
    return _DTYPES.get(sizes.most_common(1)[0][0], "float32")


def _complete(source: Path, folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Copy what the pruned checkpoint has beside its weights, and write plan.json and the card."""
    copied = [name for name in files_to_copy(source) if name != "README.md"]
    for name in [*copied, *([EARLIER_PLANS_FILE] if (source / EARLIER_PLANS_FILE).is_file() else [])]:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    if (source / PLAN_FILE).is_file():
        plan = recorded_plans_of(source)[-1]
    else:  # the original model
        metadata = describe_source(ModelSource(name=source.name, path=source))
        plan = CutPlan(num_layers=metadata.num_layers, model=source.name, model_hash=metadata.model_hash).to_dict()
    write_json(folder / PLAN_FILE, plan | {"healing": [*plan.get("healing", []), entry]})
    card = source / "README.md"
    cut_card = card.read_text("utf-8") if card.is_file() and earlier_plans(source) else ""  # the original's is another
    (folder / "README.md").write_text(healed_card(with_weights_of(cut_card, folder), entry), encoding="utf-8")
    return entry


def healed_card(cut_card: str, entry: Mapping[str, Any]) -> str:
    """README.md of a healed checkpoint: that of the pruned one, empty where there is none, and the entry."""
    text = cut_card.replace(UNTRAINED, "Healed after the cut: see below.").rstrip()
    if not text:
        front = "---\nlibrary_name: transformers\ntags: [layercut, depth-pruning]\n---"
        text = f"{front}\n\n# Healed model\n\n{UNMEASURED}"
    how = f"{entry['method']}, {entry['objective']}, teacher {entry['teacher']}"
    lines = [f"- {escaped_markdown(line)}" for line in (how, *healing_lines(entry))]
    return "\n".join([text, "", "## Healing", "", *lines, f"- All settings and counts are in `{PLAN_FILE}`.", ""])


class Judge(NamedTuple):
    """Examples that measure what rounding costs."""

    examples: list[TrainingExample]
    are_held_out: bool
    before: float  # loss of the pruned model on them before healing, in nats a token

    def costs(self, trained: float, written: float) -> bool:
        """True if rounding lost too much of the gain; true for NaN."""
        return not written - trained <= SHARE * max(self.before - trained, 0.0)


def judge_of_rounding(model: Any, data: Data) -> Judge:
    """The judge for a healing of ``model``, the untrained pruned one, on held-out examples, or else training ones."""
    examples = (data.held_out or data.train)[:JUDGED]
    return Judge(examples, bool(data.held_out), mean_loss_on(model, examples))


@torch.no_grad()
def mean_loss_on(model: Any, examples: Sequence[TrainingExample]) -> float:
    """Mean negative log-likelihood of the completions' tokens, in nats. All tokens have the same weight."""
    total, count, ordered = 0.0, 0, sorted(examples, key=len)

    def summed(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
        return cross_entropy(logits_CV.float(), targets_C, reduction="sum")[None]

    for start in range(0, len(ordered), _BATCH):
        batch = {name: ids.to(model.device) for name, ids in pad_examples(ordered[start : start + _BATCH]).items()}
        targets_N = batch["labels"][:, 1:][mask_of_loss(batch)]
        sums = over_rows(summed, lazy_logits_in_loss(model, batch), rows=[targets_N])
        total += sums.double().sum().item()
        count += len(targets_N)
    return total / max(count, 1)


def _write_weights(model: PreTrainedModel, folder: Path, dtype: str, judge: Judge | None) -> tuple[dict[str, Any], str]:
    """Write ``model`` with the first rounding that costs little, or the one that costs least, and read it back.

    Returns the entry ``written`` of plan.json, and a line on what was checked.
    """
    model.eval()  # type: ignore[no-untyped-call]
    expected, reloaded = probe_logits(model), None
    trained = math.nan if judge is None else mean_loss_on(model, judge.examples)
    losses: dict[str, float] = {}
    differences: dict[str, float] = {}
    for rounding in ROUNDINGS[dtype] if judge is not None else ROUNDINGS[dtype][-1:]:
        reloaded = None  # frees the one before
        reloaded = _write(model, folder, dtype, rounding)
        differences[rounding] = (probe_logits(reloaded) - expected).abs().max().item()
        losses[rounding] = math.nan if judge is None else mean_loss_on(reloaded, judge.examples)
        if judge is None or not judge.costs(trained, losses[rounding]):
            break
    note = ""
    if judge is not None and judge.costs(trained, losses[rounding]):  # every rounding costs too much
        last, rounding = rounding, min(losses, key=losses.__getitem__)
        reloaded = reloaded if rounding == last else _write(model, folder, dtype, rounding)
        note = "; `save_dtype` float32 costs nothing"
    _check(model, reloaded, folder, dtype)
    entry: dict[str, Any] = {"dtype": dtype, "rounding": rounding, "logit_difference": differences[rounding]}
    line = f"written in {dtype}{_WORDS[rounding]}: a logit differs from the trained model's by at most "
    line += f"{differences[rounding]:.2g}"
    if judge is not None:
        measured = {"before": judge.before, "trained": trained, "written": losses[rounding]}
        entry["loss"] = {name: value for name, value in measured.items() if not math.isnan(value)}
        entry["loss"] |= {"n": len(judge.examples), "held_out": judge.are_held_out}
        where = "held-out" if judge.are_held_out else "training"
        line += f"; loss on {count_of(len(judge.examples), f'{where} example')} before healing {judge.before:.4f}, "
        line += f"trained {trained:.4f}, written {losses[rounding]:.4f}"
    return entry, line + note


def _write(model: Any, folder: Path, dtype: str, rounding: str) -> Any:
    """Write the weights in a dtype, and read them back in float32."""
    from transformers import AutoModelForCausalLM

    for file in folder.glob("*.safetensors*"):
        file.unlink()
    kept = [parameter.data for parameter in model.parameters()]
    generator = torch.Generator().manual_seed(0)
    model.config.dtype = getattr(torch, dtype)
    try:
        for parameter in model.parameters():  # not model.to, which would round the rotary frequencies too
            weights = parameter.data
            is_drawn = rounding == "stochastic"
            parameter.data = stochastic_bfloat16(weights, generator) if is_drawn else weights.to(model.config.dtype)
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
    """Float32 as bfloat16, each number rounded up or down at random so that their mean is the number itself."""
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
