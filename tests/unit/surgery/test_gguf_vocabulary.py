"""Rows of a GGUF file's tables, its tokens, merges and ids under a trimmed vocabulary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

import layercut
from layercut.errors import InputError
from layercut.models.gguf_file import read_gguf_head
from layercut.selection.vocabulary import choose_vocabulary_of_gguf
from layercut.surgery.gguf_parts import tokens_of_gguf
from layercut.surgery.plan import CutPlan
from tests.support.vocabularies import ROWS, gguf_of, write_model


@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_a_gguf_file_keep_their_bytes(tmp_path: Path, tied: bool) -> None:
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
