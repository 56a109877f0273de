"""Seconds of a request by the layers and MLP channels that stay, measured on this machine in the serving profile.

Bytes do not tell the time: attention reads its cache, a GPU waits for every layer, and long prompts are bound by
arithmetic. A few plans are timed by turns, and the time of any other follows from them: a part that is always there,
one of each layer, and one of its MLP channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel
from scipy.optimize import nnls

from layercut.pruning.profile import Profile
from layercut.pruning.speed import request_time, timed_rounds
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import MlpWidth

if TYPE_CHECKING:
    from layercut.engine.timing import Timer
    from layercut.progress import Progress


class TimeParts(BaseModel, frozen=True, extra="forbid"):
    """The parts of a time that goes with the layers and MLP channels that stay."""

    fixed: float
    """That no plan takes away."""
    layer: float
    """Of a layer without its MLP channels; layers may be counted as a share of all."""
    channels: float
    """Of all MLP channels of a layer."""

    @classmethod
    def fitted(cls, stay: Sequence[tuple[float, float]], seconds: Sequence[float]) -> TimeParts:
        """Least squares without negative parts, over plans with so many layers and this share of their channels."""
        parts, _ = nnls(np.array([[1.0, layers, layers * share] for layers, share in stay]), np.array(seconds))
        return cls(**dict(zip(("fixed", "layer", "channels"), map(float, parts), strict=True)))

    def seconds(self, layers: float, channels: float = 1.0) -> float:
        """Of a model of ``layers`` layers, each with this share of its channels."""
        return self.fixed + layers * (self.layer + channels * self.channels)


class RequestTimes(TimeParts, frozen=True, extra="forbid"):
    """The parts of a request's seconds."""

    num_layers: int

    def share(self, removed: Sequence[int], less: float) -> float | None:
        """Share of the MLP channels that goes beside the layers, so that this share of the seconds does; None where
        the layers alone are more, or the channels do not suffice.
        """
        left = self.num_layers - len(removed)
        over = self.seconds(left) - (1 - less) * self.seconds(self.num_layers)
        share = over / max(left * self.channels, 1e-12)
        return share if 0 < share < 1 else None


def measure_request_times(
    timer: Callable[[CutPlan], Timer], count: int, mlp: MlpWidth, profile: Profile, seed: int, progress: Progress
) -> RequestTimes:
    """Time the model of ``count`` layers whole, without every other one, with half of its channels, and with both, by
    turns.
    """
    gone = tuple(range(1, count - 1, 2))
    thin = mlp.first_channels(mlp.num_kept(0.5))
    plans = [CutPlan(num_layers=count, removed=out, channels=kept) for out in ((), gone) for kept in (None, thin)]
    timed = timed_rounds({one.key: timer(one) for one in plans}, profile, seed, progress)
    seconds = [request_time(timed[one.key], profile)(profile.prompt, profile.new) for one in plans]
    stay = [(len(one.kept), one.channels.num_kept / mlp.width if one.channels else 1.0) for one in plans]
    return RequestTimes(num_layers=count, **TimeParts.fitted(stay, seconds).model_dump())
