from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from layercut.engine.base import Under
from layercut.engine.plain import PlainEngine
from layercut.errors import InputError
from layercut.models.loading import LoadedModel
from layercut.runs.directory import RunFolder
from layercut.selection.base import Context, Selection
from layercut.selection.calibration import Calibration
from layercut.selection.perplexity import choose_by_loss
from layercut.surgery.plan import CutPlan
from tests.support.criteria import TEXTS
from tests.support.loaded import tiny_loaded
from tests.support.tiny import NUM_LAYERS, byte_tokenizer, tiny_model

SETTINGS = {"model": "tiny"}
LAYERS = {"llama": ("model", "layers"), "gpt2": ("transformer", "h"), "gpt_neox": ("gpt_neox", "layers")}


@cache
def loaded(model_type: str) -> LoadedModel:
    return tiny_loaded(model_type)


def calibration(texts: Sequence[str] = TEXTS) -> Calibration:
    return Calibration(texts=tuple(texts), num_tokens=sum(map(len, texts)), source="here", content_hash="c" * 64)


def context(model_type: str = "llama", engine: Any = None, **fields: Any) -> Context:
    engine = engine or PlainEngine(loaded(model_type), batch_size=2)
    return Context(
        **{"num_layers": NUM_LAYERS, "num_remove": 3, "engine": engine, "calibration": calibration()} | fields
    )


@torch.no_grad()
def nll_by_hand(model_type: str, removed: Collection[int]) -> float:
    """Mean loss over the tokens of all texts, after BOS, by transformers alone: a new model, its list filtered."""
    model, tokenizer = tiny_model(model_type), byte_tokenizer()
    body, name = LAYERS[model_type]
    layers = getattr(model.get_submodule(body), name)
    setattr(model.get_submodule(body), name, nn.ModuleList(x for i, x in enumerate(layers) if i not in removed))
    model.config.num_hidden_layers = NUM_LAYERS - len(removed)
    total, num_tokens = 0.0, 0
    for text in TEXTS:
        tokens = torch.tensor([tokenizer.bos_token_id, *tokenizer(text)["input_ids"]])
        logits = model(tokens[None, :-1], use_cache=False).logits[0].double()
        total += float(cross_entropy(logits, tokens[1:], reduction="sum"))
        num_tokens += len(tokens) - 1
    return total / num_tokens


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_greedy_is_a_brute_force_search_with_transformers_alone(model_type):
    selection = choose_by_loss(context(model_type))
    removed: list[int] = []
    for number in range(3):
        candidates = [layer for layer in range(NUM_LAYERS) if layer not in removed]
        losses = [nll_by_hand(model_type, [*removed, layer]) for layer in candidates]
        round_ = selection.details["rounds"][number]
        assert round_["candidates"] == candidates
        assert round_["values"] == pytest.approx([-loss for loss in losses], rel=1e-5)
        removed.append(candidates[losses.index(min(losses))])
    assert list(selection.removed) == removed


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox"])
def test_one_shot_ranks_by_the_rise_when_one_layer_is_skipped(model_type):
    selection = choose_by_loss(context(model_type, settings={"search": "one_shot"}))
    uncut = nll_by_hand(model_type, ())
    rises = {layer: nll_by_hand(model_type, [layer]) - uncut for layer in range(NUM_LAYERS)}
    assert selection.importance == pytest.approx(rises, rel=1e-4, abs=1e-5)
    assert list(selection.removed) == sorted(rises, key=lambda layer: rises[layer])[:3]
    assert selection.details["without"]["2"]["nll"] == pytest.approx(nll_by_hand(model_type, [2]), rel=1e-5)


def test_details_say_what_was_measured():
    selection = choose_by_loss(context())
    details = selection.details
    json.dumps(details, allow_nan=False)
    num_tokens = sum(map(len, TEXTS))
    assert details["calibration"] == {
        "source": "here", "content_hash": "c" * 64, "num_texts": len(TEXTS), "num_tokens": num_tokens,
    }  # fmt: skip
    assert (details["search"], details["num_tokens"]) == ("greedy", num_tokens)
    assert details["uncut_perplexity"] == pytest.approx(math.exp(nll_by_hand("llama", ())), rel=1e-5)
    assert details["perplexity"] == pytest.approx(math.exp(nll_by_hand("llama", selection.removed)), rel=1e-5)
    assert details["objective"]["measure"] == "nll"
    # Protected layers stay.
    removed = choose_by_loss(context(protect=frozenset({0, 2, 5}))).removed
    assert sorted(removed) == [1, 3, 4]


class Counting(PlainEngine):
    """Notes which text was run under which plan, and dies after so many batches."""

    kill_after: int | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: list[tuple[str, str]] = []
        self.num_batches = 0

    def _note(self, plan: CutPlan, ids: list[str]) -> None:
        if self.num_batches == self.kill_after:
            raise KeyboardInterrupt
        self.num_batches += 1
        self.asked += [(plan.key, id) for id in ids]

    def ask(self, *given: Any, **options: Any) -> Under[Any]:
        for plan, batch in super().ask(*given, **options):
            self._note(plan, [answer.id for answer in batch])
            yield plan, batch


def search(path: Path, engine: PlainEngine, **settings: str) -> Selection:
    with RunFolder.begin(path, SETTINGS) as folder:
        return choose_by_loss(context(engine=engine, folder=folder, settings=settings))


def test_killed_and_resumed_is_run_through_and_nothing_is_run_twice(tmp_path):
    straight = Counting(loaded("llama"), batch_size=2)
    through = search(tmp_path / "through", straight)
    assert set(Counter(straight.asked).values()) == {1}
    assert len(straight.asked) == len(TEXTS) * (1 + 6 + 5 + 4)

    asked = []
    for kill_after in (2, 10, 13):
        killed = Counting(loaded("llama"), batch_size=2)
        killed.kill_after = kill_after
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "killed", killed)
        asked += killed.asked
    last = Counting(loaded("llama"), batch_size=2)
    assert search(tmp_path / "killed", last) == through
    assert sorted(asked + last.asked) == sorted(straight.asked)

    again = Counting(loaded("llama"), batch_size=2)
    assert search(tmp_path / "killed", again) == through
    assert again.asked == []
    ranked = search(tmp_path / "killed", again, search="one_shot")
    outcome = CutPlan(num_layers=NUM_LAYERS, removed=ranked.removed).key
    assert {plan for plan, _ in again.asked} <= {outcome}, "one-shot ranks by what the first round measured"


def test_other_text_in_the_same_folder_is_measured_anew(tmp_path):
    engine = Counting(loaded("llama"))
    with RunFolder.begin(tmp_path / "run", SETTINGS) as folder:
        for texts in (TEXTS, TEXTS[:2]):
            choose_by_loss(context(engine=engine, folder=folder, num_remove=1, calibration=calibration(texts)))
    assert len(engine.asked) == 7 * (len(TEXTS) + 2)


def test_progress_counts_texts_of_a_round():
    shown: list[tuple[str, int, int]] = []
    choose_by_loss(context(num_remove=1, progress=lambda *recorded: shown.append(recorded)))
    texts = [recorded for recorded in shown if recorded[0].startswith("calibration")]
    assert texts[:2] == [("calibration", 0, 5), ("calibration", 2, 5)]
    assert ("calibration", 30, 30) in texts
    assert all(done <= total for _, done, total in shown)


def test_refusals():
    for asked, message in (
        (context(calibration=None), "no text here"),
        (context(calibration=calibration([])), "no text here"),
        (Context(num_layers=6, num_remove=1, calibration=calibration()), "no engine here"),
        (context(settings={"search": "all"}), "unknown search .*'all'"),
    ):
        with pytest.raises(InputError, match=message):
            choose_by_loss(asked)
