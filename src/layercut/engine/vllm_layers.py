"""Find and skip decoder layers in vLLM's own module tree.

They are the list of modules that is as long as the checkpoint counts layers. A layer that is to change nothing hands on
the stream and, in most of vLLM's models, a second tensor: the residual stream that the first is still to be added to.
The signature of the layer's ``forward`` says which. VERIFIED types alone are run: for some others vLLM computes
something else than transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from layercut.models.loading import WeightlessModel

VERIFIED = frozenset({
    "cohere", "gemma3_text", "gpt2", "granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "olmo3", "phi3",
    "qwen2", "qwen3", "qwen3_moe", "smollm3", "starcoder2",
})  # fmt: skip
"""Types that were compared with transformers, whole and without some layers: tests/behaviour/test_vllm.py. A new one is
a row here, once it passes there."""

_OWN = "_layercut_own_forward"
"""Attribute of a layer that is left out: the forward that was its own attribute before, or None."""
_STREAM, _RESIDUAL = "hidden_states", "residual"


def refuse_other_types(model: WeightlessModel) -> None:
    """Raise InputError for a type of model that is not VERIFIED."""
    if (kind := model.structure.model_type) not in VERIFIED:
        raise InputError(
            f"{model.name} is of the type {kind}, of which it is not known that vLLM computes the same as transformers "
            f"({', '.join(sorted(VERIFIED))} are); use `engine` shared, or serve it with vllm and use `engine` openai."
        )


def module_lists_of(model: nn.Module, *, num_layers: int) -> list[str]:
    """Dotted names of the lists of modules that are as long as the model is deep."""
    from torch import nn

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]


def pick_layer_list(lists: Collection[str], *, layers: str, model: str) -> str:
    """The list of decoder layers: the only one, or the only one of the name that transformers gives it."""
    last = layers.rpartition(".")[2]
    named = [name for name in lists if name.rpartition(".")[2] == last]
    for names in (list(lists), named):
        if len(names) == 1:
            return names[0]
    raise InputError(
        f"vLLM's {model} has {', '.join(sorted(lists)) or 'no list'}, not one list of layers; use `engine` shared."
    )


def leave_out_layers(model: nn.Module, *, layers: str, removed: Collection[int]) -> int:
    """Leave out these layers of vLLM's model, and take back in all others; gives the number of all."""
    modules = list(model.get_submodule(layers).children())
    for index, layer in enumerate(modules):
        if _OWN in vars(layer):
            own = vars(layer)[_OWN]
            del layer.forward, layer.__dict__[_OWN]
            if own is not None:
                layer.forward = own
        if index in removed:
            layer.__dict__[_OWN] = vars(layer).get("forward")
            layer.forward = pass_states_on(type(layer).forward)
    return len(modules)


def pass_states_on(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's output if it changes nothing, by the arguments of its ``forward``: granite's promises are not kept."""
    names = [name for name in inspect.signature(forward).parameters if name != "self"]
    stream = _STREAM if _STREAM in names else names[0]

    def same(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if stream not in given:  # the first argument of a wrapper that takes any
            return args[0]
        return (given[stream], given.get(_RESIDUAL)) if _RESIDUAL in names else given[stream]

    return same
