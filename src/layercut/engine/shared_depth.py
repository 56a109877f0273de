"""Run many plans at once: layers below the first difference of two plans are computed once.

A plan is the sequence of layers that it keeps. Plans are laid out as a tree of such sequences, and hidden states are
carried from the root to every leaf, smallest branches first. Plans that each skip one more layer than a common parent
form a comb: the parent's states are computed once, and each plan runs only the layers above the skipped one, on average
half of the work. Memory does not grow with the number of plans, only with the open branches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from layercut.engine.attention import KeyValue
from layercut.errors import InputError
from layercut.progress.activity import works

if TYPE_CHECKING:
    from layercut.engine.rows import Tokens
    from layercut.engine.stack import Entered, Stack
    from layercut.engine.text_groups import Pack
    from layercut.surgery.plan import CutPlan

Path = tuple[int, ...]  # layers that were run so far


@dataclass
class Node:
    """Plans that agree in the layers run so far."""

    path: Path = ()
    plan: CutPlan | None = None  # the plan that ends here
    below: list[CutPlan] = field(default_factory=list)  # all plans that pass or end here
    children: dict[int, Node] = field(default_factory=dict)  # by the layer that is run next

    def nodes(self) -> Iterator[Node]:
        """This one and all below."""
        yield self
        for child in self.children.values():
            yield from child.nodes()


def tree_of(plans: Sequence[CutPlan]) -> Node:
    """Plans as a tree of the layers that they keep."""
    root = Node()
    for plan in plans:
        node = root
        node.below.append(plan)
        for layer in plan.kept:
            node = node.children.setdefault(layer, Node(path=(*node.path, layer)))
            node.below.append(plan)
        node.plan = plan
    return root


class Leaf(NamedTuple):
    """A plan, run to the top."""

    plan: CutPlan
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
        """The held entry, or None."""
        entry = self._held.get((prefix, path))
        if entry is not None:
            self._held.move_to_end((prefix, path))
        return entry

    def put(self, prefix: Tokens, path: Path, kv: KeyValue) -> None:
        """Hold it, if it is new."""
        if (prefix, path) in self._held:
            return
        self._held[prefix, path] = kv
        self._used += _size(kv)
        while self._used > self._room:
            _, oldest = self._held.popitem(last=False)
            self._used -= _size(oldest)


def walk(
    stack: Stack,
    pack: Pack,
    tree: Node,
    prefix: Tokens,
    cache: PrefixCache,
    *,
    ahead: Pack | None = None,
    keep: bool,
    wanted: Callable[[CutPlan], bool],
) -> Iterator[Leaf]:
    """Run a pack under every plan of a tree that is still wanted when its turn comes.

    Args:
        pack: the texts; it answers the attention of the layers.
        cache: where keys and values of the prefix are kept.
        ahead: the prefix as a pack, which is run beside the texts' to fill the cache; without, the cache holds all.
        keep: hold the keys and values of the texts on the way, for callers that continue from there.
        wanted: asked before a branch is taken, for every plan on it.
    """
    num_runs, num_ran = sum(1 for _ in tree.nodes()) - 1, 0
    entered = stack.enter(pack.ids, pack.positions)
    before = None if ahead is None else stack.enter(ahead.ids, ahead.positions)
    todo: list[tuple[Node, Tensor, Tensor | None, Mapping[int, KeyValue], Mapping[int, KeyValue]]]
    todo = [(tree, entered.states_1TD, None if before is None else before.states_1TD, {}, {})]
    while todo:
        node, states, states_ahead, own, prefix_kv = todo.pop()
        if not any(wanted(plan) for plan in node.below):
            continue
        if node.path:
            layer = node.path[-1]
            if prefix:
                if ahead is not None and before is not None and states_ahead is not None:
                    states_ahead, held = _through(stack, layer, states_ahead, before, ahead)
                    cache.put(prefix, node.path, held)
                else:
                    stored = cache.get(prefix, node.path)
                    assert stored is not None, "the prefix was given up while it was needed"
                    held = stored
                prefix_kv = pack.prefix_kv = {**prefix_kv, layer: held} if keep else {layer: held}
            states, kv = _through(stack, layer, states, entered, pack)
            own = {**own, layer: kv} if keep else own
            num_ran += 1
            works(f"reading {len(pack.ids):,} tokens", num_ran / num_runs)
        if node.plan is not None:
            yield Leaf(node.plan, states, own, prefix_kv)
        # The largest branch is pushed first and taken last: by then nothing else holds the states it starts from.
        for child in sorted(node.children.values(), key=lambda child: -len(child.below)):
            todo.append((child, states, states_ahead, own, prefix_kv))


def _through(stack: Stack, layer: int, states_1TD: Tensor, entered: Entered, pack: Pack) -> tuple[Tensor, KeyValue]:
    states_1TD = stack.run(layer, states_1TD, entered, pack)
    if pack.last is None:
        raise InputError(
            "this model's code does not use the attention interface of transformers, so texts cannot be packed; "
            "use `engine` plain."
        )
    kv, pack.last = pack.last, None
    return states_1TD, kv


def _size(kv: KeyValue) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in kv)
