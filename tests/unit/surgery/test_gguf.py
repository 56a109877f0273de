"""A GGUF file cut to a GGUF file: the bytes of its tensors, all of its metadata, and the model that it is."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

import layercut
from layercut.engine.handle import ModelHandle
from layercut.errors import CheckpointError, InputError, VerificationError
from layercut.models.gguf_file import read_gguf_head
from layercut.models.loading import load_model
from layercut.selection.specs import LayerSpec
from layercut.settings import ModelSettings
from layercut.surgery import gguf as surgery
from layercut.surgery.gguf import cut_gguf_file, gguf_to_gguf
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from tests.support.small_disk import small_disk
from tests.support.surgery import PLANS, generate, logits_of, plan_of
from tests.unit.models.gguf_maker import write_gguf

pytestmark = pytest.mark.usefixtures("shared_cache")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def cut(file: Path, removed: str | CutPlan, out: Path, *, verify: bool = False, **more: Any) -> Any:
    settings = ModelSettings(model=str(file), device="cpu")
    return cut_gguf_file(settings, LayerSpec.parse(removed).bind, file, out, verify=verify, **more)


def tensors(file: Path) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every tensor, as the gguf library reads them."""
    return {
        tensor.name: (int(tensor.tensor_type), tuple(map(int, tensor.shape)), tensor.data.tobytes())
        for tensor in gguf.GGUFReader(file).tensors
    }


def metadata(file: Path) -> dict[str, Any]:
    """All keys but those that describe the file itself."""
    fields = gguf.GGUFReader(file).fields.items()
    return {key: (field.types, field.contents()) for key, field in fields if not key.startswith("GGUF.")}


@pytest.mark.parametrize("removed", PLANS.values(), ids=PLANS)
def test_it_is_the_file_that_a_model_without_these_layers_gives(file, tmp_path, removed):
    plan = plan_of(removed)
    cut(file, plan, tmp_path / "cut.gguf")
    wanted = write_gguf(tmp_path / "wanted.gguf", kept=plan.kept)
    assert tensors(tmp_path / "cut.gguf") == tensors(wanted)
    assert list(tensors(tmp_path / "cut.gguf")) == list(tensors(wanted))
    written = metadata(tmp_path / "cut.gguf").items()
    assert {key: value for key, value in written if not key.startswith("layercut.")} == metadata(wanted)
    assert read_gguf_head(tmp_path / "cut.gguf").arrays["layercut.removed"] == plan.removed


def test_bypassed_is_cut_is_loaded_by_transformers(file, tmp_path):
    plan = plan_of((4, 1, 2))
    done = cut(file, plan, tmp_path / "cut.gguf", verify=True)
    assert done.verified == (
        "29 tensors have the bytes of the original's; transformers reads from it the config of the original with 3 "
        "layers, and the names and shapes of its 29 tensors"
    )
    assert "29 tensors" in done.verified
    loaded = load_model(str(file), device="cpu").model
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="cut.gguf", dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    ).float()
    with bypass(loaded, plan):
        assert torch.equal(logits_of(model), logits_of(loaded))
        assert generate(model, use_cache=True) == generate(loaded, use_cache=True)
    files = (file, tmp_path / "cut.gguf")
    old, new = (AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name) for path in files)
    assert old("2 + 3 <|im_start|>\n")["input_ids"] == new("2 + 3 <|im_start|>\n")["input_ids"]


def test_layercut_reads_its_own_file_as_any_model(file, tmp_path):
    out = layercut.cut(str(file), "1-2", tmp_path / "cut.gguf")
    assert out == tmp_path / "cut.gguf"
    loaded = load_model(str(out), device="cpu")
    assert loaded.num_layers == 4
    handle = ModelHandle(ModelSettings(model=str(out), device="cpu"))
    assert [plan.removed for plan in handle.earlier_plans] == [(1, 2)]
    said = handle.introduce(handle.plan())
    assert said.endswith("tiny.gguf without 2 of 6 decoder layers: 1,2), 4 decoder layers")
    layercut.cut(str(out), "0", tmp_path / "folder", device="cpu", verify=False)
    steps = CutPlan.load(tmp_path / "folder" / "plan.json").earlier
    assert [step["removed"] for step in steps] == [[1, 2]]


def test_sizes_that_the_file_names_are_those_of_the_kept_layers(tmp_path):
    whole = write_gguf(tmp_path / "whole.gguf", size_label="54K")
    cut(whole, "4,1,2", tmp_path / "cut.gguf")
    head = read_gguf_head(tmp_path / "cut.gguf")
    assert head.num_parameters < 0.7 * read_gguf_head(whole).num_parameters
    assert head.metadata["general.size_label"] == f"{head.num_parameters / 1e3:.0f}K"
    assert (head.metadata["layercut.parent"], head.metadata["layercut.parent_layers"]) == ("whole.gguf", 6)
    assert len(head.metadata["layercut.parent_sha256"]) == 64
    plan = CutPlan.from_dict(json.loads(head.metadata["layercut.plan"]))
    assert (plan.removed, plan.num_layers) == ((4, 1, 2), 6)


def test_a_second_cut_records_the_first(file, tmp_path):
    cut(file, "4,1", tmp_path / "one.gguf")
    cut(tmp_path / "one.gguf", "0", tmp_path / "two.gguf")
    cut(tmp_path / "two.gguf", "2", tmp_path / "three.gguf")
    head = read_gguf_head(tmp_path / "three.gguf")
    assert [step["removed"] for step in json.loads(head.metadata["layercut.earlier_plans"])] == [[4, 1], [0]]
    plan = json.loads(head.metadata["layercut.plan"])
    assert [step["removed"] for step in plan["earlier"]] == [[4, 1], [0]]
    assert sum(key.startswith("layercut.") for key in head.fields) == 7
    wanted = write_gguf(tmp_path / "wanted.gguf", kept=(2, 3))
    assert tensors(tmp_path / "three.gguf") == tensors(wanted)


def test_another_alignment_and_odd_sizes(tmp_path):
    whole = write_gguf(tmp_path / "whole.gguf", alignment=256)
    cut(whole, "0,3", tmp_path / "cut.gguf")
    wanted = write_gguf(tmp_path / "wanted.gguf", kept=(1, 2, 4, 5), alignment=256)
    assert tensors(tmp_path / "cut.gguf") == tensors(wanted)
    head = read_gguf_head(tmp_path / "cut.gguf")
    start = head.tensors[0].offset
    assert start % 256 == 0 and all((tensor.offset - start) % 256 == 0 for tensor in head.tensors)
    assert (tmp_path / "cut.gguf").stat().st_size % 256 == 0


def test_refused_in_one_line(file, tmp_path):
    out = tmp_path / "x.gguf"
    assert gguf_to_gguf(str(file), tmp_path / "folder") is None
    with pytest.raises(InputError, match="convert_hf_to_gguf"):
        gguf_to_gguf(str(tmp_path), out)
    with pytest.raises(InputError, match="one part of several"):
        gguf_to_gguf(str(file), tmp_path / "x-00001-of-00002.gguf")
    part = write_gguf(tmp_path / "part.gguf", split_count=3)
    odd = write_gguf(tmp_path / "odd.gguf", leave_out="model.layers.2.mlp.up_proj.weight")
    short = tmp_path / "short.gguf"
    short.write_bytes(file.read_bytes()[:-1])
    for source, removed, error, message in (
        (file, CutPlan(num_layers=6), InputError, "removes nothing"),
        (file, "6", InputError, "layer 6 is not in"),
        (part, "1", CheckpointError, "one of 3 parts"),
        (odd, "1", InputError, r"blk\.2 and blk\.0 .*ffn_up\.weight"),
        (short, "1", CheckpointError, "is truncated"),
    ):
        with pytest.raises(error, match=message):
            cut(source, removed, out)
    assert not out.exists()


def test_what_transformers_cannot_run_is_said_and_the_bytes_are_compared(tmp_path):
    raw = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(raw.replace(b"llama.", b"arcee.").replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0arcee"))
    done = cut(other, "1", tmp_path / "cut.gguf", verify=True)
    assert done.verified.startswith("47 tensors have the bytes of the original's; its header was not read again, as")
    assert read_gguf_head(tmp_path / "cut.gguf").num_layers == 5


def test_a_model_that_cannot_be_converted_is_told(file, tmp_path, monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        raise CheckpointError("it cannot be read.")

    monkeypatch.setattr("layercut.models.sources.convert_gguf", fails)
    with pytest.raises(CheckpointError, match="by its bytes, unread by transformers"):
        cut(file, "1", tmp_path / "x.gguf", verify=True)
    cut(file, "1", tmp_path / "x.gguf", verify=False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"", b""),
        (b"apache-2.0", b"apache-9.0"),
        (b"blk.3.attn_q.weight", b"blk.9.attn_q.weight"),
        (b"llama.block_count\x04\0\0\0\x05", b"llama.block_count\x04\0\0\0\x04"),
    ],
    ids=["a byte", "a key", "a name", "the count"],
)
def test_a_file_that_came_out_wrong_is_never_kept(file, tmp_path, monkeypatch, old, new):
    check = surgery._check_written

    def damage(work: Any, head: Any, source: Path, part: Path) -> None:
        data = bytearray(part.read_bytes())
        if old:
            data = data.replace(old, new)
        else:
            data[-200] ^= 1  # in the last tensor, before its padding
        part.write_bytes(data)
        check(work, head, source, part)

    monkeypatch.setattr(surgery, "_check_written", damage)
    with pytest.raises(VerificationError):
        cut(file, "1", tmp_path / "x" / "cut.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("llama.rope.freq_base", 500.0, "reads rope_parameters = "),
        ("llama.attention.head_count", 8, r"has the shape \[32, 32\], its metadata ask for \[32, 64\]"),
        ("llama.attention.head_count_kv", 4, r"has the shape \[16, 32\], its metadata ask for \[32, 32\]"),
        ("llama.attention.layer_norm_rms_epsilon", 1e-3, "reads rms_norm_eps = "),
        ("llama.context_length", 256, "reads max_position_embeddings = 256"),
        ("llama.feed_forward_length", 40, r"has the shape \[32, 48\], its metadata ask for \[32, 40\]"),
        ("llama.vocab_size", 260, r"has the shape \[262, 32\], its metadata ask for \[260, 32\]"),
        ("tokenizer.ggml.eos_token_id", 5, "reads eos_token_id = 5 from it"),
    ],
)
def test_metadata_of_another_model_are_refused(file, tmp_path, monkeypatch, key, value, says):
    """The comparison of bytes takes what was to be written for granted."""
    changes = surgery._changes
    monkeypatch.setattr(surgery, "_changes", lambda *of: changes(*of) | {key: value})
    with pytest.raises(VerificationError, match=says):
        cut(file, "1", tmp_path / "cut.gguf", verify=True)
    assert list(tmp_path.iterdir()) == []


def test_no_tensor_is_converted_to_verify_a_cut(file, tmp_path, monkeypatch):
    def fails(*_: Any) -> None:
        raise AssertionError("a tensor was converted")

    monkeypatch.setenv("LAYERCUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("layercut.models.convert._load_gguf_model", fails)
    plan = cut(file, "1", tmp_path / "cut.gguf", verify=True).plan
    assert plan.model_hash == ModelHandle(ModelSettings(model=str(file), engine="llama.cpp")).metadata.model_hash


def _cut_and_hang(file: Path, out: Path, reached: Any) -> None:
    def hang(*_: Any) -> None:
        reached.set()
        time.sleep(600)

    torch.set_num_threads(1)
    surgery._check_written = hang
    cut(file, "1", out)


def test_a_killed_cut_leaves_no_file_and_the_same_command_starts_again(file, tmp_path):
    out = tmp_path / "cut.gguf"
    start = multiprocessing.get_context("fork")
    reached = start.Event()
    process = start.Process(target=_cut_and_hang, args=(file, out, reached))
    process.start()
    assert reached.wait(120)
    with pytest.raises(InputError, match="another layercut process"):
        cut(file, "2", out)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert not out.exists() and any(tmp_path.iterdir())
    cut(file, "1", out)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]


def test_a_full_disk_is_one_line(file, tmp_path):
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        with pytest.raises(InputError, match="too little. Free space"):
            cut(file, "1", tmp_path / "disk" / "cut.gguf")
        disk.read_only()
        with pytest.raises(InputError, match="Read-only file system"):
            cut(file, "1", tmp_path / "disk" / "cut.gguf")
        disk.resize(2**20)
        cut(file, "1", tmp_path / "disk" / "cut.gguf")
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["cut.gguf"]
