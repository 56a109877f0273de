"""Tokens go before layers and channels: what counts as removed, what answers, and what is handed over."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.models.gguf_file import read_gguf_head
from layercut.pruning.speed import Sizes
from layercut.pruning.vocabulary import TRIMMED, TRIMMED_FILES, describe_trimmed, describe_unused_tokens, plan_tokens
from layercut.report.first import first_of_prune
from layercut.runs.directory import RunFolder
from layercut.runs.prune import PruneResult
from layercut.selection.answers import ObjectiveTask
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.gguf_parts import tokens_of_gguf
from layercut.surgery.remove import decoder_layers
from layercut.tasks import load_task
from tests.support.pruning import choice_file
from tests.support.vocabularies import gguf_of, write_model
from tests.unit.pruning.conftest import run
from tests.unit.pruning.test_job import found, in_legs

CHOICE = {"units": "vocab:640,layer", "keep": 0.85, "smaller": 0.42, "one_size": True, "heal": "none", "items": 72}


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory):
    """Its layers 1 and 2 do nothing, the others much, and most of its tokens are never used."""
    folder = write_model("bytes", tmp_path_factory.mktemp("models") / "whole")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for index in (1, 2):
            layer = decoder_layers(model)[index]
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for index in (0, 3):
            for parameter in decoder_layers(model)[index].mlp.parameters():
                parameter.mul_(8)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(whole_model, tmp_path_factory):
    return choice_file(tmp_path_factory.mktemp("data") / "mine.jsonl", whole_model)


@pytest.fixture(scope="module")
def pruned(whole_model, rows, tmp_path_factory):
    return run(whole_model, rows, tmp_path_factory.mktemp("pruned") / "run", **CHOICE)


def handle_of(model):
    return ModelHandle(ModelSettings(model=str(model), device="cpu"))


def parts_of(rows):
    return [ObjectiveTask(task=load_task(str(rows)), readout="rank", limit=72)]


def test_the_plan_is_one_of_the_model_without_tokens_and_both_are_handed_over(pruned, whole_model):
    result = pruned.result
    assert result.verdict == "passed" and set(result.chosen.removed) <= {1, 2} and result.chosen.removed
    config = json.loads((pruned.folder / "model/config.json").read_text())
    assert config["vocab_size"] == 640 and config["num_hidden_layers"] == 4 - result.chosen.depth
    assert result.model == str(whole_model) and result.size["uncut"].disk_bytes > 1.6 * result.size["cut"].disk_bytes
    written = (pruned.folder / "model/model.safetensors").stat().st_size
    assert result.size["cut"].disk_bytes == written
    assert "660 of 1,300 tokens (50.8 %)" in result.tokens and result.tokens in result.why
    assert dict(first_of_prune(result).facts)["removed before"] == result.tokens
    earlier = json.loads((pruned.folder / "model/plan.json").read_text())
    assert (
        (pruned.folder / "model/README.md").read_text().partition("# ")[2].startswith("whole, 1 decoder layer removed")
    )
    assert earlier["earlier"][0]["tokens"] == pytest.approx(660 / 1300)
    assert PruneResult.load(pruned.folder) == result
    assert not (pruned.folder / TRIMMED_FILES).exists(), "it was only needed on the way"


def test_the_original_answers_in_its_own_tokens_and_is_weighed_without_them(pruned, whole_model):
    uncut = RunFolder.open(pruned.folder / "uncut").metrics()
    assert uncut["num_parameters"] == handle_of(whole_model).num_parameters(handle_of(whole_model).plan())
    (other,) = pruned.result.versus
    assert other.model == "original without 660 tokens" and other.passed and other.run == TRIMMED
    assert other.kept[0].kept.value == 1 and "The original without 660 tokens passes too" in pruned.result.why
    assert pruned.result.size["cut"].disk_bytes < other.disk_bytes < pruned.result.size["uncut"].disk_bytes


def test_where_no_plan_passes_the_original_without_tokens_is_handed_over(whole_model, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("layercut.pruning.path.PlanPath.next_layer", lambda self, removed: 0)
    done = run(whole_model, rows, tmp_path / "run", **CHOICE)
    result = done.result
    assert result.verdict != "passed" and result.smallest is result.versus[0] and result.checkpoint == "model"
    model = AutoModelForCausalLM.from_pretrained(done.checkpoint)
    assert model.config.num_hidden_layers == 4 and model.config.vocab_size == 640
    assert "**Passed" in (done.folder / "model/README.md").read_text()


def test_stopped_anywhere_and_resumed_is_uninterrupted(pruned, whole_model, rows, tmp_path, monkeypatch):
    ended, stops = in_legs(monkeypatch, lambda: run(whole_model, rows, tmp_path / "run", **CHOICE), tmp_path / "run")
    assert found(ended) == found(pruned) and stops > 4


def test_a_gguf_file_loses_its_tokens_as_a_file(whole_model, rows, tmp_path):
    file = gguf_of(whole_model, tmp_path / "whole.gguf")
    done = run(file, rows, tmp_path / "run", **CHOICE)
    assert json.loads((done.folder / "model/config.json").read_text())["vocab_size"] == 640
    size = done.result.size
    assert size["cut"].gguf_bytes < size["uncut"].gguf_bytes == file.stat().st_size
    assert read_gguf_head(file).num_layers == 4


def test_the_tokens_of_the_goal_stay_and_their_bytes_count(whole_model, tmp_path):
    text = "Сегодня хорошая погода"
    mine = tmp_path / "mine.jsonl"
    lines = [{"prompt": f"{text} {n}", "choices": ["да", "нет"], "answer": "да", "grade": "choice"} for n in range(80)]
    mine.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    handle = handle_of(whole_model)
    plan = plan_tokens(handle, parts_of(mine), "640")
    kept = set(plan.vocabulary.kept)
    assert set(Tokenizer.from_file(str(whole_model / "tokenizer.json")).encode(text).ids) <= kept
    report = plan_cut(whole_model, plan)
    sizes = Sizes(handle, thins=False, tokens=plan)
    assert sizes.gone == report.bytes_before - report.bytes_after > 0
    less = plan_cut(whole_model, handle.plan()).bytes_before - sizes.gone - sizes._layer * sizes.count_layers(0.42)
    assert less / sizes.total == pytest.approx(0.58, abs=0.06)
    assert describe_trimmed(plan) == "original without 660 tokens" and describe_trimmed(None) == "original"


def test_tokens_that_a_goal_leaves_unused_are_named(whole_model, rows, tmp_path):
    said = []
    done = run(whole_model, rows, tmp_path / "run", say=said.append, **CHOICE | {"units": "layer", "smaller": 0.2})
    (line,) = [line for line in said if "vocab,both" in line]
    unused = describe_unused_tokens(handle_of(whole_model), parts_of(rows))
    assert line.startswith(unused) and "18.9 kB" in unused
    assert dict(first_of_prune(done.result).facts)["unused tokens"] == unused


@pytest.mark.parametrize(
    ("units", "smaller", "match"),
    [
        ("vocab", 0.42, "write layer, width or both, and for tokens as well vocab,both"),
        ("vocab:russian,layer", 0.42, "names no vocabulary and no file"),
        ("vocab:640,layer", 0.2, "the tokens alone are .*% of the bytes"),
        ("vocab:9,layer", 0.42, "vocab:9 is too small"),
    ],
)
def test_what_cannot_be(units, smaller, match, whole_model, rows, tmp_path):
    with pytest.raises((InputError, ValueError), match=match):
        run(whole_model, rows, tmp_path / "run", **CHOICE | {"units": units, "smaller": smaller})
    assert not (tmp_path / "run").exists()


def test_files_of_the_original_lose_the_tokens_too(whole_model, rows, tmp_path):
    pytest.importorskip("llama_cpp_py_sync", reason="llama-cpp-py-sync is not installed (layercut[gguf])")
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (layercut[gguf])")
    file = gguf_of(whole_model, tmp_path / "whole.gguf")
    done = run(
        file,
        rows,
        tmp_path / "run",
        **CHOICE | {"formats": ("q8_0",), "heal": "seam", "units": "vocab:640,width", "keep": 0.3},
    )
    result, whole = done.result, {made.model: made for made in done.result.formats if made.plan == "uncut"}
    assert len(result.formats) > len(whole) and "seam" in result.formats[-1].model
    assert {*whole} == {"original without 660 tokens, Q8_0", "original without 660 tokens, own types"}
    assert whole["original without 660 tokens, own types"].disk_bytes < file.stat().st_size
    assert result.smallest is not None and result.smallest.passed and not result.not_made
    assert read_gguf_head(done.folder / "model/model.gguf").num_layers in (3, 4)
    assert max(tokens_of_gguf(read_gguf_head(done.folder / "model/model.gguf")).texts) == 639
