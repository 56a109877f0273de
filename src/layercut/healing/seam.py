"""Training-free repair: a linear map at each cut, solved for in closed form and folded into the layer below it.

ReplaceMe (arXiv:2505.02819): the MLP of the last layer before a cut should add what brings the residual stream closest
to the original model's stream after the cut. With x what that MLP adds, y the rest of the stream and h the original
model's stream, M minimises the mean over tokens of |x M + y - h|^2 / |x + y - h|^2. ReplaceMe has no divisor; without
it the first token of a text, whose norm is dozens of times larger, would dominate. Sums are kept in float64, D x D for
any amount of text. Seams are solved from the bottom up, each in the model with the earlier seams repaired.

The kind ``projection`` is ours. It solves for the whole last matrix W of that MLP. With a the matrix's input, the
change C minimises the mean of |a C - (h - x - y)|^2 / |h - x - y|^2. A map is one such change, C = W (M - I). The next
layers above the cut follow. Of thinner MLPs every layer's last matrix is solved for in this way, on the channels that
stay: the closed form of pruning with compensation (arXiv:2405.15316).
"""

# Shapes: B batch, T tokens, N real tokens, D hidden size, F features: D of a map, for projection the matrix's inputs.

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from layercut.engine.stack import StandIn, in_place_of
from layercut.errors import InputError, unknown_name
from layercut.healing import fold
from layercut.healing.examples import Data, TrainingExample, pad_examples
from layercut.healing.settings import SEAMS
from layercut.progress import OnProgress
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROJECTION = "projection"
LAYERS_ABOVE = 2  # layers above each cut whose last matrices ``projection`` solves for as well
RIDGES = (1e-4, 1e-2, 0.1, 1.0, 10.0)
"""Ridges of ``linear`` and ``projection``, as a share of the mean square of a channel; the best on held-out text is
taken.
"""
MOST_INPUTS = 2048
"""Inputs of a last matrix whose columns ``projection`` changes: those with the largest weighted sum of squares in the
first batch, which holds the shortest texts: nine tenths of the effect, a third of the time (docs/experiments/width.md).
"""
COLUMNS = 8  # the ridge is chosen on one column of this many of the change
RIDGE = 0.1  # the ridge where no text is held out
_TRIED = 16  # tokens on which it is tried whether a model goes on from a held stream


class Seam(NamedTuple):
    """A layer of the pruned model, and the layer of the original model whose output it should give.

    For a cut: the layer before a run of removed layers, and the last layer of the run.
    """

    below: int  # index in the pruned model
    first: int | None  # the run's first layer, as an index of the original model; None for a layer above the cut
    last: int  # index in the original model: the run's last layer, or the same layer

    def describe(self) -> str:
        return f"layer {self.last}" if self.first is None else f"seam of layers {self.first}-{self.last}"


class SeamFit(NamedTuple):
    """The effect of a map at a seam."""

    seam: Seam
    kind: str
    ridge: float
    gap_left: float
    """Mean over held-out tokens: squared distance from the original stream, as a share of that without a map."""
    num_tokens: int

    @property
    def is_folded(self) -> bool:
        """True if it helps on held-out text; otherwise it is not folded in."""
        return self.gap_left < 1

    def describe(self) -> str:
        done = "folded in" if self.is_folded else "skipped, because it does not help"
        what = "the last matrix" if self.kind == PROJECTION else f"the {self.kind} map"
        what += f" (ridge {self.ridge:g})"
        return f"{self.seam.describe()}: {what} leaves {self.gap_left:.1%} of the gap on held-out text, {done}"


def repair_seams(
    cut: PreTrainedModel,
    uncut: PreTrainedModel,
    plan: CutPlan,
    data: Data,
    kind: str = "linear",
    *,
    batch_size: int = 8,
    half: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> list[SeamFit]:
    """Fold a map into the layer below every seam of ``cut``, in place; ``projection`` into layers above as well.

    Args:
        cut: the pruned model, in float32.
        data: text to fit on, and held-out text to judge by.
        half: both models are read with products in bfloat16; streams and what is solved for keep their precision.

    Raises InputError: no seam, a map that does not fold into this family, or models of different width.
    """
    seams = places_to_repair(plan, kind)
    layers, size = decoder_layers(cut), cut.config.get_text_config(decoder=True).hidden_size
    _check(cut, uncut, plan, kind, [layers[seam.below] for seam in seams])
    batches = [_batches(examples, batch_size) for examples in (data.train, data.held_out)]
    ids = [ids_BT for part in batches for ids_BT, _ in part]
    ours, theirs, text = (
        HeldStream(cut, ids),
        HeldStream(uncut, ids),
        HeldStream(cut, [pad_examples(data.train[:1])["input_ids"]]),
    )
    done, total = 0, len(seams) * (len(data.train) + len(data.held_out))
    on_progress(0, total)
    fits = []
    for seam in seams:
        layer = layers[seam.below]
        if seam.below:
            text.above(0, seam.below - 1)
        factor = fold.norm_gain(layer, partial(text.run, 0, seam.below))
        num_inputs = fold.last_projection(layer).weight.numel() // size if kind == PROJECTION else size
        dtype = torch.float32 if kind == PROJECTION else torch.float64
        fitted, judged = (Sums(min(num_inputs, MOST_INPUTS), cut.device, size, dtype) for _ in range(2))
        columns_F = torch.empty(0, dtype=torch.long)
        masks = [(sums, mask_BT) for sums, part in zip((fitted, judged), batches, strict=True) for _, mask_BT in part]
        for place, (sums, mask_BT) in enumerate(masks):
            mask_BT = mask_BT.to(cut.device)
            x_NF, z_ND = _read(ours, theirs, place, layer, seam, kind, factor, mask_BT, half)
            if not len(columns_F):
                columns_F = x_NF.square().sum(0).topk(len(fitted.xx_FF)).indices.sort().values
            sums.add(x_NF[:, columns_F], z_ND)
            done += len(mask_BT)
            on_progress(done, total)
        map_FD, fit = _best(seam, kind, fitted, judged if judged.num_tokens else fitted)
        if fit.is_folded and kind == PROJECTION:
            fold.add_to_projection(layer, map_FD.new_zeros(num_inputs, size).index_copy(0, columns_F, map_FD).T)
        elif fit.is_folded:
            fold.fold_map_into_mlp(layer, map_FD.T)
        fits.append(fit)
    return fits


def _check(cut: PreTrainedModel, uncut: PreTrainedModel, plan: CutPlan, kind: str, places: list[nn.Module]) -> None:
    num_theirs, num_ours = len(decoder_layers(uncut)), len(decoder_layers(cut))
    if (num_theirs, num_ours) != (plan.num_layers, len(plan.kept)):
        cuts = f"{plan.num_layers} layers to {len(plan.kept)}, not {num_theirs} to {num_ours}"
        raise InputError(f"the plan cuts {cuts}; give the very model that was cut as `teacher`.")
    if kind not in SEAMS:
        raise unknown_name("seam repair", kind, SEAMS)
    for layer in places if kind == PROJECTION else ():
        fold.last_projection(layer)


def places_to_repair(plan: CutPlan, kind: str) -> list[Seam]:
    """Places where ``repair_seams`` solves, from the bottom: the seams of removed layers, with ``projection`` up to
    LAYERS_ABOVE layers above each as well, and of a plan with thinner MLPs every layer that has one. InputError as for
    ``seams_of``."""
    thin = () if plan.channels is None else plan.channels.kept
    if thin and kind != PROJECTION and not plan.removed:
        raise InputError("thinner MLPs are repaired by their last matrices alone; use `seam` projection.")
    seams = {} if thin and kind == PROJECTION and not plan.removed else {seam.below: seam for seam in seams_of(plan)}
    if kind != PROJECTION:
        return list(seams.values())
    if thin:
        places = {index for index, layer in enumerate(plan.kept) if layer in thin} | {*seams}
    else:
        places = {below + above for below in seams for above in range(LAYERS_ABOVE + 1)} & {*range(len(plan.kept))}
    return [seams.get(index, Seam(index, None, plan.kept[index])) for index in sorted(places)]


def seams_of(plan: CutPlan) -> list[Seam]:
    """The runs of removed layers, from the bottom; InputError without any, or without a layer below to fold into."""
    removed = set(plan.removed)
    if not removed:
        raise InputError("this model was not cut by layercut (its plan.json removes nothing), so it has no seam.")
    if 0 in removed:
        raise InputError("layer 0 was removed, so no layer is below that seam; train instead (`method` lora).")
    firsts = [index for index in sorted(removed) if index - 1 not in removed]
    lasts = [index for index in sorted(removed) if index + 1 not in removed]
    return [Seam(plan.kept.index(first - 1), first, last) for first, last in zip(firsts, lasts, strict=True)]


class Sums:
    """Streaming sums for least squares of Z on X: X'X, X'Z and |Z|^2, in float64."""

    def __init__(self, num_features: int, device: torch.device, size: int, dtype: torch.dtype = torch.float64) -> None:
        self._device, self._dtype = device, dtype
        self.xx_FF = torch.zeros(num_features, num_features, dtype=torch.float64, device=self._device)
        self.xz_FD = self.xx_FF.new_zeros(num_features, size)
        self.zz, self.num_tokens = 0.0, 0

    def add(self, x_NF: Tensor, z_ND: Tensor) -> None:
        x_NF, z_ND = x_NF.to(self._device, self._dtype), z_ND.to(self._device, self._dtype)
        self.xx_FF += x_NF.T @ x_NF
        self.xz_FD += x_NF.T @ z_ND
        self.zz += z_ND.double().square().sum().item()
        self.num_tokens += len(x_NF)

    def part(self, every: int) -> Sums:
        """The same for one column of Z of this many; |Z|^2, a constant of the error, is left out."""
        part = copy(self)
        part.xz_FD, part.zz = self.xz_FD[:, ::every], 0.0
        return part

    def error(self, map_FD: Tensor) -> float:
        """|X M - Z|^2 = tr(M'X'XM) - 2 tr(M'X'Z) + |Z|^2."""
        return ((map_FD * (self.xx_FF @ map_FD)).sum() - 2 * (map_FD * self.xz_FD).sum()).item() + self.zz


def solve_linear_map(sums: Sums, kind: str, ridge: float = RIDGE) -> Tensor:
    """The map M, (F, D) float64, for rows: X M is nearest to Z.

    linear: I + (X'X + r I)^-1 (X'Z - X'X). projection: (X'X + r I)^-1 X'Z, where Z is the change itself. In both r is
    ridge x the mean of X'X's diagonal, and the ridge pulls to "no change". Raises InputError for too few tokens.
    """
    if not sums.num_tokens:
        raise InputError("there is no text to fit a seam on; give prompts.")
    ridged_FF, wanted_FD = sums.xx_FF.clone(), sums.xz_FD if kind == PROJECTION else sums.xz_FD - sums.xx_FF
    ridged_FF.diagonal().add_(ridge * sums.xx_FF.diagonal().mean())
    lower_FF, failed = torch.linalg.cholesky_ex(ridged_FF)
    change_FD: Tensor = torch.cholesky_solve(wanted_FD, lower_FF)
    if failed:
        change_FD, failed = torch.linalg.solve_ex(ridged_FF, wanted_FD)
    if failed:
        raise InputError(f"{sums.num_tokens:,} tokens of text are too few to fit a seam on; give more prompts.")
    return _unchanged(sums, kind) + change_FD


def _unchanged(sums: Sums, kind: str) -> Tensor:
    """The map (F, D) that changes nothing: the identity, or a change of zero for projection."""
    if kind == PROJECTION:
        return torch.zeros_like(sums.xz_FD)
    return torch.eye(len(sums.xx_FF), dtype=torch.float64, device=sums.xx_FF.device)


def _best(seam: Seam, kind: str, fitted: Sums, judged: Sums) -> tuple[Tensor, SeamFit]:
    ridge = RIDGE
    if judged is not fitted:
        few, shown = (sums.part(COLUMNS) if kind == PROJECTION else sums for sums in (fitted, judged))
        ridge = min(RIDGES, key=lambda ridge: shown.error(solve_linear_map(few, kind, ridge)))
    map_FD = solve_linear_map(fitted, kind, ridge)
    nothing = judged.zz if kind == PROJECTION else judged.error(_unchanged(judged, kind))
    return map_FD, SeamFit(seam, kind, ridge, judged.error(map_FD) / max(nothing, 1e-30), fitted.num_tokens)


@torch.no_grad()
def _read(
    ours: HeldStream,
    theirs: HeldStream,
    place: int,
    layer: nn.Module,
    seam: Seam,
    kind: str,
    factor: float,
    mask_BT: Tensor,
    half: bool,
) -> tuple[Tensor, Tensor]:
    """Both sides of the least squares at a seam, for each token of a batch, in float64.

    What the MLP below adds, and what it should add; or the inputs of its last matrix, and what it should add more. Both
    are divided by the distance between the two streams, so that a sum of squares gives every token the same weight.
    """
    with torch.autocast(mask_BT.device.type, torch.bfloat16, enabled=half):
        if seam.below:
            ours.above(place, seam.below - 1)
        module = fold.last_projection(layer) if kind == PROJECTION else fold.residual_branch(layer)
        with (
            fold.outputs_of_layers([fold.residual_branch(layer), layer], range(2)) as seen,
            fold.inputs_of_module(module) as inputs,
        ):
            ours.run(place, seam.below)
        seen[2] = theirs.above(place, seam.last)
    output_ND, ours_ND, theirs_ND = (seen[index].to(mask_BT.device)[mask_BT].double() for index in range(3))
    added_ND = factor * output_ND
    wanted_ND = theirs_ND - (ours_ND - added_ND)
    gap_N1 = (wanted_ND - added_ND).norm(dim=-1, keepdim=True).clamp(min=1e-9)
    if kind == PROJECTION:
        return inputs[0][mask_BT].float() / gap_N1, (theirs_ND - ours_ND) / (factor * gap_N1)
    return added_ND / gap_N1, wanted_ND / gap_N1


def _batches(examples: Sequence[TrainingExample], size: int) -> list[tuple[Tensor, Tensor]]:
    """Ids and mask (B, T) of texts of similar length."""
    ordered = sorted(examples, key=len)
    parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    lengths = [torch.tensor([*map(len, part)])[:, None] for part in parts]
    ids = [pad_examples(part)["input_ids"] for part in parts]
    return [
        (ids_BT, torch.arange(ids_BT.shape[1]) < lengths_B1) for ids_BT, lengths_B1 in zip(ids, lengths, strict=True)
    ]


class HeldStream:
    """The stream of one model; weights of layers above the held one may change meanwhile."""

    def __init__(self, model: Any, batches_BT: Sequence[Tensor]) -> None:
        self._model, self._layers, self._batches = model, decoder_layers(model), batches_BT
        self._held: dict[int, tuple[int, Tensor]] = {}
        self.goes_on = False
        """False where layers share keys, for example: then the model always runs from the bottom."""
        try:
            self.goes_on = self._is_equal()
        except Exception:  # a model's own code, called in a way that it may not know
            self.goes_on = False

    @torch.no_grad()
    def run(self, place: int, layer: int) -> None:
        """Run a batch up to the output of a layer above the held one; hooks that were set see it."""
        self._run(self._batches[place], layer, self._held.get(place))

    def above(self, place: int, layer: int) -> Tensor:
        """The stream (B, T, D) of a batch above a layer, which is held from now on."""
        held = self._held.get(place)
        if held is None or held[0] != layer:
            with fold.outputs_of_layers(self._layers, [layer]) as seen:
                self.run(place, layer)
            held = (layer, seen[layer])
            if self.goes_on:
                self._held[place] = held
        return held[1]

    def _run(self, ids_BT: Tensor, layer: int, held: tuple[int, Tensor] | None) -> None:
        ids_BT, modules = ids_BT.to(self._model.device), list(self._layers)
        if held is not None:
            below, states_BTD = held
            modules[: below + 1] = [StandIn(module, [], states_BTD) for module in modules[: below + 1]]
        with in_place_of(self._layers, modules):
            fold.run_up_to_layer(modules[layer], self._model, ids_BT)

    @torch.no_grad()
    def _is_equal(self) -> bool:
        ids_1T, count = self._batches[0][:1, :_TRIED], len(self._layers)
        with fold.outputs_of_layers(self._layers, range(count)) as plain:
            self._run(ids_1T, count - 1, None)
        for layer in range(1, count):
            with fold.outputs_of_layers(self._layers, [layer]) as seen:
                self._run(ids_1T, layer, (layer - 1, plain[layer - 1]))
            if not torch.equal(seen[layer], plain[layer]):
                return False
        return True
