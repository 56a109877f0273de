"""Headers, shards and fingerprints: what is read, what is refused, and in which words."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from layercut.engine.handle import ModelHandle
from layercut.errors import CheckpointError
from layercut.models.weights import (
    INDEX_FILE,
    SINGLE_FILE,
    cached_values,
    fingerprint_weights,
    read_config,
    read_header,
    safetensors_files,
)
from layercut.settings import ModelSettings
from tests.support import hostile_headers
from tests.support.tiny import save_tiny
from tests.unit.models.damage import cut_short, edit_json, edit_tensors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("sharded"), max_shard_size="60KB")


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.fixture
def shards(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "shards")


def test_header_gives_the_bytes_of_every_tensor(tmp_path):
    tensors = {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "none": torch.empty(0, 4, dtype=torch.int8),
        "scalar": torch.tensor(7, dtype=torch.int64),
    }
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    header, raw = read_header(path), path.read_bytes()
    assert header.metadata == {"format": "pt"}
    dtypes = {name: entry.dtype for name, entry in header.tensors.items()}
    assert dtypes == {"a": "F32", "b": "BF16", "none": "I8", "scalar": "I64"}
    entry = header.tensors["a"]
    assert (entry.shape, entry.num_parameters, entry.num_bytes) == ((2, 3), 6, 24)
    assert raw[entry.offset : entry.offset + entry.num_bytes] == struct.pack("<6f", *range(6))
    assert max(entry.offset + entry.num_bytes for entry in header.tensors.values()) == len(raw)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no safetensors file"),
        (b"PK\x03\x04 a pickle in a zip file", "no safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        ((100).to_bytes(8, "little") + b"{}", "is truncated, damaged or no safetensors file (Error while"),
        ((2).to_bytes(8, "little") + b"[]", "; 10 bytes); fetch it again"),
        ((4).to_bytes(8, "little") + b"\xff\xfe{}", "; 12 bytes); fetch it again"),
    ],
)
def test_a_file_that_is_none(tmp_path, content, says):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert says in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shorter_and_longer_than_its_header_says(copy):
    path = copy / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=rf"is truncated, .* {len(data) - 1:,} bytes"):
        safetensors_files(copy)
    path.write_bytes(data + b"\0")
    with pytest.raises(CheckpointError, match="not fully covered"):
        safetensors_files(copy)


def test_files_of_one_and_of_many(whole, sharded):
    one, many = safetensors_files(whole), safetensors_files(sharded)
    assert set(one) == set(many)
    assert set(one.values()) == {whole / "model.safetensors"}
    assert len(set(many.values())) > 2
    for name, path in many.items():
        assert name in read_header(path).tensors


def test_a_truncated_or_missing_shard_is_named(shards):
    victim = sorted(shards.glob("model-*.safetensors"))[1]
    cut_short(victim, 10)
    with pytest.raises(CheckpointError, match=rf"{victim.name} is truncated"):
        safetensors_files(shards)
    victim.unlink()
    with pytest.raises(CheckpointError, match=rf"{victim.name} is missing; .* \d+ tensors"):
        safetensors_files(shards)


def test_an_index_that_does_not_fit(shards):
    index = shards / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    names = good["weight_map"]
    for weight_map, message in (
        (names | {"more.weight": "model-00001-of-00002.safetensors"}, "model-00001-of-00002.safetensors is missing"),
        (names | {"more.weight": names["model.norm.weight"]}, r"lacks the tensor more\.weight"),
        (dict.fromkeys(names, "../elsewhere/model.safetensors"), "outside its own folder"),
        ({}, "names no tensors"),
    ):
        index.write_text(json.dumps(good | {"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match=message):
            safetensors_files(shards)
    index.write_text("{")
    with pytest.raises(CheckpointError, match=r"Expecting property|no weight_map can"):
        safetensors_files(shards)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pytorch_model.bin", r"only pickled weights \(pytorch_model.bin\).*save_pretrained"),
        ("pytorch_model-00001-of-00002.bin", "only pickled weights"),
        ("adapter_model.safetensors", "it holds adapter_model.safetensors, which is another format"),
        ("model.Q4_K.gguf", r"it holds model\.Q4_K\.gguf, which is another"),
        ("README.md", "neither model.safetensors nor"),
    ],
)
def test_what_stands_there_instead_of_weights(tmp_path, name, says):
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=says):
        safetensors_files(tmp_path)


def test_fingerprint_does_not_depend_on_sharding_or_bookkeeping(whole, sharded, copy):
    assert fingerprint_weights(whole) == fingerprint_weights(sharded)
    edit_json(copy / "config.json", transformers_version="4.0.0", use_cache=False, dtype="bfloat16", _name_or_path="x")
    assert fingerprint_weights(copy) == fingerprint_weights(whole)
    assert len(fingerprint_weights(whole)) == 64


def test_fingerprint_changes_with_any_tensor_name_shape_dtype_and_config(whole, copy):
    a, b = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    changes = [
        *(lambda tensors, name=name: tensors[name].mul_(1.01) for name in load_file(whole / "model.safetensors")),
        lambda tensors: tensors.update({a: tensors[b], b: tensors[a]}),
        lambda tensors: tensors.update({a: tensors[a].reshape(-1, 16)}),
        lambda tensors: tensors.update({a: tensors[a].view(torch.int32)}),
        lambda tensors: tensors.pop(a),
    ]
    seen = {fingerprint_weights(whole)}
    for change in changes:
        shutil.copy(whole / "model.safetensors", copy / "model.safetensors")
        edit_tensors(copy / "model.safetensors", change)
        seen.add(fingerprint_weights(copy))
    shutil.copy(whole / "model.safetensors", copy / "model.safetensors")
    edit_json(copy / "config.json", rms_norm_eps=0.5)
    seen.add(fingerprint_weights(copy))
    assert len(seen) == len(changes) + 2


def test_fingerprint_sees_both_ends_of_a_large_tensor(whole, copy):
    seen = set()
    for place in (None, 0, -1):
        tensor = torch.zeros(5000)
        if place is not None:
            tensor[place] = 1
        save_file({"a": tensor}, copy / "model.safetensors")
        seen.add(fingerprint_weights(copy))
    assert len(seen) == 3


def test_config_errors(tmp_path):
    for text, says in ((None, r"it has no config\.json"), ("{'a': 1}", "is damaged"), ("[]", "JSON object")):
        if text:
            (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=says):
            read_config(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((SINGLE_FILE, content) for content in hostile_headers.SAFETENSORS.values()),
        *((INDEX_FILE, content) for content in hostile_headers.INDEX.values()),
    ],
    ids=[*hostile_headers.SAFETENSORS, *hostile_headers.INDEX],
)
def test_a_header_or_index_that_lies_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        safetensors_files(tmp_path)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(("family", "layers_at"), [("llama", "model.layers"), ("gpt2", "transformer.h")])
def test_counts_of_headers_are_those_of_the_model(family: str, layers_at: str, tmp_path: Path) -> None:
    handle = ModelHandle(ModelSettings(model=str(save_tiny(family, tmp_path / "tiny")), device="cpu"))
    model = AutoModelForCausalLM.from_pretrained(handle.source.path)
    config, counts = model.config, handle.counts
    layers = list(model.get_submodule(layers_at).parameters())
    assert counts.parameters == sum(weight.numel() for weight in model.parameters())
    assert counts.in_layers == sum(weight.numel() for weight in layers)
    assert counts.of_adapters == sum(sum(weight.shape) for weight in layers if weight.dim() == 2)
    assert (counts.hidden_size, counts.vocabulary) == (config.hidden_size, config.vocab_size)
    assert counts.in_memory("bfloat16") == 2 * counts.parameters and counts.in_memory("auto") == counts.stored_bytes
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    assert cached_values(handle.source.path) == 2 * heads * size
