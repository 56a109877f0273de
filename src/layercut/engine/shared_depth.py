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
from typing import NamedTuple

from torch import Tensor

from layercut.engine.attention import KeyValue
from layercut.engine.rows import Tokens
from layercut.engine.stack import Entered, Stack
from layercut.engine.text_groups import Pack, PackedText
from layercut.errors import InputError
from layercut.progress.activity import report_share
from layercut.surgery.plan import CutPlan

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
        """Plans as a tree of the layers that they keep."""
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
        """All nodes below, each before those below it."""
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
        self._used += kv.keys.nbytes + kv.values.nbytes
        while self._used > self._room:
            _, oldest = self._held.popitem(last=False)
            self._used -= oldest.keys.nbytes + oldest.values.nbytes


def run_plans(
    stack: Stack,
    plans: Sequence[CutPlan],
    prefix: Tokens,
    cache: PrefixCache,
    texts: Sequence[PackedText],
    wanted: Callable[[CutPlan], bool] = lambda plan: True,
    *,
    keep: bool,
) -> Iterator[Leaf]:
    """Run texts behind a prefix under every plan that is still wanted when its turn comes.

    What the cache lacks of the prefix is run beside the texts. ``keep`` holds the keys and values of the texts on the
    way, for callers that continue from there.
    """
    tree = Node.of([plan for plan in plans if wanted(plan)])
    if not tree.below:
        return
    nodes = list(tree.descendants())
    # Looked up from the leaves down, so that what is given up first is what the fewest plans need.
    held = [cache.get(prefix, node.path) for node in nodes] if prefix else []
    pack, num_ran = Pack(texts, prefix, device=stack.device), 0
    entered = stack.enter(pack.ids, pack.positions)
    todo: list[tuple[Node, Tensor, Tensor | None, Mapping[int, KeyValue], Mapping[int, KeyValue]]]
    todo = [(tree, entered.states_1TD, None, {}, {})]
    if None in held:
        ahead = Pack([PackedText.line(prefix)], (), device=stack.device)
        before = stack.enter(ahead.ids, ahead.positions)
        todo = [(tree, entered.states_1TD, before.states_1TD, {}, {})]
    while todo:
        node, states, states_ahead, own, prefix_kv = todo.pop()
        if not any(wanted(plan) for plan in node.below):
            continue
        if node.path:
            layer = node.path[-1]
            if prefix:
                if states_ahead is not None:
                    states_ahead, kv = _run_layer(stack, layer, states_ahead, before, ahead)
                    cache.put(prefix, node.path, kv)
                else:
                    stored = cache.get(prefix, node.path)
                    assert stored is not None, "the prefix was given up while it was needed"
                    kv = stored
                prefix_kv = pack.prefix_kv = {**prefix_kv, layer: kv} if keep else {layer: kv}
            states, kv = _run_layer(stack, layer, states, entered, pack)
            own = {**own, layer: kv} if keep else own
            num_ran += 1
            report_share(f"reading {len(pack.ids):,} tokens", num_ran / len(nodes))
        if node.plan is not None:
            yield Leaf(node.plan, pack, states, own, prefix_kv)
        # The largest branch is pushed first and taken last: by then nothing else holds the states it starts from.
        for child in sorted(node.children.values(), key=lambda child: -len(child.below)):
            todo.append((child, states, states_ahead, own, prefix_kv))


def _run_layer(stack: Stack, layer: int, states_1TD: Tensor, entered: Entered, pack: Pack) -> tuple[Tensor, KeyValue]:
    states_1TD = stack.run(layer, states_1TD, entered, pack)
    if pack.last is None:
        raise InputError(
            "this model's code does not use the attention interface of transformers, so texts cannot be packed; "
            "use `engine` plain."
        )
    kv, pack.last = pack.last, None
    return states_1TD, kv
