"""vLLM against transformers: every family that it leaves layers out of, and the bundled SmolLM2-135M (some minutes).

Prompts share a long beginning on purpose. Keys and values that were cached under one plan are wrong under another, and
prompts shorter than a cache block do not show it.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from layercut.cli.main import app
from layercut.engine.base import Completion, Decoding, GenerationRequest, LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.vllm import CPU_BLOCK, VERIFIED, VllmEngine
from layercut.models.loading import load_model, load_without_weights
from layercut.models.sources import resolve_source
from layercut.surgery.plan import CutPlan
from tests.support import tiny
from tests.support.commands import MODEL
from tests.support.engines import completions, log_likelihoods

pytest.importorskip("vllm", reason="vLLM is not installed (layercut[vllm])")
pytestmark = pytest.mark.slow

GREEDY = Decoding()
MORE_CONFIGS = {
    name: tiny.CONFIGS["olmo2"] | more
    for name, more in {
        "cohere": {"tie_word_embeddings": True},
        "granite": {},
        "olmo": {},
        "smollm3": {"no_rope_layers": [1, 1, 1, 0, 1, 1]},
        "starcoder2": {},
    }.items()
}
"""Configs of types that tests.support.tiny has none of."""
TINY = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
TINY |= {"head_dim": 32, "query_pre_attn_scalar": 32}  # sizes that vLLM has kernels for


def by_id(answers: Iterator[list[Any]]) -> dict[str, Any]:
    return {answer.id: answer for batch in answers for answer in batch}


def started(source: str, **settings: Any) -> VllmEngine:
    return VllmEngine(load_without_weights(resolve_source(source), dtype="float32"), **settings)


def assert_same(found, expected, tolerance, greedy=True):
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert found[name].log_likelihoods == pytest.approx(one.log_likelihoods, abs=tolerance)
        assert found[name].num_tokens == one.num_tokens
        assert found[name].num_prompt_tokens == one.num_prompt_tokens
        assert found[name].is_greedy == one.is_greedy or not greedy


def write_tiny(family: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    config = {**MORE_CONFIGS, **tiny.CONFIGS}[family]
    if family in ("qwen2", "qwen3"):  # vLLM refuses windows on some of their layers
        config = tiny.CONFIGS["olmo2"]
    wide = {"n_embd": 64, "n_head": 2} if family == "gpt2" else {key: TINY[key] for key in TINY if key in config}
    tied = {"tie_word_embeddings": True} if family.startswith("gemma") else {}  # vLLM knows no other Gemma
    monkeypatch.setitem(tiny.CONFIGS, family, config | wide | tied)
    return str(tiny.save_tiny(family, folder / family))


@pytest.mark.parametrize("family", sorted(VERIFIED))
def test_a_family_is_the_one_of_transformers_whatever_is_left_out(family, tmp_path, monkeypatch):
    folder = write_tiny(family, tmp_path, monkeypatch)
    plain = PlainEngine(load_model(folder, dtype="float32", device="cpu"))
    words = random.Random(0)
    shared = "".join(words.choices("abcdefgh ", k=3 * CPU_BLOCK))
    texts = [shared + "".join(words.choices("abcdefgh ", k=9)) for _ in range(3)]
    asked = [LikelihoodRequest(id=text, prompt=text, continuations=("x", "y", "some words")) for text in texts]
    wanted = [GenerationRequest(id=text, prompt=text, max_new_tokens=6) for text in texts]
    removed = ((), (0,), (2, 3), (tiny.NUM_LAYERS - 1,), (0, 1, 4), ())
    plans = [CutPlan(num_layers=tiny.NUM_LAYERS, removed=layers) for layers in removed]
    # First of all: vLLM changes classes of transformers that it has no own ones for.
    expected = [
        (by_id(log_likelihoods(plain, asked, plan)), by_id(completions(plain, wanted, plan, GREEDY))) for plan in plans
    ]
    assert len({scores[texts[0]].log_likelihoods for scores, _ in expected}) == 5, "leaving nothing out would be seen"
    engine = started(folder, cache_gib=0.05, batch_size=4)
    try:
        for plan, (scores, answers) in zip(plans, expected, strict=True):
            assert_same(by_id(log_likelihoods(engine, asked, plan)), scores, tolerance=2e-3)
            assert by_id(completions(engine, wanted, plan, GREEDY)) == answers
    finally:
        engine.close()


@pytest.fixture(scope="module")
def engine(bundled):
    engine = started(MODEL, cache_gib=1.0, batch_size=16)
    yield engine
    engine.close()


def sums() -> list[GenerationRequest]:
    """A prefix of several cache blocks, and little after it."""
    examples = "".join(
        f"Q: What is {a} + {b}?\nA: {a + b}\n\n" for a, b in ((3, 4), (12, 7), (25, 30), (8, 9), (41, 6))
    )
    return [
        GenerationRequest(
            id=str(number), prompt=f"{examples}Q: What is {number} + 5?\nA:", max_new_tokens=8, stop=("\n\n",)
        )
        for number in (2, 11, 36)
    ]


def test_smollm2_answers_alike_under_every_plan_and_as_before_afterwards(engine, smollm2):
    plain = PlainEngine(smollm2)
    ranked = [
        LikelihoodRequest(id=one.id, prompt=one.prompt, continuations=(" 7", " 16", " forty-one")) for one in sums()
    ]
    answers: dict[tuple[int, ...], dict[str, Completion]] = {}
    for removed in ((), (0,), (14,), (29,), (3, 20, 21)):
        plan = CutPlan(num_layers=30, removed=removed)
        answers[removed] = by_id(completions(engine, sums(), plan, GREEDY))
        assert answers[removed] == by_id(completions(plain, sums(), plan, GREEDY))
        scores = by_id(log_likelihoods(engine, ranked, plan))
        assert_same(scores, by_id(log_likelihoods(plain, ranked, plan)), tolerance=1e-2)
    uncut = CutPlan(num_layers=30)
    assert by_id(completions(engine, sums(), uncut, GREEDY)) == answers[()]
    assert len({one["36"].text for one in answers.values()}) > 1


def test_a_draw_belongs_to_its_request(engine):
    drawn, uncut = Decoding(temperature=1.0, top_p=0.95, top_k=50, seed=3), CutPlan(num_layers=30)
    requests = [copy.copy(one) for one in sums()]
    together = by_id(completions(engine, requests, uncut, drawn))
    alone = by_id(completions(engine, requests[:1], uncut, drawn))
    assert alone[requests[0].id] == together[requests[0].id]
    again = by_id(completions(engine, requests, uncut, Decoding(temperature=1.0, seed=4)))
    assert again != together


def test_a_greedy_search_chooses_the_same_layers(engine, tmp_path):
    engine.close()  # one model at a time
    chosen = {}
    for name in ("shared", "vllm"):
        out = tmp_path / name
        ran = CliRunner().invoke(
            app,
            [
                *("select", MODEL, "--criterion", "task_accuracy", "--remove", "2 layers", "--limit", "8"),
                *("--objective", "copy", "--protect", "0-21", "--dtype", "float32", "--device", "cpu"),
                *("--engine", name, "--cache-gib", "1", "--out", str(out)),
            ],
        )
        assert ran.exit_code == 0, ran.output
        chosen[name] = json.loads((out / "plan.json").read_text("utf-8"))["removed"]
    assert len(chosen["vllm"]) == 2
    assert chosen["vllm"] == chosen["shared"]
