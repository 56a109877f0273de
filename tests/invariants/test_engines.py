"""What every row of ENGINES must give, on one tiny model: the same answers, resumed runs, and what its row says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from layercut.engine.base import Decoding, Engine, GenerationRequest, LikelihoodRequest
from layercut.engine.handle import open_model_handle
from layercut.engine.plain import PlainEngine
from layercut.engines import ENGINES, EngineRow
from layercut.errors import InputError
from layercut.runs.records import Journal
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.evaluate import evaluate_items
from tests.support.engines import by_id, completions, log_likelihoods
from tests.support.fake_server import Served, serving
from tests.support.loaded import tiny_loaded
from tests.support.tiny import NUM_LAYERS, save_tiny

GREEDY, NUM_ITEMS = Decoding(), 11
ASKED = [GenerationRequest(id=str(n), prompt=f"{n} * 7 =", max_new_tokens=6, stop=("9",)) for n in range(5)]
SCORED = [LikelihoodRequest(id=str(n), prompt=f"{n} * 7 =", continuations=(" 14", " 21")) for n in range(5)]
OWN_VALUES: Mapping[str, Any] = {"base_url": "http://localhost:1/v1"}
each_engine = pytest.mark.parametrize("name", ENGINES)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def opened(tiny):
    """An engine of a row over a model of ``NUM_LAYERS`` layers, by its name; a row whose extra is missing skips."""
    with ExitStack() as servers:

        def start(name: str, **more: Any) -> Engine:
            row = ENGINES[name]
            if row.extra and not find_spec(row.extra):
                pytest.skip(f"the engine {name} needs layercut[{row.extra}]")
            if row.is_served:
                more |= {"base_url": servers.enter_context(serving(Served(answer=lambda body: " fine"))).url}
            return open_model_handle(ModelSettings(model=tiny, device="cpu", engine=name, batch_size=3, **more)).engine

        yield start


def plans(row: EngineRow, engine: Engine) -> list[CutPlan]:
    uncut = CutPlan(num_layers=engine.num_layers)
    return [uncut] if row.is_served else [uncut, CutPlan(num_layers=NUM_LAYERS, removed=(1, 4))]


@each_engine
def test_settings_of_another_engine_are_refused_and_its_own_are_taken(name):
    row = ENGINES[name]
    own = {field: OWN_VALUES[field] for field in row.takes}
    assert ModelSettings(model="m", engine=name, **own).engine == name
    assert ModelSettings(model="m", engine=name, **own).identity()["engine"] == name
    for field in set(OWN_VALUES) - set(row.takes):
        with pytest.raises(InputError, match=field):
            ModelSettings(model="m", engine=name, **own, **{field: OWN_VALUES[field]})
    for field in row.needs:
        with pytest.raises(InputError, match=field):
            ModelSettings(model="m", engine=name)


@each_engine
def test_answers_are_those_of_the_reference_and_only_what_is_not_done_is_answered(name, opened):
    engine, row = opened(name), ENGINES[name]
    assert engine.describe()["engine"] == name
    for plan in plans(row, engine):
        found = by_id(completions(engine, ASKED, plan, GREEDY))
        assert set(found) == {one.id for one in ASKED}
        if not row.is_served:
            reference = by_id(completions(PlainEngine(tiny_loaded("llama")), ASKED, plan, GREEDY))
            assert {key: one.text for key, one in found.items()} == {key: one.text for key, one in reference.items()}
        assert by_id(completions(engine, ASKED, plan, GREEDY, {one.id for one in ASKED})) == {}
    engine.close()


@each_engine
def test_scores_and_states_are_given_where_the_row_says_so(name, opened):
    engine, row = opened(name), ENGINES[name]
    for plan in plans(row, engine):
        if not row.is_served:
            scores = by_id(log_likelihoods(engine, SCORED, plan))
            for key, one in by_id(log_likelihoods(PlainEngine(tiny_loaded("llama")), SCORED, plan)).items():
                assert scores[key].log_likelihoods == pytest.approx(one.log_likelihoods, abs=1e-3)
        else:
            with pytest.raises(InputError):
                by_id(log_likelihoods(engine, SCORED, plan))
        if not (row.reads_weights or row.is_served):
            states = [one for batch in engine.hidden_states(["a text"], plan) for one in batch.states_BTD]
            assert len(states) == NUM_LAYERS - len(plan.removed) + 1
        else:
            with pytest.raises(InputError):
                list(engine.hidden_states(["a text"], plan))
    if row.is_served:
        with pytest.raises(InputError):
            by_id(completions(engine, ASKED, CutPlan(num_layers=NUM_LAYERS, removed=(1,)), GREEDY))
    engine.close()


@each_engine
def test_continuations_may_have_prompts_of_their_own(name, opened):
    engine, row = opened(name), ENGINES[name]
    if row.is_served:
        pytest.skip(f"the engine {name} does not rank")
    pairs = (("the cat", " sat"), ("the dog in the sun", " sat"), ("the cat", " ran"))
    prompts, texts = zip(*pairs, strict=True)
    apart = [LikelihoodRequest(id=str(i), prompt=prompts[i], continuations=(texts[i],)) for i in range(3)]
    together = LikelihoodRequest(id="all", prompt="unread", continuations=texts, prompts=prompts)
    scores = by_id(log_likelihoods(engine, [*apart, together], plans(row, engine)[-1]))
    expected = [scores[str(i)].log_likelihoods[0] for i in range(3)]
    assert scores["all"].log_likelihoods == pytest.approx(expected, abs=1e-5) and len(set(expected)) == 3
    engine.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("readout", ["rank", "short"])
@each_engine
def test_stopped_behind_any_item_and_resumed_is_run_through_bit_by_bit(tmp_path, name, readout, dtype, opened):
    row = ENGINES[name]
    if row.reads_weights or row.is_served:
        pytest.skip(f"the engine {name} batches by itself")
    model = tiny_loaded("llama")
    model.model.to(getattr(torch, dtype))

    class Handle:
        loaded, settings = copy.copy(model), ModelSettings(model="m", engine=name, batch_size=3)

    def run(path: Path) -> list[str]:
        engine: Engine = row.make(Handle())  # a new process has empty caches
        plan, task = CutPlan(num_layers=NUM_LAYERS, removed=(2, 3)), load_task("arithmetic", seed=1)
        with Journal(path) as journal:
            evaluate_items(task, engine, plan, readout=readout, limit=NUM_ITEMS, decoding=GREEDY, journal=journal)
        return path.read_text().splitlines()

    whole = run(tmp_path / "whole.jsonl")
    assert len(whole) == NUM_ITEMS
    for stopped in range(1, NUM_ITEMS):
        path = tmp_path / f"stopped-{stopped}.jsonl"
        path.write_text("\n".join(whole[:stopped]) + "\n" + whole[stopped][:20])
        assert sorted(run(path)) == sorted(whole), f"stopped behind item {stopped}"
