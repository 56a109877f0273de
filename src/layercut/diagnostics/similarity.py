"""Similarity: how hidden states change along depth, what the seam after a cut looks like, and when the end is decided.

Cosines between layers as in Men et al., "ShortGPT", arXiv:2403.03853, and the seams of arXiv:2602.01997; angular
distances as in Gromov et al., arXiv:2403.17887; the logit lens of nostalgebraist (2020).
"""

# Shapes: T tokens, D hidden size, A and B states of two models: their layers and the embedding output.

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from layercut.diagnostics.degeneration import MAX_NEW_TOKENS
from layercut.diagnostics.measures import rows_of
from layercut.diagnostics.openings import openings
from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layercut.diagnostics.bench import Arm, Bench, Record
    from layercut.runs.diagnosis import Diagnosis

NAME = "similarity"
MOST_TEXTS = 24
"""Means over texts settle early, and every text is a matrix of layers x layers in the journal."""
FEW_TEXTS = 8
"""Where every layer is skipped alone."""


def similarity(bench: Bench) -> Diagnosis:
    """Read texts with every model and compare its states with each other and with those of the uncut model.

    The texts are those that the uncut model writes behind the openings of the degeneration probe. Per model: cosine and
    angular distance of all its states with all uncut ones (means over real tokens, averaged over texts), cosine of each
    layer's input and output, norms, and the logit lens: how often the likeliest token is already the final one when the
    model is left after each layer.

    Measures: ``final state``, cosine of the last states of both models, and ``seam``, cosine of input and output of
    the first kept layer behind each cut, in the cut model and in the uncut one.
    """
    prompts = openings(min(bench.limit, MOST_TEXTS), bench.seed)
    texts = _texts(bench, prompts)
    read = bench.computed("similarity.states", list(texts), lambda id: _compared(bench, texts[id]))
    lens = _logit_lens(bench, prompts, texts)
    means = {arm.name: _averaged([read[id][arm.name] for id in texts]) for arm in bench.arms}
    rows = []
    for arm in bench.cuts:
        seams = seams_of(arm.layers, bench.uncut.layers)
        one_arm = {
            bench.uncut.name: [1.0] * len(texts),
            arm.name: [read[id][arm.name]["cosine"][-1][-1] for id in texts],
        }
        rows += rows_of(bench, NAME, "final state", one_arm, unit="score")
        for layer in seams:
            before, after = bench.uncut.layers.index(layer), arm.layers.index(layer)
            values = {
                bench.uncut.name: [read[id][bench.uncut.name]["steps"][before] for id in texts],
                arm.name: [read[id][arm.name]["steps"][after] for id in texts],
            }
            rows += rows_of(bench, NAME, "seam", values, group=f"layer {layer}", unit="score")
    data = {
        "arms": {
            arm.name: {**means[arm.name], "layers": list(arm.layers), "lens": lens[arm.name]} for arm in bench.arms
        }
    }
    notes = [f"{len(texts)} texts. States before the final norm; a cut model's are set beside the uncut ones by layer."]
    return {"rows": rows, "data": data, "examples": [], "notes": notes}


def final_states(bench: Bench) -> Diagnosis:
    """Of ``similarity`` the two numbers that tell layers apart: for many models, such as one without each layer.

    Measures, as there: ``final state``, and ``seam`` behind each cut.
    """
    prompts = openings(min(bench.limit, FEW_TEXTS), bench.seed)
    texts = _texts(bench, prompts)
    uncut: dict[str, Tensor] = {}

    def compared(name: str) -> Record:
        arm = next(arm for arm in bench.cuts if arm.name == name)
        record: Record = {"final": {}, "seams": {}}
        for id, text in texts.items():
            if id not in uncut:
                uncut[id] = _states(bench.uncut, text)
            own_ATD, uncut_ATD = _aligned(arm, _states(arm, text), uncut[id])
            record["final"][id] = round(_cosine(own_ATD[-1], uncut_ATD[-1]), 5)
            for layer in seams_of(arm.layers, bench.uncut.layers):
                before, after = bench.uncut.layers.index(layer), arm.layers.index(layer)
                pair = [_cosine(uncut_ATD[before], uncut_ATD[before + 1]), _cosine(own_ATD[after], own_ATD[after + 1])]
                record["seams"].setdefault(f"layer {layer}", {})[id] = [round(value, 5) for value in pair]
        return record

    read = bench.computed("similarity.final_states", [arm.name for arm in bench.cuts], compared)
    rows = []
    for arm in bench.cuts:
        final = {bench.uncut.name: [1.0] * len(texts), arm.name: [read[arm.name]["final"][id] for id in texts]}
        rows += rows_of(bench, NAME, "final state", final, unit="score")
        for group, pairs in read[arm.name]["seams"].items():
            values = {name: [pairs[id][side] for id in texts] for side, name in enumerate((bench.uncut.name, arm.name))}
            rows += rows_of(bench, NAME, "seam", values, group=group, unit="score")
    return {"rows": rows, "data": {}, "examples": [], "notes": [f"{len(texts)} texts. States before the final norm."]}


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


def _texts(bench: Bench, prompts: dict[str, str]) -> dict[str, str]:
    requests = [GenerationRequest(id=id, prompt=text, max_new_tokens=MAX_NEW_TOKENS) for id, text in prompts.items()]
    # The question of the degeneration probe, so that its answers are used again.
    answers = bench.completions("degeneration.written", requests, [bench.uncut])[bench.uncut.name]
    return {id: text + answers[id]["text"] for id, text in prompts.items()}


def _states(arm: Arm, text: str) -> Tensor:
    """All states of one text, (A, T, D)."""
    (found,) = arm.engine().hidden_states([text], arm.plan)
    return torch.stack([state_BTD[0] for state_BTD in found.states_BTD])


class Pair(NamedTuple):
    """States of two models on the same tokens."""

    own_ATD: Tensor
    uncut_BTD: Tensor


def _aligned(arm: Arm, own_ATD: Tensor, uncut_BTD: Tensor) -> Pair:
    if own_ATD.shape[1:] != uncut_BTD.shape[1:]:
        raise InputError(
            f"{arm.name} reads the text as {own_ATD.shape[1]} tokens of {own_ATD.shape[2]} numbers, the uncut "
            f"model as {uncut_BTD.shape[1]} of {uncut_BTD.shape[2]}; give a model that was cut from it."
        )
    return Pair(own_ATD, uncut_BTD)


def _cosine(first_TD: Tensor, second_TD: Tensor) -> float:
    """Mean over tokens."""
    return float((normalize(first_TD, dim=-1) * normalize(second_TD, dim=-1)).sum(-1).mean())


def _compared(bench: Bench, text: str) -> Record:
    """What a text gives for all models."""
    uncut_ATD = _states(bench.uncut, text)
    record: Record = {}
    for arm in bench.arms:
        own_ATD, _ = _aligned(arm, uncut_ATD if arm is bench.uncut else _states(arm, text), uncut_ATD)
        cosine_AB, angle_AB = cosines(own_ATD, uncut_ATD)
        steps_A = (normalize(own_ATD[:-1], dim=-1) * normalize(own_ATD[1:], dim=-1)).sum(-1).mean(-1)
        record[arm.name] = {
            "cosine": _rounded(cosine_AB),
            "angle": _rounded(angle_AB),
            "steps": _rounded(steps_A),
            "norms": _rounded(own_ATD.norm(dim=-1).mean(-1)),
        }
    return record


def _rounded(values: Tensor) -> Any:
    return torch.round(values.double(), decimals=5).tolist()


def _averaged(records: Sequence[Record]) -> Record:
    return {
        name: torch.tensor([record[name] for record in records], dtype=torch.float64).mean(dim=0).tolist()
        for name in records[0]
    }


def _logit_lens(bench: Bench, prompts: dict[str, str], texts: dict[str, str]) -> dict[str, list[float]]:
    """Per model and layer it has, the share of tokens whose likeliest successor is already the final one there.

    A model without all layers behind one *is* the logit lens at this layer: final norm and head right behind it.
    """
    requests = [
        LikelihoodRequest(id=id, prompt=prompt, continuations=(texts[id][len(prompt) :],))
        for id, prompt in prompts.items()
        if texts[id][len(prompt) :].strip()
    ]
    shares: dict[str, list[float]] = {}
    found = bench.computed(
        "similarity.lens", [arm.name for arm in bench.arms], lambda name: {"agreement": _lens(bench, name, requests)}
    )
    for arm in bench.arms:
        shares[arm.name] = found[arm.name]["agreement"]
    return shares


def _lens(bench: Bench, name: str, requests: Sequence[LikelihoodRequest]) -> list[float]:
    arm = next(arm for arm in bench.arms if arm.name == name)
    kept = arm.plan.kept
    plans = [
        CutPlan(num_layers=arm.plan.num_layers, removed=(*arm.plan.removed, *kept[count:]))
        for count in range(1, len(kept))
    ]
    different = dict.fromkeys([plan.key for plan in plans], 0)
    tokens = dict.fromkeys([plan.key for plan in plans], 0)
    for plan, answers in arm.engine().divergences_under(requests, plans, arm.plan):
        different[plan.key] += sum(answer.top1_disagreements for answer in answers)
        tokens[plan.key] += sum(answer.num_tokens for answer in answers)
    return [*(1 - different[plan.key] / max(1, tokens[plan.key]) for plan in plans), 1.0]
