"""Safetensors files made of byte ranges: any dtype, aligned, the same bytes whichever way they are copied."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from layercut.errors import CheckpointError
from layercut.models.weights import TensorSpan, read_header, safetensors_files
from layercut.surgery import shards
from layercut.surgery.shards import lay_out, write_shards

META = {"format": "pt"}


def pieces_of(*files):
    found = []
    for file in files:
        header = read_header(file)
        found += [TensorSpan(name, e, file, header.data_offset + e.begin) for name, e in header.tensors.items()]
    return found


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
def test_all_dtypes_survive_any_sharding(mixed, limit, tmp_path):
    pieces, tensors = mixed
    out = tmp_path / "out"
    out.mkdir()
    write_shards(lay_out(pieces, limit, META), out, 0)
    files = safetensors_files(out)  # reads every header and refuses holes and overlaps
    assert files.keys() == tensors.keys()
    for file in set(files.values()):
        for name, tensor in load_file(file).items():
            assert same(
                tensor.float() if tensor.dtype.itemsize == 1 else tensor,
                tensors[name].float() if tensors[name].dtype.itemsize == 1 else tensors[name],
            )
    for file in set(files.values()):
        header = read_header(file)
        assert header.data_offset % 8 == 0
        for name, entry in header.tensors.items():
            assert entry.begin % tensors[name].dtype.itemsize == 0


def test_the_file_is_what_the_safetensors_library_would_write(tmp_path):
    """One dtype, one file: byte for byte a copy, header included."""
    save_file({f"w{i}": torch.randn(3, i + 1) for i in range(4)}, tmp_path / "model.safetensors", META)
    out = tmp_path / "out"
    out.mkdir()
    write_shards(lay_out(pieces_of(tmp_path / "model.safetensors"), 10**9, META), out, 0)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, None])
def test_where_the_kernel_cannot_copy_it_is_done_by_hand(mixed, code, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(code, "cannot")

    pieces, _ = mixed
    written = {}
    for how in ("kernel", "by hand"):
        out = tmp_path / how
        out.mkdir()
        write_shards(lay_out(pieces, 40, META), out, 0)
        written[how] = {path.name: path.read_bytes() for path in out.iterdir()}
        if code is None:
            monkeypatch.delattr(os, "copy_file_range", raising=False)  # as on macOS
        else:
            monkeypatch.setattr(os, "copy_file_range", refuse)
    assert written["kernel"] == written["by hand"]


def test_other_errors_of_the_kernel_are_not_swallowed(mixed, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="No space left"):
        write_shards(lay_out(mixed[0], 40, META), tmp_path, 0)


def test_small_chunks_and_short_copies_add_up(mixed, tmp_path, monkeypatch):
    pieces, _ = mixed
    in_kernel, recorded = os.copy_file_range, []
    monkeypatch.setattr(shards, "CHUNK", 5)
    monkeypatch.setattr(os, "copy_file_range", lambda a, b, count, offset: in_kernel(a, b, min(count, 3), offset))
    (tmp_path / "out").mkdir()
    write_shards(lay_out(pieces, 10**9, META), tmp_path / "out", 0, recorded.append)
    assert max(recorded) == 3
    assert sum(recorded) == sum(piece.entry.num_bytes for piece in pieces)
    assert same(load_file(tmp_path / "out" / "model.safetensors")["ünï"], torch.arange(6.0).reshape(2, 3))


def test_a_file_that_shrinks_meanwhile_is_reported(mixed, tmp_path):
    pieces, _ = mixed
    plan = lay_out(pieces, 10**9, META)
    os.truncate(pieces[-1].file, 30)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=r"b\.safetensors became shorter"):
        write_shards(plan, tmp_path / "out", 0)


def test_the_index_is_as_transformers_writes_it(mixed, tmp_path):
    pieces, tensors = mixed
    (tmp_path / "out").mkdir()
    write_shards(lay_out(pieces, 40, META), tmp_path / "out", 123)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 123, "total_size": sum(t.nbytes for t in tensors.values())}
    assert list(index["weight_map"]) == sorted(tensors)


def test_bytes_keep_their_place_within_a_block(tmp_path, monkeypatch):
    """So that whole pages are copied, and shared blocks are possible; names of any length change nothing about it."""
    save_file({f"w{i}": torch.randn(64, 64) for i in range(4)}, tmp_path / "model.safetensors", META)
    pieces = [p._replace(name=p.name * 30) for p in pieces_of(tmp_path / "model.safetensors")][1:]
    calls, in_kernel = [], os.copy_file_range

    def record(source, target, count, offset):
        calls.append((offset % shards.BLOCK, os.lseek(target, 0, os.SEEK_CUR) % shards.BLOCK))
        return in_kernel(source, target, count, offset)

    monkeypatch.setattr(os, "copy_file_range", record)
    monkeypatch.setattr(shards, "CHUNK", 2 * shards.BLOCK)
    (tmp_path / "out").mkdir()
    write_shards(lay_out(pieces, 10**9, META), tmp_path / "out", 0)
    assert len(calls) > 4
    assert all(source == target for source, target in calls)
    assert all(source == 0 for source, _ in calls[1:])
    written, before = load_file(tmp_path / "out" / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(written[f"w{i}" * 30], before[f"w{i}"]) for i in (1, 2, 3))
