"""What forward passes say of the layers, against a table of damages."""

from __future__ import annotations

import json

import pytest

from layercut.engine.base import Divergence, LikelihoodRequest, TokenDamage
from layercut.errors import InputError
from layercut.selection.answers import ObjectiveTask
from layercut.selection.objective import TaskObjective
from layercut.selection.predict import predict
from layercut.selection.trace_damage import Traces, correct_traces
from layercut.surgery.plan import CutPlan
from tests.support.search import NeedyTask
from tests.unit.selection.test_trace_damage import DAMAGE, TracedEngine

INFLUENCE = {layer: layer / 10 for layer in range(6)}


class Graded(TracedEngine):
    """Without a layer, the traces with the lowest places lose a token: as many of ten as the table of KL says."""

    def _damage(self, request: LikelihoodRequest, plan: CutPlan, reference: CutPlan) -> Divergence:
        found = super()._damage(request, plan, reference)
        of_tokens = (("1", found.nll - 0.75), (")", 0.75)) if request.by_token else ()
        place = int(request.id.split("-")[-1].partition(":")[0])
        return found.__class__(
            id=found.id, num_tokens=2, nll=found.nll, reference_nll=1, kl=found.kl, js_top100=0.0,
            top1_disagreements=int(place < 4 * found.kl), sure=found.sure,
            tokens=tuple(TokenDamage(text, nll, 0.5, 0.0, 1, 1, text, text, 1.0) for text, nll in of_tokens),
        )  # fmt: skip


def asked(share_known: float = 1.0) -> tuple[TaskObjective, Traces, Graded]:
    engine = Graded()
    part = ObjectiveTask(task=NeedyTask(num_items=40, share_known=share_known), readout="short", limit=None)
    objective = TaskObjective(engine, [part])
    return objective, correct_traces(objective), engine


def test_order_by_damage_and_answers_that_stay_word_for_word() -> None:
    objective, traces, engine = asked()
    found = predict(objective, traces, INFLUENCE, keep=0.75)
    assert found["order"] == sorted(range(6), key=lambda layer: (DAMAGE["kl"][layer], -layer)) == [4, 1, 2, 3, 5, 0]
    # Two tokens a trace, 4 of 40 traces broken for every nat.
    assert [one["kl"] for one in found["layers"]] == pytest.approx([DAMAGE["kl"][layer] / 2 for layer in range(6)])
    assert [one["kept"]["value"] for one in found["layers"]] == pytest.approx(
        [1 - 0.1 * DAMAGE["kl"][layer] for layer in range(6)]
    )
    assert found["layers"][3]["influence"] == 0.3
    for layer in found["layers"]:
        kinds = {kind: (rise["value"], rise["n"]) for kind, rise in layer["kinds"].items()}
        assert kinds == {
            "other digit": (pytest.approx(2 * layer["nll"] - 1.25), 40),
            "closing bracket": (pytest.approx(0.25), 40),
        }
    # 4 alone leaves 36 of 40 [0.77, 0.96]; 4 and 1 together 28 of 40; 4, 1 and 2 16 of 40, surely fewer than 75 %.
    assert [(one["removed"], one["kept"]["value"]) for one in found["depths"]] == [
        ([4], pytest.approx(0.9)), ([4, 1], pytest.approx(0.7)), ([4, 1, 2], pytest.approx(0.4)),
    ]  # fmt: skip
    assert found["safe"] == 1
    assert (found["num_traces"], found["num_tokens"]) == (40, 80)
    assert json.loads(json.dumps(found)) == found
    # Forward passes only: no plan but the original one has written anything.
    assert {plan for plan, _ in engine.asked} == {CutPlan(num_layers=6).key}


def test_none_is_safe_where_the_best_layer_costs_too_much() -> None:
    objective, traces, _ = asked()
    found = predict(objective, traces, INFLUENCE, keep=0.98)
    assert found["safe"] == 0
    assert len(found["depths"]) == 1
    with pytest.raises(InputError, match="keep 1.5"):
        predict(objective, traces, INFLUENCE, keep=1.5)
