"""Which tokens stay, by what is asked for, and which texts they cover."""

import json
from dataclasses import replace

import pytest
from tokenizers import Tokenizer

import layercut
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.runs.directory import RunFolder
from layercut.selection.specs import LayerSpec
from layercut.selection.vocabulary import certify_answers, choose_vocabulary, used_tokens_in, vocabulary_of
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan
from layercut.surgery.trimming import tokens_of_folder
from tests.support.vocabularies import write_model


@pytest.fixture(scope="module")
def bytes_model(tmp_path_factory):
    return write_model("bytes", tmp_path_factory.mktemp("vocabularies") / "bytes")


def test_which_tokens_are_kept(bytes_model, tmp_path):
    tokens = tokens_of_folder(bytes_model)
    kept = {name: set(choose_vocabulary(bytes_model, name).kept) for name in ("ascii", "latin")}
    others = [token for token in kept["ascii"] & tokens.texts.keys() if not tokens.bytes_of(token).isascii()]
    assert len(others) < 128 + 64, "single bytes, and what fills up the rows to a multiple of 64"
    written = {tokens.bytes_of(token).decode("utf-8", "replace") for token in kept["latin"] & tokens.texts.keys()}
    assert any(set(text) & set("üößéàñ") for text in written)
    assert sum(bool(set(text) & set("погдасев")) for text in written) < 64
    assert len(kept["ascii"]) < len(kept["latin"])
    small = choose_vocabulary(bytes_model, "600")
    assert 536 < len(small.kept) <= 600 and len(small.kept) % 64 == 0
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"prompt": "Сегодня хорошая погода", "answer": ["в Москве"]}) + "\n")
    encode = Tokenizer.from_file(str(bytes_model / "tokenizer.json")).encode
    own, both = choose_vocabulary(bytes_model, str(mine)), choose_vocabulary(bytes_model, f"600+{mine}")
    assert both.name == "600+mine.jsonl" and set(own.kept) - set(both.kept) == set() and len(both.kept) == 576
    assert own.name == "mine.jsonl"
    for text in ("Сегодня хорошая погода", "в Москве"):
        assert set(encode(text).ids) <= set(own.kept) & set(both.kept)
    template = encode("<|im_start|>user\n<|im_end|>\nassistant:").ids
    assert set(template) <= set(small.kept) & set(own.kept)
    assert {1, 2, *range(5)} <= set(small.kept)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("vocab:100", "vocab:100 is too small: .* write \\d+ or more"),
        ("vocab:russian", "names no vocabulary and no file; write vocab:ascii"),
        ("vocab:500+600", "names two numbers"),
    ],
)
def test_a_vocabulary_that_cannot_be(bytes_model, tmp_path, text, match):
    with pytest.raises(InputError, match=match):
        layercut.cut(bytes_model, text, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    size = 1 + max(tokens_of_folder(bytes_model).texts)
    with pytest.raises(InputError, match=f"vocab:99999 keeps all {size:,} rows, so nothing goes"):
        vocabulary_of(tokens_of_folder(bytes_model), "99999", size, set())


def test_a_plan_of_tokens_is_for_files(bytes_model):
    with pytest.raises(InputError, match="a plan for files: layercut cut"):
        LayerSpec.parse("2 vocab:ascii").bind(num_layers=4)
    plan = CutPlan(num_layers=4, vocabulary=choose_vocabulary(bytes_model, "ascii"))
    handle = ModelHandle(ModelSettings(model=str(bytes_model), device="cpu"))
    with pytest.raises(InputError, match="measured on its files"):
        handle.plan(plan)


def test_whole_prompts_of_a_run_stay(bytes_model, tmp_path):
    run = layercut.evaluate(bytes_model, "copy", readouts="short", limit=4, device="cpu", out=tmp_path / "run").folder
    own = choose_vocabulary(bytes_model, f"600+{run}")
    ((name, note),) = used_tokens_in(bytes_model, run).items()
    used = note["ids"]
    questions = json.loads((run / "samples" / "copy.short.jsonl").read_text().split("\n")[0])["question"]
    encode = Tokenizer.from_file(str(bytes_model / "tokenizer.json")).encode
    assert name == "copy (short)" and set(encode(questions).ids) - {1} < set(used) <= set(own.kept)
    said = f"all {len(used):,} tokens of prompts and answers of copy (short) stay, so its greedy answers are the same"
    assert certify_answers(bytes_model, f"600+{run}", own) == [said]
    fewer = replace(own, kept=tuple(token for token in own.kept if token != max(used)))
    assert certify_answers(bytes_model, f"600+{run}", fewer) == []
    for record in RunFolder.open(run).records("copy", "short"):
        assert len(record["tokens"]) == record["num_new_tokens"] and set(record["tokens"]) <= set(used)
    small = layercut.cut(bytes_model, f"vocab:600+{run}", tmp_path / "small")
    again = layercut.evaluate(small, "copy", readouts="short", limit=4, device="cpu", out=tmp_path / "again").folder
    answers = [
        [record["completion"] for record in RunFolder.open(folder).records("copy", "short")] for folder in (run, again)
    ]
    assert answers[0] == answers[1]
    assert used_tokens_in(small, run) == {}, "ids of another tokenizer"


def test_only_greedy_answers_of_known_tokens_are_said_to_stay(bytes_model, tmp_path):
    """Drawn answers and scores of options are sums over the whole vocabulary, which is smaller then."""
    drawn = layercut.evaluate(
        bytes_model, "copy", readouts="short", limit=2, device="cpu", temperature=0.8, out=tmp_path / "drawn"
    )
    ranked = layercut.evaluate(bytes_model, "copy", readouts="rank", limit=2, device="cpu", out=tmp_path / "ranked")
    for run in (drawn.folder, ranked.folder):
        (said,) = certify_answers(bytes_model, str(run), choose_vocabulary(bytes_model, f"600+{run}"))
        assert said.endswith(" stay")
