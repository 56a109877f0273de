"""A real model whose weights were given one defect is recognised by the right diagnostic and by no other."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from layercut.diagnostics import load_diagnostic
from layercut.diagnostics.session import DiagnosticSession, SessionModel
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model
from layercut.models.loading import LoadedModel, load_model
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan
from tests.support.accused import accused

NAME = "bundled:smollm2-135m"
LIMIT = 16
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def healthy() -> LoadedModel:
    try:
        bundled_file(bundled_model(NAME))
    except InputError as error:
        pytest.skip(str(error))
    return load_model(NAME, dtype="float32", device="cpu")


def without_closing_brackets(loaded: LoadedModel) -> LoadedModel:
    """The same weights, but an output head that gives no token with a closing bracket in it."""
    tokenizer, model = loaded.tokenizer, copy.deepcopy(loaded.model)
    head = model.get_output_embeddings()
    sick = torch.nn.Linear(head.in_features, head.out_features, bias=True, dtype=head.weight.dtype)
    with torch.no_grad():
        sick.weight.copy_(head.weight)
        sick.bias.zero_()
        for token in range(head.out_features):
            if set(tokenizer.decode([token])) & set(")]}"):
                sick.bias[token] = -1000.0
    model.set_output_embeddings(sick)
    return replace(loaded, model=model)


def test_a_model_that_never_closes_brackets(healthy: LoadedModel, tmp_path: Path) -> None:
    sick = without_closing_brackets(healthy)
    uncut = CutPlan(num_layers=healthy.num_layers)
    engines = {"uncut": SharedEngine(healthy), "sick": SharedEngine(sick)}
    arms = [
        SessionModel(name=name, source=name, plan=uncut, engine=partial(engines.__getitem__, name)) for name in engines
    ]
    session = DiagnosticSession(arms, lambda name, arm: Journal(tmp_path / f"{name}.{arm}.jsonl"), limit=LIMIT)
    found = {name: load_diagnostic(name)(session) for name in ("arithmetic", "brackets", "degeneration")}
    assert accused(found, "sick") == ["brackets"]
    rows = {row.metric: row.to_dict() for row in found["brackets"]["rows"] if not row.group}
    assert rows["closed"]["cut"][0] == 0
    assert rows["programs that parse"]["cut"][0] == 0
    sums = {row.metric: row.values.difference.value for row in found["arithmetic"]["rows"] if not row.group}
    assert sums["written"] == sums["ranked"] == 0
