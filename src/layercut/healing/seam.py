"""Training-free repair: a linear map at each cut, solved for in closed form and folded into the layer below it.

ReplaceMe (arXiv:2505.02819): the MLP of the last layer before a cut should add what brings the residual stream closest
to the original model's stream after the cut. With x what that MLP adds, y the rest of the stream and h the original
model's stream, M minimises the mean over tokens of |x M + y - h|^2 / |x + y - h|^2. ReplaceMe has no divisor, which
gives every token the same weight. The first token of a text has a norm dozens of times larger than the others and would
dominate a plain sum of squares. Sums are kept in float64, D x D for any amount of text. Seams are solved from the
bottom up, each in the model with the earlier seams repaired; both models' streams are carried along, so that each layer
runs once or twice.

The kind ``projection`` is ours. It solves for the whole last matrix W of that MLP. With a the matrix's input, the
change C minimises the mean of |a C - (h - x - y)|^2 / |h - x - y|^2. A map is one such change, C = W (M - I). As a is
wider than x, this one comes nearer. The next layers above the cut follow: their outputs should be the original model's.
Of thinner MLPs every layer's last matrix is solved for in this way, on the channels that stay; that is the closed form
of pruning with compensation (arXiv:2405.15316), whose target here also makes up for what the layers below changed.
"""

# Shapes: B batch, T tokens, N real tokens, D hidden size, F features: D of a map, for projection the matrix's inputs.

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from layercut.errors import InputError, unknown
from layercut.healing.examples import Data, TrainingExample, padded
from layercut.healing.fold import (
    HeldStream,
    add_to_projection,
    branch,
    fold,
    inputs_of,
    last_projection,
    outputs_of,
    takes_maps,
)
from layercut.healing.fold import gain as gain_of
from layercut.healing.settings import SEAMS
from layercut.progress import OnProgress
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROJECTION = "projection"
MAPS = tuple(kind for kind in SEAMS if kind != PROJECTION)
LAYERS_ABOVE = 2  # layers above each cut whose last matrices ``projection`` solves for as well
RIDGES = (1e-4, 1e-2, 0.1, 1.0, 10.0)
"""Ridges of ``linear`` and ``projection``, as a share of the mean square of a channel; the best on held-out text is
taken.
"""
MOST_INPUTS = 2048
"""Inputs of a last matrix whose columns ``projection`` changes: those with the largest weighted sum of squares in the
first batch, which holds the shortest texts. Of 6,400 inputs of Qwen2.5-Coder-1.5B, this many had nine tenths of the
effect of all, in a third of the time (docs/experiments/width.md).
"""
COLUMNS = 8  # the ridge is chosen on one column of this many of the change
RIDGE = 0.1  # the ridge where no text is held out


class Seam(NamedTuple):
    """A layer of the pruned model, and the layer of the original model whose output it should give.

    For a cut: the layer before a run of removed layers, and the last layer of the run.
    """

    below: int  # index in the pruned model
    first: int | None  # the run's first layer, as an index of the original model; None for a layer above the cut
    last: int  # index in the original model: the run's last layer, or the same layer

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
    places = []
    for seam, end in zip(seams, [*(other.below for other in seams[1:]), len(plan.kept)], strict=True):
        above = range(seam.below + 1, min(seam.below + 1 + count, end))
        places += [seam, *(Seam(index, None, plan.kept[index]) for index in above)]
    return places


class SeamFit(NamedTuple):
    """The effect of a map at a seam."""

    seam: Seam
    kind: str
    ridge: float | None
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
        what += "" if self.ridge is None else f" (ridge {self.ridge:g})"
        return f"{self.seam.describe()}: {what} leaves {self.gap_left:.1%} of the gap on held-out text, {done}"


class Sums:
    """Streaming sums for least squares of Z on X: X'X, X'Z and |Z|^2, in float64."""

    def __init__(self, num_features: int, device: torch.device, size: int, dtype: torch.dtype = torch.float64) -> None:
        """``num_features``: columns of X. ``size``: of Z. ``dtype``: of the products of one batch."""
        self._device, self._dtype = device, dtype
        self.xx_FF = torch.zeros(num_features, num_features, dtype=torch.float64, device=self._device)
        self.xz_FD = self.xx_FF.new_zeros(num_features, size)
        self.zz = 0.0
        self.num_tokens = 0

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


def unchanged(sums: Sums, kind: str) -> Tensor:
    """The map (F, D) that changes nothing: the identity, or a change of zero for projection."""
    if kind == PROJECTION:
        return torch.zeros_like(sums.xz_FD)
    return torch.eye(len(sums.xx_FF), dtype=torch.float64, device=sums.xx_FF.device)


def solve(sums: Sums, kind: str, ridge: float = RIDGE) -> Tensor:
    """The map M, (F, D) float64, for rows: X M is nearest to Z.

    linear: I + (X'X + r I)^-1 (X'Z - X'X). projection: (X'X + r I)^-1 X'Z, where Z is the change itself. In both r is
    ridge x the mean of X'X's diagonal, and the ridge pulls to "no change". scale: a factor per channel. Raises
    InputError for an unknown kind, or without tokens.
    """
    if kind not in (*MAPS, PROJECTION):
        raise unknown("seam map", kind, (*MAPS, PROJECTION))
    if not sums.num_tokens:
        raise InputError("there is no text to fit a seam on; give prompts.")
    if kind in ("linear", PROJECTION):
        ridged_FF, wanted_FD = sums.xx_FF.clone(), sums.xz_FD if kind == PROJECTION else sums.xz_FD - sums.xx_FF
        ridged_FF.diagonal().add_(ridge * sums.xx_FF.diagonal().mean())
        lower_FF, failed = torch.linalg.cholesky_ex(ridged_FF)
        change_FD: Tensor = (
            torch.linalg.solve(ridged_FF, wanted_FD) if failed else torch.cholesky_solve(wanted_FD, lower_FF)
        )
        return unchanged(sums, kind) + change_FD
    square_D = sums.xx_FF.diagonal()
    return torch.diag(torch.where(square_D > 0, sums.xz_FD.diagonal() / square_D.clamp(min=1e-30), 1.0))


def places_of(plan: CutPlan, kind: str) -> list[Seam]:
    """Places where ``repair_seams`` solves, from the bottom: the seams of removed layers, and of a plan with thinner
    MLPs every layer that has one. InputError as for ``seams_of``.
    """
    if plan.channels is None or kind != PROJECTION:
        if plan.channels is not None and not plan.removed:
            raise InputError("thinner MLPs are repaired by their last matrices alone; use `seam` projection.")
        seams = seams_of(plan)
        return with_layers_above(seams, plan, LAYERS_ABOVE) if kind == PROJECTION else seams
    at = {seam.below: seam for seam in seams_of(plan)} if plan.removed else {}
    thin = [index for index, layer in enumerate(plan.kept) if layer in plan.channels.kept or index in at]
    return [at.get(index, Seam(index, None, plan.kept[index])) for index in thin]


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
        uncut: the model it was cut from.
        data: text to fit on, and held-out text to judge by.
        kind: one of SEAMS.
        half: both models are read with products in bfloat16; streams and what is solved for keep their precision.
        on_progress: called with (texts done, texts in all).

    Raises:
        InputError: no seam, a map that does not fold into this family, or models of different width.
    """
    seams = places_of(plan, kind)
    theirs, ours = decoder_layers(uncut), decoder_layers(cut)
    if (len(theirs), len(ours)) != (plan.num_layers, len(plan.kept)):
        raise InputError(
            f"the plan cuts {plan.num_layers} layers to {len(plan.kept)}, but the teacher has {len(theirs)} and the "
            f"pruned model {len(ours)}; give the very model that was cut as `teacher`."
        )
    if kind not in SEAMS:
        raise unknown("seam repair", kind, SEAMS)
    if kind == "linear" and not all(takes_maps(ours[seam.below]) for seam in seams):
        raise InputError(
            f"{cut.config.model_type} normalises what its MLP adds to the stream, so a {kind} map cannot be folded in "
            "exactly; use `seam` scale."
        )
    if kind == PROJECTION:
        for seam in seams:
            last_projection(ours[seam.below])
    batches = [_batches(examples, batch_size) for examples in (data.train, data.held_out)]
    ids = [ids_BT for part in batches for ids_BT, _ in part]
    streams = HeldStreams(
        HeldStream(cut, [padded(data.train[:1])["input_ids"]]), HeldStream(cut, ids), HeldStream(uncut, ids)
    )
    done, total = 0, len(seams) * (len(data.train) + len(data.held_out))
    on_progress(0, total)
    fits = []
    for seam in seams:
        gain = streams.gain(seam, ours[seam.below])
        fitted, judged = (_sums(cut, ours[seam.below], kind) for _ in range(2))
        columns_F = torch.empty(0, dtype=torch.long)
        masks = [(sums, mask_BT) for sums, part in zip((fitted, judged), batches, strict=True) for _, mask_BT in part]
        for place, (sums, mask_BT) in enumerate(masks):
            mask_BT = mask_BT.to(cut.device)
            x_NF, z_ND = _read(streams, place, ours[seam.below], seam, kind, gain, mask_BT, half)
            if not len(columns_F):
                columns_F = x_NF.square().sum(0).topk(len(fitted.xx_FF)).indices.sort().values
            sums.add(x_NF[:, columns_F], z_ND)
            done += len(mask_BT)
            on_progress(done, total)
        judged = judged if judged.num_tokens else fitted
        map_FD, fit = _best(seam, kind, fitted, judged)
        if fit.is_folded and kind == PROJECTION:
            size = last_projection(ours[seam.below]).weight.numel() // map_FD.shape[1]
            change_FD = map_FD.new_zeros(size, map_FD.shape[1]).index_copy(0, columns_F, map_FD)
            add_to_projection(ours[seam.below], change_FD.T)
        elif fit.is_folded:
            fold(ours[seam.below], map_FD.T)
        fits.append(fit)
    return fits


class HeldStreams(NamedTuple):
    """The streams of both models, which go up together."""

    text: HeldStream  # of the pruned model, over one text
    ours: HeldStream
    theirs: HeldStream

    def gain(self, seam: Seam, layer: nn.Module) -> float:
        """How the layer below a seam adds what its MLP gives; see ``gain_of``."""
        if seam.below:
            self.text.behind(0, seam.below - 1)
        return gain_of(layer, lambda: self.text.run(0, seam.below))


def _sums(cut: PreTrainedModel, layer: nn.Module, kind: str) -> Sums:
    size = cut.config.get_text_config(decoder=True).hidden_size
    features = last_projection(layer).weight.numel() // size if kind == PROJECTION else size
    return Sums(min(features, MOST_INPUTS), cut.device, size, torch.float32 if kind == PROJECTION else torch.float64)


def _best(seam: Seam, kind: str, fitted: Sums, judged: Sums) -> tuple[Tensor, SeamFit]:
    has_ridge = kind in ("linear", PROJECTION)
    ridges: Sequence[float | None] = [None] if not has_ridge else RIDGES if judged is not fitted else [RIDGE]
    ridge = ridges[0]
    if len(ridges) > 1:
        few, shown = (sums.part(COLUMNS) if kind == PROJECTION else sums for sums in (fitted, judged))
        ridge = min(RIDGES, key=lambda ridge: shown.error(solve(few, kind, ridge)))
    map_FD = solve(fitted, kind, ridge or 0.0)
    nothing = judged.zz if kind == PROJECTION else judged.error(unchanged(judged, kind))
    return map_FD, SeamFit(seam, kind, ridge, judged.error(map_FD) / max(nothing, 1e-30), fitted.num_tokens)


@torch.no_grad()
def _read(
    streams: HeldStreams, place: int, below: nn.Module, seam: Seam, kind: str, gain: float, mask_BT: Tensor, half: bool
) -> tuple[Tensor, Tensor]:
    """Both sides of the least squares at a seam, for each token of a batch, in float64.

    What the MLP below adds, and what it should add: the original model's stream minus the rest of ours. Or the inputs
    of its last matrix, and what it should add more. Both are divided by the distance between the two streams, so that a
    sum of squares gives every token the same weight.
    """
    read: AbstractContextManager[list[Tensor]] = nullcontext([])
    if kind == PROJECTION:
        read = inputs_of(last_projection(below))
    with torch.autocast(mask_BT.device.type, torch.bfloat16, enabled=half):
        if seam.below:
            streams.ours.behind(place, seam.below - 1)
        with outputs_of([branch(below), below], range(2)) as seen, read as inputs:
            streams.ours.run(place, seam.below)
        seen[2] = streams.theirs.behind(place, seam.last)
    output_ND, ours_ND, theirs_ND = (seen[index].to(mask_BT.device)[mask_BT].double() for index in range(3))
    added_ND = gain * output_ND
    wanted_ND = theirs_ND - (ours_ND - added_ND)
    gap_N1 = (wanted_ND - added_ND).norm(dim=-1, keepdim=True).clamp(min=1e-9)
    if inputs:
        return inputs[0][mask_BT].float() / gap_N1, (theirs_ND - ours_ND) / (gain * gap_N1)
    return added_ND / gap_N1, wanted_ND / gap_N1


def _batches(examples: Sequence[TrainingExample], size: int) -> list[tuple[Tensor, Tensor]]:
    """Ids and mask (B, T) of texts of similar length."""
    ordered, batches = sorted(examples, key=len), []
    for start in range(0, len(ordered), size):
        rows = ordered[start : start + size]
        ids_BT = padded(rows)["input_ids"]
        batches.append((ids_BT, torch.arange(ids_BT.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]))
    return batches
