"""A trimmed vocabulary: text of tokens that stay is tokenised as before, and rows, ids and answers follow."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import gguf
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import layercut
from layercut.errors import InputError
from layercut.models.gguf_file import read_gguf_head
from layercut.models.weights import read_config
from layercut.selection.vocabulary import choose_vocabulary_of_gguf
from layercut.surgery.channels import Vocabulary
from layercut.surgery.gguf_parts import tokens_of_gguf
from layercut.surgery.plan import CutPlan
from layercut.surgery.trimming import follow_token_ids, ids_in, tokens_of_folder, trim_tokenizer
from tests.support.vocabularies import KINDS, ROWS, TEXT, gguf_of, write_model


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return write_model(request.param, tmp_path_factory.mktemp("vocabularies") / request.param)


def joined_texts(seed: int, number: int = 3000) -> list[str]:
    """Pieces of the training text, joined where no word ends, so that rare merges are made too."""
    rng, whole = Random(seed), "\n".join(TEXT)
    parts = [whole[at : at + rng.choice((2, 4, 20))] for at in rng.choices(range(len(whole)), k=2 * number)]
    return ["".join(pair) for pair in zip(parts[::2], parts[1::2], strict=True)]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_text_of_tokens_that_stay_is_tokenised_as_before(folder, share):
    """Random sets of tokens, closed: no covered text of 3,000 may differ, and some must be covered."""
    tokens, data = tokens_of_folder(folder), json.loads((folder / "tokenizer.json").read_text())
    before = Tokenizer.from_str(json.dumps(data))
    rng = Random(share)
    stay = tokens.close(token for token in tokens.texts if rng.random() < share)
    vocabulary = Vocabulary(name="random", size=ROWS, kept=tuple(sorted(stay)))
    after = Tokenizer.from_str(json.dumps(trim_tokenizer(data, vocabulary)))
    covered = 0
    for text in joined_texts(7):
        old = before.encode(text).ids
        if stay.issuperset(old):
            covered += 1
            assert after.encode(text).ids == [vocabulary.new_ids[token] for token in old]
            assert after.decode(after.encode(text).ids) == before.decode(old)
    assert covered > 20


@pytest.mark.parametrize("tied", [True, False])
def test_a_trimmed_checkpoint_computes_the_same_for_tokens_that_stay(tmp_path, tied):
    source = write_model("bytes", tmp_path / "whole", tied=tied)
    out = tmp_path / "out"
    layercut.cut(source, "1 vocab:ascii", out)
    plan = CutPlan.load(out / "plan.json")
    assert plan.vocabulary is not None and plan.removed == (1,) and plan.label == "1 vocab:ascii"
    kept = plan.vocabulary.kept
    assert len(kept) % 64 == 0 and len(kept) < 1200
    whole, cut = (AutoModelForCausalLM.from_pretrained(at) for at in (source, out))
    assert cut.config.vocab_size == len(kept) == cut.get_input_embeddings().weight.shape[0]
    layercut.remove_layers(whole, "1")
    old, new = (AutoTokenizer.from_pretrained(at) for at in (source, out))
    text = "A test of its name.\n    def test(): pass"
    before, after = (one(text, return_tensors="pt")["input_ids"] for one in (old, new))
    assert [kept[token] for token in after[0].tolist()] == before[0].tolist()
    with torch.no_grad():
        assert torch.equal(whole(before).logits[..., list(kept)], cut(after).logits)
    assert new.eos_token_id == plan.vocabulary.new_ids[old.eos_token_id]
    ends = [plan.vocabulary.new_ids[token] for token in whole.generation_config.eos_token_id]
    assert cut.generation_config.eos_token_id == ends == read_config(out)["eos_token_id"]
    chat = [{"role": "user", "content": "Hello there."}]
    assert new.apply_chat_template(chat, tokenize=False) == old.apply_chat_template(chat, tokenize=False)
    texts = [one.decode(one.apply_chat_template(chat)["input_ids"]) for one in (old, new)]
    assert texts[0] == texts[1]
    # What was removed is still written, in more tokens.
    assert new.decode(new("Привет")["input_ids"], skip_special_tokens=True) == "Привет"


def test_a_tokenizer_of_another_kind(tmp_path):
    folder = write_model("bytes", tmp_path / "model")
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"] = {"type": "WordPiece", "vocab": data["model"]["vocab"], "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="'WordPiece', and only byte-pair"):
        layercut.cut(folder, "vocab:ascii", tmp_path / "out")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer.json"):
        layercut.cut(folder, "vocab:ascii", tmp_path / "out")


def test_ids_in_configs():
    config = {
        "vocab_size": 10, "eos_token_id": [3, 9], "pad_token_id": None, "bos_token_id": -1, "num_heads": 4,
        "text_config": {"vocab_size": 10, "image_token_index": 7}, "suppress_tokens": [3], "bad_words_ids": [[7, 9]],
    }  # fmt: skip
    assert ids_in(config) == {3, 7, 9}
    vocabulary = Vocabulary(name="some", size=10, kept=(0, 3, 7, 9))
    assert follow_token_ids(config, vocabulary) == {
        "vocab_size": 4, "eos_token_id": [1, 3], "pad_token_id": None, "bos_token_id": -1, "num_heads": 4,
        "text_config": {"vocab_size": 4, "image_token_index": 2}, "suppress_tokens": [1], "bad_words_ids": [[2, 3]],
    }  # fmt: skip
    with pytest.raises(InputError, match=r"names the token 5 \(pad_token_id\)"):
        follow_token_ids({"pad_token_id": 5}, vocabulary)


def test_a_model_in_memory_loses_the_tokens_that_its_folder_loses(tmp_path):
    bytes_model = write_model("bytes", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(bytes_model).eval()
    layercut.cut(str(bytes_model), "vocab:ascii", tmp_path / "folder", device="cpu")
    layercut.cut(model, "vocab:ascii", tmp_path / "memory")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "memory" / name).read_bytes() == (tmp_path / "folder" / name).read_bytes()
    assert model.get_input_embeddings().weight.shape[0] == ROWS


@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_a_gguf_file_keep_their_bytes(tmp_path, tied):
    whole = gguf_of(write_model("bytes", tmp_path / "model", tied=tied), tmp_path / "whole.gguf")
    small = tmp_path / "small.gguf"
    layercut.cut(whole, "2 vocab:ascii", small)  # with the comparison of logits
    before, after = (gguf.GGUFReader(file) for file in (whole, small))
    plan = CutPlan.from_dict(json.loads(after.fields["layercut.plan"].contents()))
    assert plan.vocabulary is not None and plan.vocabulary.size == ROWS and plan.removed == (2,)
    kept = list(plan.vocabulary.kept)
    old, new = ({tensor.name: tensor for tensor in reader.tensors} for reader in (before, after))
    for name in ("token_embd.weight", *(() if tied else ("output.weight",))):
        assert new[name].data.shape[0] == len(kept) and (new[name].data == old[name].data[kept]).all()
        assert new[name].tensor_type == old[name].tensor_type
    stays = {"blk.3.": "blk.2.", "blk.1.": "blk.1.", "blk.0.": "blk.0."}
    for name, tensor in old.items():
        if prefix := next((prefix for prefix in stays if name.startswith(prefix)), None):
            assert (new[stays[prefix] + name.removeprefix(prefix)].data == tensor.data).all()
    texts, new_texts = (reader.fields["tokenizer.ggml.tokens"].contents() for reader in (before, after))
    assert new_texts == [texts[token] for token in kept]
    assert not any(text.startswith("[PAD") for text in new_texts)
    assert after.fields["llama.vocab_size"].contents() == len(kept)
    end, new_end = (reader.fields["tokenizer.ggml.eos_token_id"].contents() for reader in (before, after))
    assert new_end == plan.vocabulary.new_ids[end]
    # The same tokens as from the folder, and the file can be read and cut again.
    assert set(choose_vocabulary_of_gguf(whole, "ascii").kept) == set(kept)
    layercut.cut(small, "0", tmp_path / "smaller.gguf", verify=False)
    head = read_gguf_head(whole)
    with pytest.raises(InputError, match="only byte pairs"):
        tokens_of_gguf(replace(head, metadata={**head.metadata, "tokenizer.ggml.model": "t5"}))
