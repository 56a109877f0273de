"""Safetensors files made of byte ranges: any dtype, aligned, the same bytes."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from layercut.errors import CheckpointError
from layercut.models import weights
from layercut.models.weights import read_header, safetensors_files
from layercut.surgery.shards import lay_out_shards, write_shards

META = {"format": "pt"}


def pieces_of(*files):
    return [piece for file in files for piece in read_header(file).tensors.values()]


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def mixed(tmp_path):
    """Two files with dtypes of one to eight bytes and odd sizes: laid end to end, most tensors would be misaligned."""
    first = {
        "fp8": torch.arange(7, dtype=torch.float32).to(torch.float8_e4m3fn),
        "bf16": torch.arange(5, dtype=torch.bfloat16),
        "scale": torch.tensor([0.5]),
        "empty": torch.zeros(0, 4),
    }
    second = {
        "packed": torch.arange(3, dtype=torch.uint8),
        "flag": torch.tensor([True, False, True]),
        "index": torch.arange(3, dtype=torch.int64),
        "half": torch.arange(3, dtype=torch.float16),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "ünï": torch.arange(6.0).reshape(2, 3),
    }
    save_file(first, tmp_path / "a.safetensors", META)
    save_file(second, tmp_path / "b.safetensors", META)
    return pieces_of(tmp_path / "a.safetensors", tmp_path / "b.safetensors"), first | second


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and one.view(-1).tolist() == other.view(-1).tolist()


@pytest.mark.parametrize("limit", [1, 16, 40, 10**9])
def test_all_dtypes_survive_any_sharding(mixed, limit, out):
    pieces, tensors = mixed
    write_shards(lay_out_shards(pieces, limit), out, META, 0)
    files = safetensors_files(out)  # reads every header and refuses holes and overlaps
    assert files.keys() == tensors.keys()
    for file in set(files.values()):
        for name, tensor in load_file(file).items():
            assert same(*(one.float() if one.dtype.itemsize == 1 else one for one in (tensor, tensors[name])))
        pieces = read_header(file).tensors
        assert min(piece.offset for piece in pieces.values()) % 8 == 0
        for name, piece in pieces.items():
            assert piece.offset % tensors[name].dtype.itemsize == 0


def test_the_file_is_what_the_safetensors_library_would_write(tmp_path, out):
    """One dtype, one file: byte for byte a copy, header included."""
    save_file({f"w{i}": torch.randn(3, i + 1) for i in range(4)}, tmp_path / "model.safetensors", META)
    write_shards(lay_out_shards(pieces_of(tmp_path / "model.safetensors"), 10**9), out, META, 0)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_small_chunks_add_up(mixed, out, monkeypatch):
    pieces, _ = mixed
    monkeypatch.setattr(weights, "CHUNK", 5)
    write_shards(lay_out_shards(pieces, 10**9), out, META, 0)
    assert max(len(data) for piece in pieces for data in piece.chunks()) == 5
    assert same(load_file(out / "model.safetensors")["ünï"], torch.arange(6.0).reshape(2, 3))


def test_a_file_that_shrinks_meanwhile_is_reported(mixed, out):
    pieces, _ = mixed
    plan = lay_out_shards(pieces, 10**9)
    os.truncate(pieces[-1].file, 30)
    with pytest.raises(CheckpointError, match=r"b\.safetensors became shorter"):
        write_shards(plan, out, META, 0)


def test_the_index_is_as_transformers_writes_it(mixed, out):
    pieces, tensors = mixed
    write_shards(lay_out_shards(pieces, 40), out, META, 123)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 123, "total_size": sum(t.nbytes for t in tensors.values())}
    assert list(index["weight_map"]) == sorted(tensors)
