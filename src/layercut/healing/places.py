"""Match a pruned model with the original one: seams, numbers of layers."""

# Shapes: B batch, T tokens, D hidden size.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from layercut.errors import InputError
from layercut.surgery.plan import CutPlan


class Seam(NamedTuple):
    """A layer of the pruned model, and the layer of the original model whose output it should give.

    For a cut: the layer before a run of removed layers, and the last layer of the run.
    """

    below: int
    """Index in the pruned model."""
    first: int | None
    """The run's first layer, as an index of the original model; None for a layer above the cut."""
    last: int
    """Index in the original model: the run's last layer, or the same layer."""

    def describe(self) -> str:
        return f"layer {self.last}" if self.first is None else f"seam of layers {self.first}-{self.last}"


def seams_of(plan: CutPlan) -> list[Seam]:
    """The runs of removed layers, from the bottom; InputError without any, or without a layer below to fold into."""
    gone = set(plan.removed)
    if not gone:
        raise InputError("this model was not cut by layercut (its plan.json removes nothing), so it has no seam.")
    if 0 in gone:
        raise InputError(
            "layer 0 was removed, so there is no layer below that seam to fold a map into; train instead "
            "(`method` lora), or cut with layer 0 protected."
        )
    firsts = [index for index in sorted(gone) if index - 1 not in gone]
    lasts = [index for index in sorted(gone) if index + 1 not in gone]
    return [Seam(plan.kept.index(first - 1), first, last) for first, last in zip(firsts, lasts, strict=True)]


def with_layers_above(seams: list[Seam], plan: CutPlan, count: int) -> list[Seam]:
    """Each seam, and up to ``count`` layers above it, before the next seam.

    >>> with_layers_above([Seam(1, 2, 3)], CutPlan(num_layers=6, removed=(2, 3)), 1)
    [Seam(below=1, first=2, last=3), Seam(below=2, first=None, last=4)]
    """
    found = []
    for seam, end in zip(seams, [*(other.below for other in seams[1:]), len(plan.kept)], strict=True):
        above = range(seam.below + 1, min(seam.below + 1 + count, end))
        found += [seam, *(Seam(index, None, plan.kept[index]) for index in above)]
    return found


def check_layers(plan: CutPlan, uncut: int, cut: int) -> None:
    """Raise InputError if a teacher of ``uncut`` layers and a pruned model of ``cut`` are not the two of the plan."""
    if (uncut, cut) != (plan.num_layers, len(plan.kept)):
        raise InputError(
            f"the plan cuts {plan.num_layers} layers to {len(plan.kept)}, but the teacher has {uncut} and the "
            f"pruned model {cut}; give the very model that was cut as `teacher`."
        )


@contextmanager
def outputs_of(layers: Any, indices: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """The outputs (B, T, D) of these layers in a forward pass, by index."""
    seen: dict[int, Tensor] = {}

    def keep(index: int) -> Any:
        # No computation here: with gradient checkpointing the layer runs twice, and must do the same both times.
        return lambda _, __, output: seen.__setitem__(index, output if isinstance(output, Tensor) else output[0])

    hooks = [layers[index].register_forward_hook(keep(index)) for index in indices]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def inputs_of(module: Any) -> Iterator[list[Tensor]]:
    """The inputs of a module in the calls of a forward pass, in their order."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def output_changed(module: Any, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The module gives ``change`` of its output, or of the first of a tuple, as long as this lasts."""
    hook = module.register_forward_hook(
        lambda _, __, output: change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])
    )
    try:
        yield
    finally:
        hook.remove()


class _Reached(Exception):
    """The layer whose output was wanted has been computed."""


def run_until(layer: Any, model: Any, ids_BT: Tensor) -> None:
    """Run a model on rows up to a layer's output, without those behind it; hooks set before see all of it."""

    def stop(*_: Any) -> None:
        raise _Reached

    hook = layer.register_forward_hook(stop)
    try:
        model.base_model(input_ids=ids_BT, use_cache=False)
    except _Reached:
        pass
    finally:
        hook.remove()
