"""A GGUF file without conversion: tokens, template, config, sizes and hash are those of the converted folder."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest

import layercut
from layercut.engine.handle import ModelHandle
from layercut.errors import CheckpointError
from layercut.models import convert
from layercut.models.gguf_weights import ALIKE
from layercut.models.loading import load_model, load_without_weights
from layercut.models.sources import describe_source, resolve_source
from layercut.models.weights import TENSORS_FILE, stored_tensors
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from tests.support.tiny_gguf import TINY, build, write
from tests.unit.models.gguf_maker import write_gguf

Kind = gguf.GGMLQuantizationType
TEXTS = (
    "2 + 3 = 5\n12 + 30 =", "", "  x  12\n 3", "naïve – 日本 🙂", "<|im_start|>user\nhi<|im_end|>\n", "a" * 300,
)  # fmt: skip
CHAT = [{"role": "user", "content": "What is 12 + 7?"}, {"role": "assistant", "content": "19"}]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAYERCUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_family(name: str, path: Path) -> Path:
    tiny = TINY[name]
    if name == "qwen3":  # transformers reads no size of heads from these files
        tiny = tiny._replace(
            config={"head_dim": 128}, keys={"attention.key_length": 128, "attention.value_length": 128}
        )
    kinds = {"ffn_down.weight": Kind.Q8_0, "attn_k.weight": Kind.Q5_1, "attn_q.weight": Kind.Q4_0}
    return write(build(tiny), name, tiny, path, kinds | {"ffn_up.weight": Kind.F16})


@pytest.mark.parametrize("name", sorted(ALIKE))
def test_the_header_gives_what_the_converted_folder_gives(name: str, tmp_path: Path) -> None:
    file = write_family(name, tmp_path / "tiny.gguf")
    header, whole = (resolve_source(str(file), weights=weights) for weights in (False, True))
    assert describe_source(header) == describe_source(whole)
    assert not list(header.path.glob("*.safetensors"))
    for other in (path.name for path in whole.path.iterdir() if path.suffix != ".safetensors"):
        if other != convert.SOURCE_FILE:
            assert (header.path / other).read_text() == (whole.path / other).read_text(), other
    tensors = [[(span.name, span.dtype, span.shape) for span in stored_tensors(each.path)] for each in (header, whole)]
    assert tensors[0] == tensors[1]
    if name.startswith("gemma"):  # removes layers by periods; its tokenizer is of another kind than these tokens
        return
    plan = CutPlan(num_layers=4, removed=(0, 1))
    assert plan_cut(header.path, plan).to_dict() == plan_cut(whole.path, plan).to_dict()
    ours, loaded = load_without_weights(header), load_model(whole, device="cpu")
    for text in TEXTS:
        assert ours.tokenizer(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]
    template = {"tokenize": False, "add_generation_prompt": True}
    assert ours.tokenizer.apply_chat_template(CHAT, **template) == loaded.tokenizer.apply_chat_template(
        CHAT, **template
    )
    assert ours.generation_config.to_dict() == load_without_weights(whole).generation_config.to_dict()


def test_one_matrix_where_two_are_copies_has_the_same_hash(tmp_path: Path) -> None:
    model = build(TINY["qwen2"], tie_word_embeddings=False)
    model.lm_head.weight.data.copy_(model.model.embed_tokens.weight.data)
    file = write(model, "qwen2", TINY["qwen2"], tmp_path / "two.gguf", {"token_embd.weight": Kind.Q4_0})
    header, whole = (resolve_source(str(file), weights=weights) for weights in (False, True))
    assert describe_source(header) == describe_source(whole)
    assert header.origin["copy"] == whole.origin["copy"]


def test_llama_cpp_converts_no_tensor_until_torch_asks_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    converted: list[Path] = []
    load = convert._load_gguf_model
    monkeypatch.setattr(convert, "_load_gguf_model", lambda *of: converted.append(of[1]) or load(*of))
    handle = ModelHandle(ModelSettings(model=str(file), engine="llama.cpp", device="cpu"))
    plan = handle.plan(CutPlan(num_layers=6, removed=(1,)))
    assert handle.has_chat_template and handle.context_length == 512
    assert handle.num_parameters(plan) < handle.num_parameters(handle.plan()) == handle.counts.parameters
    assert handle.weightless.name == str(file) and not converted
    assert handle.loaded.num_layers == 6 and converted == [file]
    other = ModelHandle(ModelSettings(model=str(file), device="cpu"))
    assert other.metadata == handle.metadata and other.tokenizer_hash == handle.tokenizer_hash


def test_a_cut_of_the_header_is_a_cut_of_the_file(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    before = layercut.cut(str(file), "1", tmp_path / "cut.gguf", verify=False)
    header = resolve_source(str(before), weights=False)
    assert [json.loads((header.path / "plan.json").read_text())["removed"]] == [[1]]
    assert (header.path / TENSORS_FILE).is_file()


def test_a_family_that_is_not_known_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "ALIKE", frozenset())
    source = resolve_source(str(write_gguf(tmp_path / "tiny.gguf")), weights=False)
    assert (source.path / "model.safetensors").is_file() and not (source.path / TENSORS_FILE).exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"blk.2.ffn_up.weight", b"blk.2.ffn_no.weight", r"has no weights for model\.layers\.2\.mlp\.up_proj"),
        (b"feed_forward_length\x04\0\0\0\x30", b"feed_forward_length\x04\0\0\0\x20", r"has the shape \[32, 48\], its"),
    ],
)
def test_a_file_that_does_not_fit_its_header_is_refused(old: bytes, new: bytes, says: str, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    assert file.read_bytes().count(old) == 1
    file.write_bytes(file.read_bytes().replace(old, new))
    with pytest.raises(CheckpointError, match=says):
        resolve_source(str(file), weights=False)
