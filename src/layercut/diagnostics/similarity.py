"""Similarity: how hidden states change with depth, the seam after a cut, and the layer that decides the final token.

Cosines between layers as in Men et al., "ShortGPT", arXiv:2403.03853, and the seams of arXiv:2602.01997; angular
distances as in Gromov et al., arXiv:2403.17887; the logit lens of nostalgebraist (2020).
"""

# Shapes: T tokens, D hidden size, A and B states of two models: their layers and the embedding output.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from layercut.diagnostics.degeneration import continuations, openings
from layercut.diagnostics.measures import rows_of
from layercut.diagnostics.session import DiagnosticSession, Read, Record, SessionModel
from layercut.engine.head import chunks, logits
from layercut.engine.rows import text_tokens
from layercut.engine.stack import Stack
from layercut.errors import InputError
from layercut.evidence.diagnosis import Diagnosis, MeasureRow
from layercut.models.loading import LoadedModel
from layercut.text.counting import counted

NAME = "similarity"
MOST_TEXTS = 24
"""Means over texts settle early, and every text is a matrix of layers x layers in the journal."""
FEW_TEXTS = 8


def similarity(session: DiagnosticSession) -> Diagnosis:
    """Read texts with every model and compare its states with each other and with those of the original model.

    The texts are those that the original model writes after the prompts of the degeneration probe. Per model: cosine
    and angular distance of all its states with all uncut ones (means over real tokens, averaged over texts), cosine of
    each layer's input and output, and norms. The logit lens gives the share of tokens whose likeliest successor behind
    each layer is the final one.

    Measures: ``final state``, cosine of the last states of both models; ``seam``, cosine of input and output of the
    first kept layer behind each cut, in the pruned model and in the original one.
    """
    prompts = openings(min(session.limit, MOST_TEXTS), session.seed)
    session.came("texts", prompts, MOST_TEXTS)
    texts = _texts(session, prompts)
    lens = Lens()
    read = session.states("similarity.states", texts, lambda one: _compared(one, prompts[one.id], lens))
    means = {arm.name: _averaged([read[arm.name][id] for id in texts]) for arm in session.arms}
    decided = {arm.name: _shares([read[arm.name][id]["decided"] for id in texts]) for arm in session.arms}
    uncut, rows = session.uncut, []
    for arm in session.cuts:
        seams = {
            layer: [(read[uncut.name][id]["steps"][before], read[arm.name][id]["steps"][after]) for id in texts]
            for layer, before, after in seams_between(arm, uncut)
        }
        rows += _rows(session, arm, [read[arm.name][id]["cosine"][-1][-1] for id in texts], seams)
    data = {
        "arms": {
            arm.name: {**means[arm.name], "layers": list(arm.layers), "lens": decided[arm.name]} for arm in session.arms
        }
    }
    notes = [
        f"{counted(len(texts), 'text')}. States before the final norm; a pruned model's are set beside the "
        "uncut ones by layer."
    ]
    return {"rows": rows, "data": data, "examples": [], "notes": notes}


def final_states(session: DiagnosticSession) -> Diagnosis:
    """The two numbers of ``similarity`` that separate layers: for many models, such as one without each layer.

    Measures: ``final state``, and ``seam`` behind each cut.
    """
    prompts = openings(min(session.limit, FEW_TEXTS), session.seed)
    session.came("texts", prompts, FEW_TEXTS)
    texts = _texts(session, prompts)

    def compared(one: Read) -> Record:
        own_ATD, uncut_ATD = _aligned(one)
        record: Record = {"final": round(_cosine(own_ATD[-1], uncut_ATD[-1]), 5), "seams": {}}
        for layer, before, after in seams_between(one.arm, session.uncut):
            pair = [_cosine(uncut_ATD[before], uncut_ATD[before + 1]), _cosine(own_ATD[after], own_ATD[after + 1])]
            record["seams"][f"layer {layer}"] = [round(value, 5) for value in pair]
        return record

    read = session.states("similarity.final_states", texts, compared, session.cuts)
    rows = []
    for arm in session.cuts:
        found = [read[arm.name][id] for id in texts]
        seams = {
            layer: [one["seams"][f"layer {layer}"] for one in found]
            for layer, _, _ in seams_between(arm, session.uncut)
        }
        rows += _rows(session, arm, [one["final"] for one in found], seams)
    notes = [f"{counted(len(texts), 'text')}. States before the final norm."]
    return {"rows": rows, "data": {}, "examples": [], "notes": notes}


def _rows(
    session: DiagnosticSession,
    arm: SessionModel,
    final: Sequence[float],
    seams: Mapping[int, Sequence[Sequence[float]]],
) -> list[MeasureRow]:
    """Rows of the final state and of each seam, which has the original and the pruned model's value for each text."""
    uncut = session.uncut.name
    rows = rows_of(session, NAME, "final state", {uncut: [1.0] * len(final), arm.name: final}, unit="score")
    for layer, pairs in seams.items():
        values = {name: [pair[side] for pair in pairs] for side, name in enumerate((uncut, arm.name))}
        rows += rows_of(session, NAME, "seam", values, group=f"layer {layer}", unit="score")
    return rows


def cosines(states_ATD: Tensor, others_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and angular distance of all states of two models on the same tokens: means over tokens, (A, B) each.

    Angular distance: arccos(cos) / pi of each token, from 0 to 1, as in arXiv:2403.17887.
    """
    cosine_TAB = torch.einsum("atd,btd->tab", normalize(states_ATD, dim=-1), normalize(others_BTD, dim=-1))
    angle_TAB = torch.arccos(cosine_TAB.clamp(-1, 1)) / math.pi
    return cosine_TAB.mean(dim=0), angle_TAB.mean(dim=0)


def seams_of(layers: Sequence[int], uncut: Sequence[int]) -> list[int]:
    """The kept layers that stand right behind removed ones.

    >>> seams_of((0, 1, 4, 5), range(6)), seams_of((0, 1, 2), range(6)), seams_of((2, 3), range(4))
    ([4], [], [2])
    """
    kept = set(layers)
    return [layer for layer in layers if layer - 1 in uncut and layer - 1 not in kept]


def seams_between(arm: SessionModel, uncut: SessionModel) -> list[tuple[int, int, int]]:
    """Each seam: the layer behind it, its place in the original model, and its place in the pruned one."""
    seams = seams_of(arm.layers, uncut.layers)
    return [(layer, uncut.layers.index(layer), arm.layers.index(layer)) for layer in seams]


def _texts(session: DiagnosticSession, prompts: dict[str, str]) -> dict[str, str]:
    # The degeneration probe asks the same, so its answers are reused.
    answers = continuations(session, prompts, [session.uncut])[session.uncut.name]
    return {id: text + answers[id]["text"] for id, text in prompts.items()}


def _aligned(one: Read) -> tuple[Tensor, Tensor]:
    """States (A, T, D) of the model and (B, T, D) of the original one, on the same tokens."""
    own_ATD, uncut_BTD = (torch.cat(found.states_BTD) for found in (one.own, one.uncut))
    if own_ATD.shape[1:] != uncut_BTD.shape[1:]:
        raise InputError(
            f"{one.arm.name} reads the text as {own_ATD.shape[1]} tokens of {own_ATD.shape[2]} numbers, the "
            f"original model as {uncut_BTD.shape[1]} of {uncut_BTD.shape[2]}; give a model that was cut from it."
        )
    return own_ATD, uncut_BTD


def _cosine(first_TD: Tensor, second_TD: Tensor) -> float:
    """Mean over tokens."""
    return float((normalize(first_TD, dim=-1) * normalize(second_TD, dim=-1)).sum(-1).mean())


def _compared(one: Read, prompt: str, lens: Lens) -> Record:
    """The record of one text under one model."""
    own_ATD, uncut_ATD = _aligned(one)
    cosine_AB, angle_AB = cosines(own_ATD, uncut_ATD)
    steps_A = (normalize(own_ATD[:-1], dim=-1) * normalize(own_ATD[1:], dim=-1)).sum(-1).mean(-1)
    return {
        "cosine": _rounded(cosine_AB),
        "angle": _rounded(angle_AB),
        "steps": _rounded(steps_A),
        "norms": _rounded(own_ATD.norm(dim=-1).mean(-1)),
        "decided": lens.decided(one, own_ATD, prompt),
    }


def _rounded(values: Tensor) -> Any:
    return torch.round(values.double(), decimals=5).tolist()


def _averaged(records: Sequence[Record]) -> Record:
    return {
        name: torch.tensor([record[name] for record in records], dtype=torch.float64).mean(dim=0).tolist()
        for name in ("cosine", "angle", "steps", "norms")
    }


def _shares(counts: Sequence[Sequence[int]]) -> list[float]:
    """By layer, the share of the tokens of all texts that are decided there."""
    of_layers = [sum(of_layer) for of_layer in zip(*counts, strict=True)]
    return [count / max(1, of_layers[-1]) for count in of_layers]


class Lens:
    """The logit lens: final norm and head behind any layer. Layers shared by models of one source run once."""

    def __init__(self) -> None:
        self._id = ""
        self._found: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def decided(self, one: Read, own_ATD: Tensor, prompt: str) -> list[int]:
        """By layer, the number of tokens behind the prompt whose likeliest successor is already the final one.

        The last number is that of all tokens.
        """
        if one.id != self._id:
            self._id, self._found = one.id, {}
        assert one.arm.model is not None, f"{one.arm.name} has no output head"
        loaded, kept = one.arm.model(), one.arm.plan.kept
        start = len(text_tokens(loaded, prompt, 0)) - 1
        tokens = []
        for depth in range(1, len(kept) + 1):
            path = (one.arm.source, kept[:depth])
            if path not in self._found:
                self._found[path] = likeliest(loaded, own_ATD[depth, start:-1])
            tokens.append(self._found[path])
        return [int((found == tokens[-1]).sum()) for found in tokens]


def likeliest(loaded: LoadedModel, states_ND: Tensor) -> Tensor:
    """The likeliest next token (N,) of these states, by final norm and head."""
    before = Stack(loaded).leave(states_ND.to(loaded.model.device, loaded.model.dtype))
    parts = [logits(loaded.model, before, chunk).argmax(dim=-1) for chunk in chunks(loaded.model, len(states_ND))]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
