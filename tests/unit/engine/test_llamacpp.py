"""GGUF files in llama.cpp against the same weights in transformers; skipped where xllamacpp is not installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Completion, Decoding, GenerationRequest, LikelihoodRequest, Message
from layercut.engine.handle import ModelHandle
from layercut.engine.llamacpp import LlamaCppEngine
from layercut.engine.plain import PlainEngine
from layercut.errors import InputError
from layercut.models.loading import load_model, load_without_weights
from layercut.models.sources import resolve_source
from layercut.settings import ModelSettings
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan
from tests.support.engines import by_id, completions, log_likelihoods
from tests.support.tiny import byte_tokenizer
from tests.support.tiny_gguf import TINY, build, write

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (layercut[llama-cpp])")

pytestmark = pytest.mark.usefixtures("shared_cache")
GREEDY = Decoding()
WIDTH = 96
FAMILIES = {"llama": (0, 2), "qwen2": (1,), "qwen3": (1, 3), "gemma2": (2, 3), "gemma3": (12,)}
FAMILIES |= {"olmo2": (6, 7), "smollm3": (6, 7)}
"""Layers that a plan removes."""
REQUESTS = [
    GenerationRequest(id="chat", prompt=(Message("user", "What is 2 + 3?"),), max_new_tokens=8),
    GenerationRequest(id="text", prompt="The sea is", max_new_tokens=12),
    GenerationRequest(id="long", prompt="one two three four five " * 5, max_new_tokens=8),
    GenerationRequest(id="short", prompt="a", max_new_tokens=1),
]
SCORED = [
    LikelihoodRequest(id="options", prompt="The sea is", continuations=(" blue", " a place", "x")),
    LikelihoodRequest(id="other", prompt="2 + 3 =", continuations=(" 5", " 6")),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GGUF files, and beside each the same model as a folder, for its tokenizer and for transformers."""
    folder = tmp_path_factory.mktemp("gguf")
    for name in FAMILIES:
        model = build(TINY[name])
        write(model, name, TINY[name], folder / f"{name}.gguf")
        model.save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    return {name: folder / f"{name}.gguf" for name in FAMILIES}


def plain_of(file: Path) -> Any:
    return PlainEngine(load_model(str(file.with_suffix("")), dtype="float32", device="cpu"), batch_size=3)


def engine_of(file: Path, **more: Any) -> LlamaCppEngine:
    model = load_without_weights(resolve_source(str(file.with_suffix(""))), dtype="float32", device="cpu")
    return LlamaCppEngine(model, file, **{"batch_size": 3, "device": "cpu", "cache_gib": 0.1, "exact": True, **more})


def answers(engine: Any, plan: CutPlan, requests: Any = REQUESTS, decoding: Decoding = GREEDY) -> dict[str, Completion]:
    return by_id(completions(engine, requests, plan, decoding))


@pytest.mark.parametrize("family", FAMILIES)
def test_in_float32_it_answers_and_scores_as_transformers_does(files: dict[str, Path], family: str) -> None:
    ours, plain = engine_of(files[family]), plain_of(files[family])
    for plan in (CutPlan(num_layers=ours.num_layers, removed=removed) for removed in ((), FAMILIES[family])):
        written, expected = answers(ours, plan), answers(plain, plan)
        assert written == expected
        assert all(answer.tokens == expected[name].tokens for name, answer in written.items())
        scores, wanted = (by_id(log_likelihoods(engine, SCORED, plan)) for engine in (ours, plain))
        for name, score in scores.items():
            close = 5e-3 if family == "gemma3" else 2e-3  # its gelu is a table in float16
            assert score.log_likelihoods == pytest.approx(wanted[name].log_likelihoods, abs=close)
            assert (score.num_tokens, score.is_greedy) == (wanted[name].num_tokens, wanted[name].is_greedy)
    ours.close()


def test_prompts_with_a_beginning_in_common_write_what_they_write_alone(files: dict[str, Path]) -> None:
    """llama.cpp reads the beginning once for a slot."""
    ours, plain = engine_of(files["qwen2"]), plain_of(files["qwen2"])
    shared = "Add the numbers. 2 + 3 = 5. 4 + 4 = 8. "
    requests = [GenerationRequest(id=f"{n}", prompt=f"{shared}{n} + {2 * n} =", max_new_tokens=6) for n in range(9)]
    expected = answers(plain, CutPlan(num_layers=4), requests)
    assert answers(ours, CutPlan(num_layers=4), requests) == expected
    assert answers(ours, CutPlan(num_layers=4), requests[::-1]) == expected  # slots hold other texts now
    ours.close()


def test_thinner_mlps_write_what_transformers_writes(files: dict[str, Path]) -> None:
    ours, plain = engine_of(files["llama"]), plain_of(files["llama"])
    stay = (range(0, WIDTH, 2), range(1, WIDTH, 2), range(WIDTH // 2), range(WIDTH // 2, WIDTH))
    kept = {layer: tuple(channels) for layer, channels in enumerate(stay)}
    channels = Channels(field="intermediate_size", width=WIDTH, kept=kept)
    plan = CutPlan(num_layers=4, removed=(1,), channels=channels)
    found, expected = answers(ours, plan), answers(plain, plan)
    assert found == expected != answers(plain, plan.depth_only)
    ours.close()


def test_characters_of_several_tokens_are_written_and_scored(files: dict[str, Path]) -> None:
    """Every token of these vocabularies is a byte, so that each of these characters is several tokens."""
    ours, plain = engine_of(files["llama"]), plain_of(files["llama"])
    plan = CutPlan(num_layers=4)
    requests = [GenerationRequest(id=f"{n}", prompt="é" * n + "🌊", max_new_tokens=24) for n in range(1, 9)]
    found, expected = answers(ours, plan, requests), answers(plain, plan, requests)
    assert any(not one.text.isascii() for one in expected.values()), "no answer shows what this is about"
    for name, one in expected.items():
        assert (found[name].finish_reason, found[name].num_new_tokens) == (one.finish_reason, one.num_new_tokens)
        assert found[name].text.rstrip("\ufffd") == one.text[: len(found[name].text.rstrip("\ufffd"))]
    scored = [LikelihoodRequest(id="sea", prompt="The sea", continuations=(" 🌊", "é", "e"))]
    (((one,),), ((wanted,),)) = (list(log_likelihoods(each, scored, plan)) for each in (ours, plain))
    assert one.log_likelihoods == pytest.approx(wanted.log_likelihoods, abs=5e-3)
    assert one.is_greedy == wanted.is_greedy


def test_stop_strings_early_verdicts_and_what_is_done(files: dict[str, Path]) -> None:
    ours, plain = engine_of(files["qwen2"]), plain_of(files["qwen2"])
    plan = CutPlan(num_layers=4)
    whole = answers(plain, plan)["text"].text
    requests = [
        GenerationRequest(id="stop", prompt="The sea is", max_new_tokens=20, stop=(whole[5],)),
        GenerationRequest(
            id="settled", prompt="The sea is", max_new_tokens=20, settled=lambda text: len(text.rstrip("\ufffd")) > 2
        ),
    ]
    found, expected = answers(ours, plan, requests), answers(plain, plan, requests)
    assert found["stop"] == expected["stop"] and found["stop"].num_new_tokens < 20
    assert found["settled"].finish_reason == "settled" and len(found["settled"].text) == 3
    assert expected["settled"].text.startswith(found["settled"].text), "PlainEngine writes on"
    alone = engine_of(files["qwen2"], batch_size=1)
    left = [one.id for batch in completions(alone, REQUESTS, plan, GREEDY, done={"long", "chat"}) for one in batch]
    assert {"text", "short"} <= set(left)
    assert answers(alone, plan) == answers(ours, plan), "batch of 1 = batch of n"


def test_draws_follow_the_seed(files: dict[str, Path]) -> None:
    engine, plan = engine_of(files["llama"]), CutPlan(num_layers=4)
    first, again, other = (
        answers(engine, plan, decoding=Decoding(temperature=1.0, seed=seed))["text"].text for seed in (1, 1, 2)
    )
    assert first == again != other


def test_what_it_cannot_do_is_said(files: dict[str, Path]) -> None:
    engine, plan = engine_of(files["llama"]), CutPlan(num_layers=4)
    thin = Channels(field="intermediate_size", width=WIDTH, kept={0: tuple(range(64))})
    with pytest.raises(InputError, match="Use a plan made for this very model"):
        answers(engine, CutPlan(num_layers=4, channels=thin))
    with pytest.raises(InputError, match="llama.cpp does not give hidden states; use `engine` shared"):
        engine.hidden_states(["a"], plan)
    with pytest.raises(InputError, match="holds 0 tokens for each of 3 requests at once"):
        engine_of(files["llama"], cache_gib=1e-6)


def test_a_gguf_file_is_a_model_and_a_folder_is_none(files: dict[str, Path]) -> None:
    settings = ModelSettings(model=str(files["llama"]), engine="llama.cpp", device="cpu", batch_size=2, cache_gib=0.1)
    handle = ModelHandle(settings)
    assert set(answers(handle.engine, CutPlan(num_layers=4))) == {one.id for one in REQUESTS}
    named = replace(handle.plan(), removed=(1,))
    assert named.model_hash is not None and len(answers(handle.engine, named)) == len(REQUESTS)
    assert handle.engine.describe()["engine"] == "llama.cpp" and handle.engine.describe()["cache"] == "float16"
    handle.release()
    folder = settings.replace(model=str(files["llama"].with_suffix("")))
    with pytest.raises(InputError, match=r"llama is no GGUF file"):
        _ = ModelHandle(folder).engine
