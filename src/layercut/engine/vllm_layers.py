"""Find and skip decoder layers in vLLM's own module tree, and check that vLLM then computes what transformers computes.

vLLM reimplements most models, and runs others through its transformers backend. In both, the decoder layers are the
list of modules that is as long as the checkpoint counts layers. A layer that is to change nothing hands on what the one
before it gave: the stream, and in most of vLLM's models a second tensor, the residual stream that the first is still to
be added to. Which one it is stands in the signature of the layer's ``forward``.

Of VERIFIED types it is known that this gives what transformers gives (tests/behaviour/test_vllm.py). Others have to
pass a probe when the engine starts: the model itself is asked, with all layers and without one. The reference is
computed before vLLM starts, because vLLM changes classes of transformers in this process, and because two copies of a
model need not fit on one device: it runs on the CPU.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from layercut.engine.base import Engine, LikelihoodRequest, Likelihoods
from layercut.errors import InputError, one_line
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from torch import nn

    from layercut.models.loading import WeightlessModel

VERIFIED = frozenset({
    "gemma3_text", "gpt2", "llama", "mistral", "mixtral", "olmo2", "olmo3", "phi3", "qwen2", "qwen3", "qwen3_moe",
})  # fmt: skip
"""Types of models that were compared with transformers, whole and without their first, middle and last layers."""

_OWN = "_layercut_own_forward"
"""Attribute of a layer that is left out: the forward that was its own attribute before, or None."""
_STREAM, _RESIDUAL = "hidden_states", "residual"


def module_lists_of(model: nn.Module, *, num_layers: int) -> list[str]:
    """Dotted names of the lists of modules that are as long as the model is deep."""
    from torch import nn

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]


def pick_layer_list(lists: Collection[str], *, layers: str, model: str) -> str:
    """The list of decoder layers among them: the only one, or the only one of the name that transformers gives it.

    Raises:
        InputError: none, or several.
    """
    last = layers.rpartition(".")[2]
    named = [name for name in lists if name.rpartition(".")[2] == last]
    for names in (list(lists), named):
        if len(names) == 1:
            return names[0]
    raise InputError(
        f"vLLM's model of {model} has {', '.join(sorted(lists)) or 'no list'} where one list of decoder layers was "
        "expected. Use `engine` shared."
    )


def leave_out_layers(model: nn.Module, *, layers: str, removed: Collection[int]) -> int:
    """Leave out these layers of vLLM's model, and take back in all others. Weights and KV cache are not touched.

    Returns:
        Decoder layers of the model, the ones that are out included.
    """
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
    """A layer's output if it changes nothing, for a layer with this ``forward``.

    Before the first layer there is no residual stream, nor is there after it. A layer without such a stream gives back
    ``hidden_states``, or its first argument where none has that name. What it is said to give back does not count:
    granite's layers promise two tensors and give one.
    """
    names = [name for name in inspect.signature(forward).parameters if name != "self"]
    stream = _STREAM if _STREAM in names else names[0]

    def same(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if stream not in given:  # the first argument of a wrapper that takes any
            return args[0]
        return (given[stream], given.get(_RESIDUAL)) if _RESIDUAL in names else given[stream]

    return same


TEXTS = (
    "The quick brown fox jumps over the lazy dog. 12 + 30 = 42, and 7 times 6 is the same. " * 3,
    "def add(a, b):\n    return a + b\n\n\nprint(add(2, 3))\n",
)
"""The first is longer than the prefix cache's blocks on a CPU."""
CONTINUATIONS = (" the", "\n", " x")
TOLERANCE = {"float32": 0.02, "bfloat16": 0.5, "float16": 0.1}
"""Tolerance of a continuation's log-likelihood, in nats: both engines round in their own order."""

Expected = list[tuple[CutPlan, Mapping[str, Likelihoods]]]  # scores of transformers, by request, under some plans


def probe_scores(engine: Engine, plan: CutPlan) -> dict[str, Likelihoods]:
    """Scores of both texts, each with the continuations, by request."""
    requests = [
        LikelihoodRequest(id=str(at), prompt=text, continuations=CONTINUATIONS) for at, text in enumerate(TEXTS)
    ]
    return {scores.id: scores for _, batch in engine.ask(requests, [plan]) for scores in batch}


def reference_scores(model: WeightlessModel) -> Expected:
    """Scores of the texts by transformers, on the CPU, with all layers and without the one in the middle.

    Raises:
        InputError: transformers cannot load the model.
    """
    from layercut.engine.plain import PlainEngine
    from layercut.models.loading import load_model

    plans = [CutPlan(num_layers=model.num_layers, removed=removed) for removed in ((), (model.num_layers // 2,))]
    loaded = load_model(model.source, dtype=model.dtype, device="cpu", trust_remote_code=model.trust_remote_code)
    engine = PlainEngine(loaded, batch_size=1)
    expected: Expected = [(plan, probe_scores(engine, plan)) for plan in plans]
    del engine, loaded
    gc.collect()
    return expected


def score_difference(expected: Expected, engine: Engine, dtype: str) -> str:
    """Differences of an engine from transformers, in words; empty if they agree."""
    for plan, wanted in expected:
        under = "with all layers" if plan.is_uncut else f"without layer {plan.removed[0]}"
        try:
            scores = probe_scores(engine, plan)
        except Exception as error:  # vLLM's own code, called in a way that it may not know
            return f"{under} it fails ({one_line(error)})"
        worst = max(
            abs(ours - theirs)
            for name, likelihoods in wanted.items()
            for ours, theirs in zip(scores[name].log_likelihoods, likelihoods.log_likelihoods, strict=True)
        )
        if not worst <= TOLERANCE[dtype]:  # so written, it also catches NaN
            return f"{under} its log-likelihoods differ from those of transformers by {worst:.2g} nats"
    return ""
