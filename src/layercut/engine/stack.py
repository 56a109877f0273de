"""Stack: runs any range of a model's decoder layers, under one plan or many.

The model's own forward pass does everything around the layers, with stand-ins in the layers' place: it embeds the
tokens (some families scale them, some add positions) and provides each layer's arguments (rotary embeddings that differ
by layer type, and family-specific ones). So no family is named here, and every layer runs as in the model itself, after
any other layers.

Of many plans, layers below the first difference of two are computed once: plans are laid out as a tree of the layers
that they keep, and hidden states are carried from the root to every leaf, smallest branches first. Plans that each skip
one more layer than a common parent form a comb: each runs only the layers above the skipped one, on average half of the
work. Memory does not grow with the number of plans, only with the open branches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from layercut.engine.attention import Attending, KeyValue, attention_asks
from layercut.engine.products import large_layers
from layercut.engine.rows import Tokens
from layercut.engine.text_groups import Pack, PackedText
from layercut.errors import InputError
from layercut.models.loading import LoadedModel
from layercut.models.structure import structure_in
from layercut.progress.activity import report_share
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# Shapes: B batch, T tokens, D hidden size, V vocabulary, N positions whose logits are wanted, C positions of a chunk.


CHUNK_SIZE = 2**24  # logits of a chunk at most, 64 MB in float32
LayerCall = tuple[Tensor, tuple[Any, ...], dict[str, Any]]  # states that a layer was given, and its other arguments


class HeadInput(NamedTuple):
    """Input of the language model head at the chosen positions."""

    states_ND: Tensor
    kind: type[Any]  # class in which the model's body returns its states


class Stack:
    """The layers of one loaded model; indices are those of the original model."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self.device = loaded.model.device
        self._layers = decoder_layers(loaded.model)
        self.large = large_layers(loaded.model)

    @torch.no_grad()
    def enter(self, ids: Sequence[int], positions: Sequence[int]) -> tuple[Tensor, list[LayerCall]]:
        """Embed T tokens that stand at the given positions of their own texts: states (1, T, D), and every layer's call
        in the original model."""
        calls: list[LayerCall] = []
        stand_ins = [StandIn(layer, calls) for layer in self._layers]
        self._body(torch.tensor([ids], device=self.device), torch.tensor([positions], device=self.device), stand_ins)
        return calls[0][0], calls

    @torch.no_grad()
    def run(self, layer: int, states_1TD: Tensor, calls: Sequence[LayerCall], attends: Attending) -> Tensor:
        """One layer's output for any hidden states of the tokens that entered; ``attends`` says who sees whom."""
        _, args, kwargs = calls[layer]
        with attention_asks(self._model, attends):
            output = self._layers[layer](states_1TD, *args, **kwargs)
        return output if isinstance(output, Tensor) else output[0]

    @torch.no_grad()
    def leave(self, states_ND: Tensor) -> HeadInput:
        ids_1N = torch.zeros((1, len(states_ND)), dtype=torch.long, device=self.device)
        output = self._body(ids_1N, ids_1N, [StandIn(self._layers[0], [], states_ND.unsqueeze(0))])
        return HeadInput(output.last_hidden_state[0], type(output))

    def _body(self, ids_1T: Tensor, positions_1T: Tensor, stand_ins: Sequence[nn.Module]) -> Any:
        with in_place_of(self._layers, stand_ins), attention_asks(self._model, None):
            return body_of_model(self._model)(
                input_ids=ids_1T,
                position_ids=positions_1T,
                attention_mask=torch.ones_like(ids_1T),  # unread; without one some families warn of padding
                use_cache=False,
            )


class StandIn(nn.Module):
    """Takes a layer's call and hands on the states that came, or those it was given."""

    def __init__(self, layer: nn.Module, calls: list[LayerCall], states: Tensor | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "_layer", layer)  # beside torch's own bookkeeping: it is not a part of this module
        self._calls, self._states = calls, states

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._calls.append((hidden_states, args, kwargs))
        return hidden_states if self._states is None else self._states

    def __getattr__(self, name: str) -> Any:
        # Some families ask a layer for its kind before they call it.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "_layer"), name)


@contextmanager
def in_place_of(layers: nn.ModuleList, stand_ins: Sequence[nn.Module]) -> Iterator[None]:
    """The model calls other modules in place of its layers, as long as this lasts."""
    own = layers._modules
    layers._modules = {str(index): module for index, module in enumerate(stand_ins)}
    try:
        yield
    finally:
        layers._modules = own


def body_of_model(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model below its head, final norm included; where it has a head itself, the part with the layers."""
    body: Any = model.base_model
    if body.get_output_embeddings() is None:
        return body  # type: ignore[no-any-return]
    inner: PreTrainedModel = model.get_submodule(structure_in(model).layers.rpartition(".")[0])  # type: ignore[assignment]
    return inner


@torch.no_grad()
def read_states_at(model: PreTrainedModel, ids_BT: Tensor, read: Sequence[tuple[int, int]]) -> HeadInput:
    """Run the body over rows padded on the right, which needs no mask; ``read``: N pairs of row and position."""
    output = body_of_model(model)(input_ids=ids_BT, use_cache=False)
    row_N, token_N = torch.tensor(read, device=output.last_hidden_state.device).unbind(1)
    return HeadInput(output.last_hidden_state[row_N, token_N], type(output))


def position_chunks(model: PreTrainedModel, num_positions: int) -> Iterator[slice]:
    """Runs of positions whose logits are few enough to be made at once."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    size = max(1, CHUNK_SIZE // head.weight.shape[0])
    return (slice(start, min(start + size, num_positions)) for start in range(0, num_positions, size))


def logits_with_gradients(model: PreTrainedModel, before: HeadInput, chunk: slice) -> Tensor:
    """Logits (C, V) by the model's own forward pass around a body that hands states on: some scale or cap them."""
    states_1CD = before.states_ND[chunk].unsqueeze(0)
    output = before.kind(last_hidden_state=states_1CD)
    tokens_1C = torch.zeros(states_1CD.shape[:2], dtype=torch.long, device=model.device)  # never read
    body: Any = body_of_model(model)
    own = vars(body).get("forward")  # accelerate puts one there when a model is spread over devices
    body.forward = lambda *_, **__: output
    try:
        logits_1CV: Tensor = model(input_ids=tokens_1C, use_cache=False).logits
    finally:
        del body.forward
        if own is not None:
            body.forward = own
    return logits_1CV[0]


logits = torch.no_grad()(logits_with_gradients)  # logits (C, V) of a chunk of positions


Path = tuple[int, ...]  # layers that were run so far


@dataclass
class Node:
    """Plans that agree in the layers run so far."""

    path: Path = ()
    plan: CutPlan | None = None  # the plan that ends here
    below: list[CutPlan] = field(default_factory=list)  # all plans that pass or end here
    children: dict[int, Node] = field(default_factory=dict)  # by the layer that is run next

    @classmethod
    def of(cls, plans: Sequence[CutPlan]) -> Node:
        root = cls()
        for plan in plans:
            node = root
            node.below.append(plan)
            for layer in plan.kept:
                node = node.children.setdefault(layer, cls(path=(*node.path, layer)))
                node.below.append(plan)
            node.plan = plan
        return root

    def descendants(self) -> Iterator[Node]:
        for child in self.children.values():
            yield child
            yield from child.descendants()


class Leaf(NamedTuple):
    """A plan, run to the top."""

    plan: CutPlan
    pack: Pack  # the texts that were run
    states_1TD: Tensor  # output of the last layer, before the final norm
    own: Mapping[int, KeyValue]  # per layer, keys and values of all packed tokens; empty unless they were to be kept
    prefix: Mapping[int, KeyValue]  # per layer, keys and values of the prefix


class PrefixCache:
    """Keys and values of prompt prefixes after a path of layers, the least recently used given up first."""

    def __init__(self, num_bytes: int) -> None:
        self._room = num_bytes
        self._used = 0
        self._held: OrderedDict[tuple[Tokens, Path], KeyValue] = OrderedDict()

    def get(self, prefix: Tokens, path: Path) -> KeyValue | None:
        entry = self._held.get((prefix, path))
        if entry is not None:
            self._held.move_to_end((prefix, path))
        return entry

    def put(self, prefix: Tokens, path: Path, kv: KeyValue) -> None:
        if (prefix, path) in self._held:
            return
        self._held[prefix, path] = kv
        self._used += kv.keys.nbytes + kv.values.nbytes
        while self._used > self._room:
            _, oldest = self._held.popitem(last=False)
            self._used -= oldest.keys.nbytes + oldest.values.nbytes


def run_under_plans(
    stack: Stack,
    plans: Sequence[CutPlan],
    prefix: Tokens,
    cache: PrefixCache,
    texts: Sequence[PackedText],
    wanted: Callable[[CutPlan], bool] = lambda plan: True,
    *,
    keep: bool,
) -> Iterator[Leaf]:
    """Run texts behind a prefix under every plan still wanted at its turn; ``keep`` holds their keys and values."""
    tree = Node.of([plan for plan in plans if wanted(plan)])
    if not tree.below:
        return
    nodes = list(tree.descendants())
    # Looked up from the leaves down, so that what is given up first is what the fewest plans need.
    held = [cache.get(prefix, node.path) for node in nodes] if prefix else []
    pack, num_ran = Pack(texts, prefix, device=stack.device), 0
    entered_1TD, calls = stack.enter(pack.ids, pack.positions)
    todo: list[tuple[Node, Tensor, Tensor | None, Mapping[int, KeyValue], Mapping[int, KeyValue]]]
    todo = [(tree, entered_1TD, None, {}, {})]
    if None in held:
        ahead = Pack([PackedText.line(prefix)], (), device=stack.device)
        before_1TD, calls_ahead = stack.enter(ahead.ids, ahead.positions)
        todo = [(tree, entered_1TD, before_1TD, {}, {})]
    while todo:
        node, states, states_ahead, own, prefix_kv = todo.pop()
        if not any(wanted(plan) for plan in node.below):
            continue
        if node.path:
            layer = node.path[-1]
            if prefix:
                if states_ahead is not None:
                    states_ahead, kv = _run_layer(stack, layer, states_ahead, calls_ahead, ahead)
                    cache.put(prefix, node.path, kv)
                else:
                    stored = cache.get(prefix, node.path)
                    assert stored is not None, "the prefix was given up while it was needed"
                    kv = stored
                prefix_kv = pack.prefix_kv = {**prefix_kv, layer: kv} if keep else {layer: kv}
            states, kv = _run_layer(stack, layer, states, calls, pack)
            own = {**own, layer: kv} if keep else own
            num_ran += 1
            report_share(f"reading {len(pack.ids):,} tokens", num_ran / len(nodes))
        if node.plan is not None:
            yield Leaf(node.plan, pack, states, own, prefix_kv)
        # The largest branch is pushed first and taken last: by then nothing else holds the states it starts from.
        for child in sorted(node.children.values(), key=lambda child: -len(child.below)):
            todo.append((child, states, states_ahead, own, prefix_kv))


def _run_layer(
    stack: Stack, layer: int, states_1TD: Tensor, calls: Sequence[LayerCall], pack: Pack
) -> tuple[Tensor, KeyValue]:
    states_1TD = stack.run(layer, states_1TD, calls, pack)
    if pack.last is None:
        raise InputError(
            "this model does not use transformers' attention interface, so texts cannot be packed; use `engine` plain."
        )
    kv, pack.last = pack.last, None
    return states_1TD, kv
