"""Contexts for criteria that are measured on text: a tiny model, or hidden states that are made up."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from layercut.engine.base import HiddenStates
from layercut.engine.plain import PlainEngine
from layercut.selection.base import Context
from layercut.surgery.plan import CutPlan
from tests.support.fake_engine import FakeEngine
from tests.support.tiny import NUM_LAYERS

TEXTS = (
    "A layer that changes nothing can go.",
    "3 + 4 = 7",
    "The quick brown fox jumps over the lazy dog, and then it does so again because the text has to be longer.",
    "x",
    "def f(a):\n    return a + 1\n",
)


def calibration(*texts: str) -> Any:
    return SimpleNamespace(texts=texts)


def measured_on(loaded: Any, texts: Sequence[str] = TEXTS, *, batch_size: int = 2, **fields: Any) -> Context:
    """A context with a tiny model, an engine on it, and text."""
    fields = {"num_remove": 2, **fields}
    return Context(
        num_layers=NUM_LAYERS,
        loaded=loaded,
        engine=PlainEngine(loaded, batch_size=batch_size),
        calibration=calibration(*texts),
        **fields,
    )


def made_up(
    num_layers: int, states: Callable[[Sequence[str], CutPlan], Iterator[HiddenStates]], num_texts: int, **fields: Any
) -> Context:
    """A context whose engine gives the hidden states that are wanted."""
    return Context(
        num_layers=num_layers,
        engine=FakeEngine(states=states, num_layers=num_layers),
        calibration=calibration(*["text"] * num_texts),
        **fields,
    )


def turning(degrees_TL: Sequence[Sequence[float]]) -> tuple[Tensor, ...]:
    """L + 1 states (1, T, 2) in which layer l turns token t by the given degrees, and makes it longer."""
    angle_TS = torch.cat([torch.zeros(len(degrees_TL), 1), torch.tensor(degrees_TL).cumsum(dim=1)], dim=1).deg2rad()
    length_S = torch.arange(1, angle_TS.shape[1] + 1)
    states_STD = torch.stack([angle_TS.cos() * length_S, angle_TS.sin() * length_S], dim=-1).transpose(0, 1)
    return tuple(states_STD[:, None].unbind(0))


def make_identity(layer: torch.nn.Module) -> None:
    """Make a llama layer return its input: both of its branches write nothing to the residual stream."""
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
