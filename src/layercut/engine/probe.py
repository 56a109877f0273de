"""Check whether the shared engine may run a model: asked of the model itself, by a few short texts run both ways."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.engine.shared_depth import PrefixCache, run_plans
from layercut.engine.stack import Stack, logits
from layercut.engine.text_groups import PackedText
from layercut.errors import InputError, one_line
from layercut.models.quantise import widened
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass

if TYPE_CHECKING:
    from torch import nn

    from layercut.engine.base import Engine
    from layercut.engine.handle import ModelHandle
    from layercut.models.loading import LoadedModel

logger = logging.getLogger(__name__)

PREFIX, LENGTHS = 8, (5, 12)  # tokens that the two texts share, and tokens of each behind them
TOLERANCE, STEPS = 1e-3, 8
"""Share of the largest logit, and rounding steps of the dtype there, whichever is more: sums run in other orders."""

HALF = (torch.bfloat16, torch.float16)
FURTHER = 1.3
"""Times as far from float32 as the model itself, on average, that packed texts may be in half precision. 0.9 to 1.2 was
seen of right ones, and 1.4 and more where scores of attention were 5 % too large."""

_known: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def fastest_engine(loaded: LoadedModel, *, batch_size: int = 32, cache_gib: float = 2.0) -> Engine:
    """The shared engine where it gives what the model itself gives, else the plain one."""
    if why_not_shared(loaded):
        return PlainEngine(loaded, batch_size=batch_size)
    return SharedEngine(loaded, batch_size=batch_size, cache_gib=cache_gib)


def why_not_shared(loaded: LoadedModel) -> str:
    """The reason why the shared engine cannot run a model; empty if nothing does. Asked and logged once of a model.

    Two texts behind one prefix, of random tokens, are packed and run through all layers and through all but one in the
    middle. Their logits must be those of the model itself, text by text, within rounding. In half precision rounding
    can grow from layer to layer beyond any bound of one step. A copy in float32 then decides, if memory allows: packed
    texts must give its logits, and in half precision be about as near to them as the model itself is.
    """
    if loaded.model not in _known:
        reason = _known[loaded.model] = _probed(loaded)
        if reason:
            logger.warning("%s runs in the engine plain: %s", loaded.name, reason)
    return _known[loaded.model]


class _Ways(NamedTuple):
    """Logits (N, V) under one plan."""

    plan: CutPlan
    alone_NV: Tensor
    packed_NV: Tensor


def _probed(loaded: LoadedModel) -> str:
    try:
        ways = _both_ways(loaded)
        reason = _difference(ways, loaded)
        if not reason or loaded.model.dtype not in HALF or (wide := widened(loaded.model)) is None:
            return reason
        exact = _both_ways(wider := replace(loaded, model=wide))
        # In half precision packed texts must be about as near to float32 as the model itself is.
        is_as_near = all(
            bool((packed - right.alone_NV).abs().mean() <= FURTHER * (alone - right.alone_NV).abs().mean())
            for (_, alone, packed), right in zip(ways, exact, strict=True)
        )
        return _difference(exact, wider) or ("" if is_as_near else reason)
    except InputError as error:
        return str(error)


@torch.no_grad()
def _both_ways(loaded: LoadedModel) -> list[_Ways]:
    """Logits behind the texts' own tokens: of each text in a pass of its own, and as the shared engine runs them."""
    embeddings: Any = loaded.model.get_input_embeddings()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(embeddings.weight.shape[0], (PREFIX + sum(LENGTHS),), generator=generator)
    prefix, *texts = (tuple(part.tolist()) for part in tokens.split_with_sizes([PREFIX, *LENGTHS]))

    def alone(plan: CutPlan) -> Tensor:
        with bypass(loaded.model, plan):
            rows = [torch.tensor([[*prefix, *text]], device=loaded.model.device) for text in texts]
            logits_NV = [loaded.model(input_ids=ids_1T, use_cache=False).logits[0, PREFIX:] for ids_1T in rows]
        return torch.cat(logits_NV).float().cpu()

    uncut = CutPlan(num_layers=loaded.num_layers)
    expected = [(uncut, alone(uncut))]
    if loaded.num_layers > 1:
        # Where no layer in the middle can go, the model itself must agree all the same.
        with suppress(InputError):
            middle = CutPlan(num_layers=loaded.num_layers, removed=(loaded.num_layers // 2,))
            expected.append((middle, alone(middle)))
    try:
        stack, lines = Stack(loaded), [PackedText.line(text) for text in texts]
        packed = {}
        for leaf in run_plans(stack, [plan for plan, _ in expected], prefix, PrefixCache(2**30), lines, keep=False):
            before = stack.leave(leaf.states_1TD[0])
            packed[leaf.plan.key] = logits(loaded.model, before, slice(None)).float().cpu()
    except Exception as error:  # a model's own code, called in a way that it may not know
        raise InputError(f"its layers do not run over packed texts ({one_line(error)})") from error
    return [_Ways(plan, alone_NV, packed[plan.key]) for plan, alone_NV in expected]


def _difference(ways: list[_Ways], loaded: LoadedModel) -> str:
    """The place where packed texts give other logits than the model itself; empty where rounding explains it."""
    for plan, alone_NV, packed_NV in ways:
        worst = (packed_NV - alone_NV).abs().max().item()
        share = max(TOLERANCE, STEPS * torch.finfo(loaded.model.dtype).eps)
        bound = share * max(1.0, alone_NV.abs().max().item())
        if not worst <= bound:  # so written, it also catches NaN
            under = "" if plan.is_uncut else f" without layer {plan.removed[0]}"
            return f"packed texts{under} give logits that differ by {worst:.2g}, and rounding explains {bound:.2g}"
    return ""


def engine_of(handle: ModelHandle) -> Engine:
    """The engine of a row of ENGINES."""
    wanted = handle.settings
    return fastest_engine(handle.loaded, batch_size=wanted.batch_size, cache_gib=wanted.cache_gib)
