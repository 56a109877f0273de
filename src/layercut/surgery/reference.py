"""The reference that every cut is compared with: its layers skipped in place, in the original model.

All other layers keep their place, their number and their config, so the reference shares no rule with ``remove``,
``kinds`` or ``config_fields``. It holds without a cache only: transformers counts cached tokens at layer 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from layercut.models.structure import structure_in

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@contextmanager
def skipped(model: PreTrainedModel, removed: Sequence[int]) -> Iterator[None]:
    """Have these layers of the original ``model`` hand on the states that they are given; run it without a cache."""
    stack: Any = model.get_submodule(structure_in(model).layers)
    with ExitStack() as undo:
        for layer in (stack[index] for index in removed):
            skip = _Skip()
            undo.callback(layer.register_forward_pre_hook(skip.keep_states, with_kwargs=True).remove)
            undo.callback(layer.register_forward_hook(skip.hand_on, with_kwargs=True).remove)
        yield


class _Skip:
    """Hooks of one layer. It still runs, because only its output shows in which form the model wants the states."""

    def keep_states(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        self._states = args[0] if args else kwargs["hidden_states"]
        copy = self._states.clone()  # some layers add to their input in place
        return ((copy, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": copy})

    def hand_on(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not isinstance(output, (tuple, list)):
            return self._states
        # What follows the states is handed from layer to layer, or is for callers who did not ask for it here.
        handed = [*args[1:], *(value for name, value in kwargs.items() if name.startswith("prev"))]
        rest = (*handed, *(None for _ in output))[: len(output) - 1]
        return type(output)([self._states, *rest])
