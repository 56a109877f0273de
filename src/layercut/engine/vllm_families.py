"""How vLLM runs each family's decoder layers, and how to skip one of them in place.

A family has a row here once it was compared with transformers, whole and without its first, a middle and its last layer
(tests/behaviour/test_vllm.py). vLLM reimplements most families, so ``models/families.py`` does not describe them;
others run through its transformers backend.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

_OWN = "_layercut_own_forward"
"""Attribute of a layer that is left out: the forward that was its own attribute before, or None."""


@dataclass(frozen=True, kw_only=True)
class VllmFamily:
    """How vLLM builds one model_type."""

    model_type: str
    """``model_type`` of config.json."""
    layers: str = "model.layers"
    """Dotted path from vLLM's model to its list of decoder layers."""
    has_residual: bool = True
    """Layers are called as ``(positions, hidden_states, residual)`` and give back both states: what the last branch
    wrote, and the residual stream that it is still to be added to. Otherwise the stream goes in first and comes out."""


_ROWS = (
    VllmFamily(model_type="llama"),
    VllmFamily(model_type="mistral"),
    VllmFamily(model_type="mixtral"),
    VllmFamily(model_type="qwen2"),
    VllmFamily(model_type="qwen3"),
    VllmFamily(model_type="qwen3_moe"),
    VllmFamily(model_type="phi3"),
    VllmFamily(model_type="gemma3_text"),
    VllmFamily(model_type="olmo2", has_residual=False),  # these two through vLLM's transformers backend
    VllmFamily(model_type="olmo3", has_residual=False),
    VllmFamily(model_type="gpt2", layers="transformer.h", has_residual=False),
)

VLLM_FAMILIES: dict[str, VllmFamily] = {row.model_type: row for row in _ROWS}


def vllm_family(model_type: str, model: str) -> VllmFamily:
    """The row of a model_type.

    Raises:
        InputError: the family was not compared with transformers under vLLM.
    """
    if model_type in VLLM_FAMILIES:
        return VLLM_FAMILIES[model_type]
    raise InputError(
        f"{model} is of the family {model_type}, which is not yet verified under vLLM. Verified: "
        f"{', '.join(sorted(VLLM_FAMILIES))}. Use --engine shared."
    )


def leave_out(model: nn.Module, *, family: VllmFamily, removed: Collection[int]) -> int:
    """Leave out these layers of vLLM's model, and take back in all others. Weights and KV cache are not touched.

    Returns:
        Decoder layers of the model, the ones that are out included.
    """
    layers = list(model.get_submodule(family.layers).children())
    for index, layer in enumerate(layers):
        if _OWN in vars(layer):
            own = vars(layer)[_OWN]
            del layer.forward, layer.__dict__[_OWN]
            if own is not None:
                layer.forward = own
        if index in removed:
            layer.__dict__[_OWN] = vars(layer).get("forward")
            layer.forward = _hand_on_both if family.has_residual else _hand_on
    return len(layers)


def _hand_on_both(
    positions: Tensor, hidden_states: Tensor, residual: Tensor | None, *_: Any, **__: Any
) -> tuple[Tensor, Tensor | None]:
    """A layer's output if it changes nothing. Before the first layer there is no residual, nor is there after it."""
    return hidden_states, residual


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states
