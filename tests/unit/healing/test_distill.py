"""Divergences, and answers of a step that the shared engine writes together; nothing else is different."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from layercut.engine import generating, shared
from layercut.engine.base import Completion, Decoding, Engine, GenerationRequest, Under
from layercut.engine.decoding import DecodingPool
from layercut.engine.handle import ModelHandle
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.healing import distill
from layercut.healing.examples import Data, encode_example
from layercut.healing.settings import TrainSettings
from layercut.models.loading import LoadedModel
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan
from tests.support.engines import completions
from tests.support.healing import record, tiny_data, tiny_records
from tests.support.loaded import tiny_loaded
from tests.support.tiny import NUM_LAYERS, byte_tokenizer, tiny_model

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM

import layercut
from layercut.errors import InputError
from layercut.healing.distill import (
    WINDOW,
    OnPolicyTrainer,
    RolloutLength,
    answers_in_training,
    check_teacher,
    token_divergence,
)
from layercut.healing.examples import model_without_adapters
from layercut.healing.sft import Trained
from layercut.healing.trainable import load_teacher, make_trainable
from tests.support.training import curve_of, small_settings, train_tiny
from tests.support.vocabularies import write_model

DATA = tiny_data(24)
UNCUT = CutPlan(num_layers=NUM_LAYERS)


class ByMicroBatch(OnPolicyTrainer):
    """Has the answers of each micro batch written by themselves."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self._coming, self._answers = [], {}
        return super().training_step(*args, **kwargs)


def settings(**more: Any) -> TrainSettings:
    return small_settings(**({"max_steps": 3, "objective": "on-policy", "save_every": 99} | more))


def heal(folder, wanted, *, kind=OnPolicyTrainer, length=None, records=None, data=DATA, family="llama"):
    cut = tiny_loaded(family)
    by_prompt = {encode_example(byte_tokenizer(), one).prompt: one for one in records or tiny_records(24)}
    options = {"trainer": kind, "teacher": tiny_model("llama", seed=1), "kind": "reverse-kl", "cut": cut}
    options |= {"records": by_prompt, "length": length or RolloutLength(4, 16)}
    return train_tiny(cut.model, data, wanted, folder, **options)


def outcome(trained: Trained) -> tuple[list[dict[str, float]], bytes]:
    return curve_of(trained), b"".join(file.read_bytes() for file in sorted(trained.final.glob("*.safetensors")))


@pytest.mark.parametrize(
    ("more", "window"),
    [
        ({"dropout": 0.0}, 8),
        ({"method": "full"}, 8),
        ({"method": "last-k", "gradient_checkpointing": "on"}, 8),
        ({"batch_size": 8, "micro_batch": 2}, 3),  # answers grow twice, in the middle of a step
    ],
)
def test_losses_and_weights_are_those_of_micro_batches_answered_alone_by_the_plain_engine(
    more, window, tmp_path, monkeypatch
):
    monkeypatch.setattr(distill, "WINDOW", window)
    monkeypatch.setattr(distill, "WASTED", 1.0)
    wanted, length = settings(**more), RolloutLength(2, 8)
    together = heal(tmp_path / "together", wanted, length=length)
    assert length.tokens == (2 if window == 8 else 8)
    monkeypatch.setattr(distill, "fastest_engine", PlainEngine)
    alone = heal(tmp_path / "alone", wanted, kind=ByMicroBatch, length=RolloutLength(2, 8))
    assert outcome(together) == outcome(alone)


def test_a_mixture_of_experts_answers_while_trl_has_it_report_its_routing(tmp_path):
    """For the loss of load balancing, which fails in transformers' ``generate`` once there are keys."""
    first, second = (heal(tmp_path / name, settings(max_steps=2), family="mixtral") for name in ("a", "b"))
    assert outcome(first) == outcome(second) and first.steps == 2


class Recorded:
    """Stands in for ``fastest_engine``, and records the requests of each engine that it gives."""

    def __init__(self, change: Callable[[Completion], Completion] = lambda answer: answer) -> None:
        self.change = change
        self.made: list[Engine] = []
        self.asked: list[list[GenerationRequest]] = []

    def __call__(self, loaded: LoadedModel, *, batch_size: int) -> Engine:
        engine = shared.fastest_engine(loaded, batch_size=batch_size)
        ask = engine.ask

        def recorded(requests: Any, *args: Any) -> Under[Completion]:
            self.asked.append(list(requests))
            return ((plan, [self.change(answer) for answer in batch]) for plan, batch in ask(requests, *args))

        engine.ask = recorded  # type: ignore[method-assign]
        self.made.append(engine)
        return engine


def test_a_step_is_one_call_and_the_model_is_probed_once(tmp_path, monkeypatch):
    recorded, probed = Recorded(), shared._probed
    probes: list[LoadedModel] = []
    monkeypatch.setattr(distill, "fastest_engine", recorded)
    monkeypatch.setattr(shared, "_probed", lambda loaded: probes.append(loaded) or probed(loaded))
    heal(tmp_path, settings())
    assert [len(requests) for requests in recorded.asked] == [4, 4, 4]
    steps = [{request.id.split()[0] for request in requests} for requests in recorded.asked]
    assert steps == [{"0"}, {"1"}, {"2"}]
    assert {type(engine) for engine in recorded.made} == {SharedEngine}
    assert len(probes) == 1


def test_a_micro_batch_without_a_usable_answer_learns_from_the_given_ones(tmp_path, monkeypatch):
    """Of two micro batches of equal lengths; in the second one no answer has any text."""
    records = [record(str(index), f"say {index}", "given answer") for index in range(4)]
    examples = [encode_example(byte_tokenizer(), one) for one in records]
    wanted, empty = settings(max_steps=1), ("0 2", "0 3")

    def emptied(answer: Completion) -> Completion:
        return replace(answer, text="", finish_reason="length") if answer.id in empty else answer

    learned: list[list[tuple[int, ...]]] = []

    class Watched(OnPolicyTrainer):
        def _logits(self, model: Any, inputs: dict[str, Any]) -> Any:
            both = zip(inputs["input_ids"], inputs["labels"], strict=True)
            learned.append([tuple(ids[labels != -100].tolist()) for ids, labels in both])
            return super()._logits(model, inputs)

    monkeypatch.setattr(distill, "fastest_engine", Recorded(emptied))
    trained = heal(tmp_path, wanted, kind=Watched, records=records, data=Data(examples, []))
    given = [example.completion for example in examples]
    assert learned[1] == given[2:] and not set(learned[0]) & set(given)
    (line,) = trained.curve
    own = sum(len(tokens) for tokens in learned[0]) / 2
    assert line["rollout_tokens"] == pytest.approx(own / 2), "a batch without answers counts with length 0"


def test_examples_with_one_prompt_get_one_answer(tmp_path, monkeypatch):
    records = [record(str(index), f"say {index // 2}", f"number {index}") for index in range(4)]
    recorded = Recorded()
    monkeypatch.setattr(distill, "fastest_engine", recorded)
    data = Data([encode_example(byte_tokenizer(), one) for one in records], [])
    trained = heal(tmp_path, settings(max_steps=1), records=records, data=data)
    assert [len(requests) for requests in recorded.asked] == [2] and trained.steps == 1


@pytest.mark.parametrize("method", ["lora", "full"])
def test_answers_are_written_in_the_dtype_of_the_weights_though_training_multiplies_in_bfloat16(
    method, tmp_path, monkeypatch
):
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    class Watched(OnPolicyTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            head: Any = model_without_adapters(self.model).lm_head
            head.register_forward_hook(lambda module, _, output: seen[module.training].add(output.dtype))

    heal(tmp_path, settings(method=method, max_steps=2, precision="bfloat16"), kind=Watched, data=Data(DATA.train, []))
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_no_keys_of_earlier_weights_are_read(method):
    """Answers after the weights changed, though all prompts begin with the same 20 tokens as before."""
    cut = tiny_loaded("llama")
    model = make_trainable(cut.model, settings(method=method))
    requests = [
        GenerationRequest(id=str(n), prompt=f"The same long beginning: {n}", max_new_tokens=8) for n in range(5)
    ]

    def answers() -> dict[str, str]:
        return {one.id: one.text for one in answers_in_training(model, cut, 2, requests, Decoding(temperature=1.0))}

    model.train()
    before = answers()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    after = answers()
    assert model.training and any(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    plain = PlainEngine(replace(cut, model=model_without_adapters(model)), batch_size=1)
    expected = [one for batch in completions(plain, requests, UNCUT, Decoding(temperature=1.0)) for one in batch]
    assert after == {one.id: one.text for one in expected} != before


def test_memory_of_answers_is_free_when_they_are_written(monkeypatch):
    """At once, and not when Python next looks for circles of references."""
    pools: list[weakref.ref[DecodingPool]] = []

    class Watched(DecodingPool):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            pools.append(weakref.ref(self))

    monkeypatch.setattr(generating, "DecodingPool", Watched)
    cut, request = tiny_loaded("llama"), GenerationRequest(id="a", prompt="Say something", max_new_tokens=4)
    shared.why_not_shared(cut)
    gc.disable()
    try:
        answers_in_training(cut.model, cut, 2, [request], Decoding())
        assert [pool() for pool in pools] == [None]
    finally:
        gc.enable()


def test_answers_grow_only_when_they_repeat_themselves_little(tmp_path):
    length = RolloutLength(8, 30)
    for _ in range(3 * WINDOW):
        length.saw(0.6)
    assert length.tokens == 8
    grown = []
    for _ in range(3 * WINDOW):
        length.saw(0.0)
        grown.append(length.tokens)
    # Six quiet batches outweigh two repetitive ones in the window; then a whole window is needed again.
    assert grown == [8] * 5 + [16] * WINDOW + [30] * (2 * WINDOW - 5)
    length.save(tmp_path)
    other = RolloutLength(8, 30)
    other.load(tmp_path)
    assert other.tokens == 30


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(5, 11, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "beta"), [("forward-kl", 0), ("reverse-kl", 1)])
def test_divergences_are_those_of_trls_gkd_trainer(kind, beta):
    from trl.experimental.gkd import GKDTrainer

    student, teacher = logits(0), logits(1)
    theirs = GKDTrainer.generalized_jsd_loss(student[None], teacher[None], beta=beta, reduction="none").sum(-1)[0]
    assert torch.allclose(token_divergence(student, teacher, kind), theirs, atol=1e-5)


def test_extreme_logits_stay_finite():
    student, teacher = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert torch.isfinite(log_softmax(student, -1)).all()
    assert token_divergence(student, teacher, "reverse-kl").item() == pytest.approx(1e4, rel=1e-4)


def test_a_teacher_with_other_tokens_is_refused():
    other = tiny_model("llama")
    other.resize_token_embeddings(300)
    check_teacher(tiny_model("llama"), tiny_model("llama", seed=1))
    with pytest.raises(InputError, match="300 tokens .* 260"):
        check_teacher(tiny_model("llama"), other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_model("bytes", tmp_path_factory.mktemp("models") / "whole")


@pytest.mark.parametrize("objective", ["sft", "forward-kl"])
def test_a_checkpoint_with_fewer_tokens_is_healed(whole, tmp_path, objective):
    small = layercut.cut(whole, "2 vocab:ascii", tmp_path / "small", verify=False)
    handles = [ModelHandle(ModelSettings(model=str(folder), device="cpu")) for folder in (whole, small)]
    teacher = load_teacher(*handles, TrainSettings()).model
    plan = CutPlan.load(small / "plan.json")
    assert plan.vocabulary is not None
    kept = torch.tensor(plan.vocabulary.kept)
    ids = torch.arange(40)[None]
    expected = AutoModelForCausalLM.from_pretrained(whole)(kept[ids]).logits[..., kept]
    assert torch.equal(teacher(ids).logits, expected)
    (tmp_path / "prompts.txt").write_text("Write a test.\nName the layers.\n")
    healed = layercut.heal(
        small, teacher=whole, prompts=tmp_path / "prompts.txt", objective=objective, max_steps=2, finished_only=False,
        held_out=0.0, max_new_tokens=8, device="cpu", out=tmp_path / "healed",
    )  # fmt: skip
    (entry,) = json.loads((healed / "plan.json").read_text())["healing"]
    assert entry["vocabulary"] == plan.vocabulary.key and entry["steps"] == 2


def test_a_seam_is_solved_with_the_teachers_rows_of_the_tokens_that_stay(whole, tmp_path):
    """The same texts in the same tokens under other ids: the folded matrices are those of the whole vocabulary."""
    (tmp_path / "prompts.txt").write_text("Write a test.\nName the layers.\nAdd two and three.\n")
    matrices = []
    for name, what in (("all", "2"), ("some", "2 vocab:ascii")):
        small = layercut.cut(whole, what, tmp_path / name, verify=False)
        healed = layercut.heal(
            small, teacher=whole, prompts=tmp_path / "prompts.txt", method="seam", finished_only=False, held_out=0.0,
            max_new_tokens=8, device="cpu", out=tmp_path / f"healed-{name}",
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(healed)
        matrices.append({name: weight for name, weight in model.named_parameters() if "layers" in name})
    assert matrices[0].keys() == matrices[1].keys()
    assert all(torch.allclose(matrices[0][name], matrices[1][name], atol=1e-5) for name in matrices[0])
