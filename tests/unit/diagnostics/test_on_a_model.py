"""Similarity and cost, which look inside a model, on a tiny one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from layercut.diagnostics import cost as cost_module
from layercut.diagnostics import diagnostic
from layercut.diagnostics.session import DiagnosticSession, SessionModel
from layercut.engine.shared import SharedEngine
from layercut.engine.timing import CheckpointTimer
from layercut.models.loading import LoadedModel
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from tests.support.loaded import tiny_loaded
from tests.support.tiny import NUM_LAYERS

UNCUT, CUT = CutPlan(num_layers=NUM_LAYERS), CutPlan(num_layers=NUM_LAYERS, removed=(2, 3))


@cache
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


def session(folder: Path, limit: int = 2) -> DiagnosticSession:
    engine = SharedEngine(loaded())
    arms = [
        SessionModel(name=name, source="uncut", plan=plan, layers=plan.kept, engine=lambda: engine, model=loaded)
        for name, plan in (("uncut", UNCUT), ("cut", CUT))
    ]
    return DiagnosticSession(arms, lambda name, arm: Journal(folder / f"{name}.{arm}.jsonl"), limit=limit)


def test_similarity_of_a_model_with_itself_and_with_its_cut(tmp_path: Path) -> None:
    found = diagnostic("similarity")(session(tmp_path))
    models = found["data"]["arms"]
    uncut, cut = models["uncut"], models["cut"]
    assert torch.tensor(uncut["cosine"]).diagonal().tolist() == pytest.approx([1.0] * (NUM_LAYERS + 1), abs=1e-4)
    assert (len(cut["cosine"]), len(cut["cosine"][0])) == (NUM_LAYERS - 1, NUM_LAYERS + 1)
    # Up to the cut both models are the same.
    assert [cut["cosine"][i][i] for i in range(3)] == pytest.approx([1.0] * 3, abs=1e-4)
    assert cut["cosine"][3][5] < 0.9999
    assert cut["norms"][:3] == uncut["norms"][:3]
    assert cut["layers"] == [0, 1, 4, 5]
    assert {(row.metric, row.group) for row in found["rows"]} == {("final state", ""), ("seam", "layer 4")}
    (final,) = [row for row in found["rows"] if row.metric == "final state"]
    assert final.to_dict()["uncut"] == [1, None, None]  # by construction
    (seam,) = [row for row in found["rows"] if row.metric == "seam"]
    assert seam.values.uncut.value == pytest.approx(uncut["steps"][4], abs=1e-4)
    assert seam.values.cut.value == pytest.approx(cut["steps"][2], abs=1e-4)


def test_the_logit_lens_is_norm_and_head_behind_a_layer(tmp_path: Path) -> None:
    patient = session(tmp_path, limit=1)
    found = diagnostic("similarity")(patient)["data"]["arms"]["cut"]["lens"]
    assert len(found) == NUM_LAYERS - 2
    assert found[-1] == 1.0
    (record,) = Journal(tmp_path / "degeneration.written.uncut.jsonl").records
    from layercut.diagnostics.degeneration import openings

    ((id, prompt),) = openings(1, 0).items()
    text, tokenizer, model = prompt + record["text"], loaded().tokenizer, loaded().model
    assert id == record["id"]
    num_prompt = len(tokenizer(prompt)["input_ids"])
    with torch.no_grad(), bypass(model, CUT):
        states: Any = model(torch.tensor([tokenizer(text)["input_ids"]]), output_hidden_states=True).hidden_states
        heads = [model.lm_head(model.model.norm(state))[0, num_prompt - 1 : -1].argmax(-1) for state in states[1:-1]]
        final = model.lm_head(states[-1])[0, num_prompt - 1 : -1].argmax(-1)
    assert found[:-1] == pytest.approx([float((head == final).float().mean()) for head in heads], abs=1e-6)


def test_what_a_cut_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_module, "BATCH_SIZES", (1, 2))
    monkeypatch.setattr(cost_module, "NUM_ROUNDS", 2)
    found = diagnostic("cost")(session(tmp_path))
    counted = found["data"]["counted"]
    # Keys and values of 2 heads of 8 float32 numbers in each layer.
    assert counted["uncut"]["cache_bytes_per_token"] == NUM_LAYERS * 2 * 2 * 8 * 4
    assert counted["cut"]["cache_bytes_per_token"] == (NUM_LAYERS - 2) * 2 * 2 * 8 * 4
    layer = sum(part.nbytes for part in loaded().model.model.layers[2].parameters())
    assert counted["uncut"]["bytes"] - counted["cut"]["bytes"] == 2 * layer
    assert {(row.metric, row.group, row.n) for row in found["rows"]} == {
        (measure, f"batch {size}", 2)
        for measure in ("decode speed", "prefill speed", "time to first token")
        for size in (1, 2)
    }
    assert all(row.values.difference.value > 0 for row in found["rows"])


def test_timing_leaves_the_model_whole() -> None:
    found = CheckpointTimer(loaded(), CUT)(2, 8, 12, 0)
    assert min(found) > 0
    assert len(loaded().model.model.layers) == NUM_LAYERS


def test_chance_does_not_depend_on_the_number_of_items(tmp_path: Path) -> None:
    few, more = (diagnostic("arithmetic")(session(tmp_path / str(limit), limit=limit))["rows"] for limit in (2, 6))
    chances = [{row.metric: row.chance for row in rows if not row.group} for rows in (few, more)]
    assert chances[0] == chances[1] and chances[0]["written"] is not None and chances[0]["written"] < 0.1
