"""Models that can be trained: loaded, with adapters, all weights or the last layers; and merging adapters again.

The only file of healing that imports PEFT.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError, MissingExtra, VerificationError
from layercut.healing.settings import METHODS, TrainSettings, load_by_name
from layercut.models.loading import LoadedModel, load_model, load_tokenizer
from layercut.models.placement import pick_device
from layercut.models.quiet import quiet_transformers
from layercut.surgery.checkpoint import earlier_plans
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import decoder_layers, remove_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
FINAL, CURVE = "final", "loss.jsonl"  # weights and loss curve, in the folder of a training
TOLERANCE, SHARE = 1e-4, 1e-2
"""Largest difference of a logit between adapter model and merged model, in float32: as a share of the largest logit, or
of the largest change by the adapters. Sums in another order differed by more than the first in a 1.5B model; a wrong
merge differs by as much as the adapters change."""


def load_for_training(handle: ModelHandle, settings: TrainSettings) -> LoadedModel:
    """Load a pruned model, or a teacher; InputError where qlora cannot run, or the model cannot be loaded.

    The dtype ``auto`` is float32 where whole weights are trained or solved for; with adapters it is that of
    ``load_model``. qlora reads the weights once, straight into 4 bits.
    """
    method, device, dtype = METHODS[settings.method], handle.settings.device, handle.settings.dtype
    if method.base == "nf4":
        from transformers import AutoModelForCausalLM

        with quiet_transformers():
            packed: Any = AutoModelForCausalLM.from_pretrained(
                handle.source.path, quantization_config=nf4_quantization(), device_map={"": 0}
            )
        metadata, tokenizer = handle.metadata, load_tokenizer(handle.source)
        return LoadedModel(
            tokenizer, metadata.structure, handle.source, metadata.model_hash, metadata.num_layers, packed.eval()
        )
    if not method.made_by and pick_device(device).type == "mps":
        device = "cpu"  # seams are solved in float64, which MPS does not have
    if dtype == "auto" and method.base == "float32":
        dtype = "float32"
    return load_model(handle.source, dtype=dtype, device=device)


def load_teacher(teacher: ModelHandle, cut: ModelHandle, settings: TrainSettings) -> LoadedModel:
    """Load an original model, without the tokens that the pruned one does not have: same ids, same logits."""
    loaded = load_for_training(teacher, settings)
    for plan in earlier_plans(cut.source.path):
        embeddings: Any = loaded.model.get_input_embeddings()  # type: ignore[no-untyped-call]
        if plan.vocabulary is not None and len(embeddings.weight) == plan.vocabulary.size:
            whole = CutPlan(num_layers=len(decoder_layers(loaded.model)), vocabulary=plan.vocabulary)
            remove_layers(loaded.model, whole)
    return loaded


def make_trainable(model: PreTrainedModel, settings: TrainSettings) -> Any:
    """The model with gradients where the method wants them; adapters wrap it, the others change it in place."""
    method = METHODS[settings.method]
    assert method.made_by is not None, "a method without training"
    if not method.has_adapter and model.dtype != torch.float32:
        raise InputError(f"{settings.method} trains weights in float32, not {str(model.dtype)[6:]}; leave out `dtype`.")
    return load_by_name(method.made_by)(model, settings)


def train_all(model: PreTrainedModel, settings: TrainSettings) -> PreTrainedModel:
    """The model with gradients of all weights."""
    model.requires_grad_(True)
    return model


def train_last(model: PreTrainedModel, settings: TrainSettings) -> PreTrainedModel:
    """The model with gradients of its head and its last ``last_k`` layers; InputError if it has fewer."""
    layers = decoder_layers(model)
    if settings.last_k > len(layers):
        raise InputError(f"last-k of {settings.last_k} layers, but the pruned model has {len(layers)}; take fewer.")
    model.requires_grad_(False)
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for module in (*list(layers)[-settings.last_k :], head):
        module.requires_grad_(True)
    if head.weight is model.get_input_embeddings().weight:
        logger.info("the head shares its weights with the embeddings, so last-k trains those too")
    return model


def add_adapters(model: PreTrainedModel, settings: TrainSettings) -> Any:
    """The model with LoRA adapters on all linear layers but the head (Hu et al., arXiv:2106.09685), in training mode.

    Adapters are float32 whatever the base is. At first they change nothing: B is zero. Raises MissingExtra without
    PEFT.
    """
    try:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    except ImportError as error:
        raise MissingExtra("training adapters", "heal") from error
    if METHODS[settings.method].base == "nf4":
        model = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            model, use_gradient_checkpointing=False
        )
    dropout = settings.dropout
    # A mixture may keep its experts in one tensor, which PEFT adapts as a parameter, not as modules.
    if dropout and any(isinstance(getattr(module, "down_proj", None), nn.Parameter) for module in model.modules()):
        logger.info("adapters of stacked experts take no dropout, so there is none (%s was set)", dropout)
        dropout = 0.0
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        bias="none",
        fan_in_fan_out=model.config.model_type == "gpt2",  # its linear layers keep their weights transposed
    )
    torch.manual_seed(settings.seed)  # A is drawn
    return get_peft_model(model, config)


def merge_adapters(base: PreTrainedModel, adapter: Path) -> tuple[PreTrainedModel, str]:
    """Merge a saved adapter into the weights of ``base``, W + (alpha / rank) B A, and compare logits before and after.

    Returns the merged model, and a line on what was compared. ``base`` is the model that the adapter was trained on, in
    float32 (for qlora the dequantised 4-bit weights), and is changed in place. Raises VerificationError.
    """
    from peft import PeftModel

    before = probe_logits(base)
    model: Any = PeftModel.from_pretrained(base, str(adapter)).eval()
    expected = probe_logits(model)
    merged = model.merge_and_unload(safe_merge=True)
    difference = (probe_logits(merged) - expected).abs().max().item()
    rounding = TOLERANCE * max(1.0, expected.abs().max().item())
    tolerance = max(rounding, SHARE * (expected - before).abs().max().item())
    compared = (
        f"merged weights and adapter model differ by at most {difference:.2g} in a logit, both in float32 "
        f"(up to {tolerance:.2g} is rounding)"
    )
    if not difference <= tolerance:  # so written, it also catches NaN
        raise VerificationError(f"folding the adapters in changed the model: {compared}.")
    return merged, compared


@torch.no_grad()
def probe_logits(model: Any) -> Tensor:
    """Logits (2, 64, V) on random tokens, the same for the same vocabulary, in float32 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(len(model.get_input_embeddings().weight), (2, 64), generator=generator)
    logits: Tensor = model(input_ids=ids_BT.to(model.device), use_cache=False).logits
    return logits.float().cpu()


def nf4_quantization() -> Any:
    """The 4-bit settings of QLoRA (Dettmers et al., arXiv:2305.14314); InputError where it cannot train."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise InputError("qlora needs bitsandbytes: pip install bitsandbytes. `method` lora does without.") from error
    if not torch.cuda.is_available():
        raise InputError("qlora trains on a CUDA device, and there is none here; `method` lora runs everywhere.")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def remove_weights(folder: Path) -> None:
    """Remove what only continues a training: its checkpoints, with the optimizer's state, and ``final``."""
    for path in (*folder.glob("checkpoint-*"), folder / FINAL):
        shutil.rmtree(path, ignore_errors=True)
