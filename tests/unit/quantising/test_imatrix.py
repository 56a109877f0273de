"""Importance matrices in both forms of llama.cpp, those of other models, and files of types by tensor."""

import struct

import gguf
import numpy as np
import pytest

from layercut.errors import InputError
from layercut.quantising.imatrix import (
    ImportanceMatrix,
    check_imatrix,
    read_imatrix,
    read_types,
    type_lines,
    write_imatrix,
)

COLUMNS = {"blk.0.ffn_down.weight": np.arange(1, 9, dtype=np.float32), "blk.0.attn_q.weight": np.ones(4, np.float32)}
MATRIX = ImportanceMatrix(COLUMNS, 1234, ("gsm8k",))


@pytest.mark.parametrize("name", ["own.gguf", "own.dat"])
def test_a_matrix_comes_back_as_it_was_written(tmp_path, name):
    write_imatrix(tmp_path / name, MATRIX)
    read = read_imatrix(tmp_path / name)
    assert read.columns.keys() == COLUMNS.keys()
    for tensor, values in COLUMNS.items():
        np.testing.assert_allclose(read.columns[tensor], values, rtol=1e-6)


def test_the_file_has_the_keys_and_tensors_that_llama_cpp_reads(tmp_path):
    write_imatrix(tmp_path / "own.gguf", MATRIX)
    reader = gguf.GGUFReader(tmp_path / "own.gguf")
    assert reader.fields["general.type"].contents() == "imatrix" and "general.architecture" not in reader.fields
    assert reader.fields["imatrix.datasets"].contents() == ["gsm8k"]
    assert (reader.fields["imatrix.chunk_count"].contents(), reader.fields["imatrix.chunk_size"].contents()) == (3, 512)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert [*tensors] == sorted(tensors) and len(tensors) == 4
    assert tensors["blk.0.ffn_down.weight.counts"].data.reshape(-1).tolist() == [1234]
    np.testing.assert_allclose(
        tensors["blk.0.ffn_down.weight.in_sum2"].data.reshape(-1), COLUMNS["blk.0.ffn_down.weight"] * 1234
    )


def test_the_older_form_is_what_ik_llama_cpp_reads(tmp_path):
    write_imatrix(tmp_path / "own.dat", ImportanceMatrix({"a.weight": np.array([2.0, 4.0], np.float32)}, 512, ("x",)))
    expected = struct.pack("<ii8sii2f", 1, 8, b"a.weight", 1, 2, 2.0, 4.0) + struct.pack("<ii1s", 1, 1, b"x")
    assert (tmp_path / "own.dat").read_bytes() == expected


def test_what_is_no_matrix_or_holds_no_numbers_is_one_line(tmp_path):
    (text := tmp_path / "text.dat").write_text("not a matrix at all")
    with pytest.raises(InputError, match=r"text\.dat is no importance matrix"):
        read_imatrix(text)
    with pytest.raises(InputError, match=r"none\.gguf cannot be read"):
        read_imatrix(tmp_path / "none.gguf")
    write_imatrix(tmp_path / "nan.dat", ImportanceMatrix({"a": np.array([np.nan], np.float32)}, 1))
    with pytest.raises(InputError, match=r"nan\.dat holds numbers below zero, or none, for a"):
        read_imatrix(tmp_path / "nan.dat")


def test_the_matrix_of_another_model_is_refused(tmp_path):
    file = tmp_path / "other.gguf"
    check_imatrix(file, MATRIX, {"blk.0.ffn_down.weight": 8, "blk.9.ffn_down.weight": 8})
    with pytest.raises(InputError, match=r"8 columns for blk\.0\.ffn_down\.weight, and the model has 16"):
        check_imatrix(file, MATRIX, {"blk.0.ffn_down.weight": 16})
    with pytest.raises(InputError, match="names none of the model's tensors"):
        check_imatrix(file, MATRIX, {"blk.7.ffn_down.weight": 8})


def test_types_by_tensor_come_back_and_foreign_lines_match_as_in_llama_cpp():
    types = {"blk.1.attn_q.weight": "IQ3_S", "blk.1.attn_q_norm.weight": "Q8_0", "blk.11.attn_q.weight": "Q4_K"}
    assert read_types(type_lines(types), list(types)) == types
    assert read_types(["attn_q=q6_k", "", "blk.11.*=q2_k"], list(types)) == dict.fromkeys(types, "Q6_K") | {
        "blk.11.attn_q.weight": "Q2_K"
    }
    for line, fault in (("attn_q", "is no line"), ("attn_q=q9", "is no line"), ("(=q4_k", "no regular expression")):
        with pytest.raises(InputError, match=fault):
            read_types([line], list(types))
