"""MLP channels of a GGUF file: the bytes of what stays, the types of what is quantised again, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import layercut
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError, VerificationError
from layercut.models.gguf_file import GgufTensor, read_gguf_head, recorded_plans
from layercut.models.weights import TensorSpan
from layercut.selection.specs import LayerSpec
from layercut.settings import ModelSettings
from layercut.surgery import gguf as surgery
from layercut.surgery import gguf_parts
from layercut.surgery.channels import Channels, Vocabulary
from layercut.surgery.gguf import cut_gguf_file, gguf_bytes
from layercut.surgery.gguf_parts import (
    Part,
    Requantised,
    Taken,
    check_channels,
    read_healed_cut,
    replace_matrix,
    thin_tensor,
)
from layercut.surgery.plan import CutPlan
from layercut.verbs.cut import CutVerb
from tests.support.tiny_gguf import TINY, build, write
from tests.unit.surgery.test_gguf import metadata, tensors

WIDTH, KEPT = 96, 64
Kind = gguf.GGMLQuantizationType
pytestmark = pytest.mark.usefixtures("shared_cache")


def channels_of(depth: int, kept: int = KEPT) -> Channels:
    """Other channels in each layer."""
    drawn = torch.Generator().manual_seed(3)
    chosen = {layer: sorted(torch.randperm(WIDTH, generator=drawn)[:kept].tolist()) for layer in range(depth)}
    return Channels(
        field="intermediate_size", width=WIDTH, kept={layer: tuple(found) for layer, found in chosen.items()}
    )


def cut(file: Path, plan: CutPlan, out: Path, **more: Any) -> Any:
    settings = ModelSettings(model=str(file), device="cpu", dtype="float32")
    return cut_gguf_file(settings, LayerSpec.parse(plan).bind, file, out, **{"verify": True, **more})


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    return write(build(TINY["llama"]), "llama", TINY["llama"], path, {"ffn_down.weight": Kind.Q8_0})


def written_by(part: Part | None, data: np.ndarray, file: Path) -> bytes:
    assert part is not None
    file.write_bytes(b"head" + data.tobytes())
    return b"".join(part.chunks(file, 4))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma2"])
@pytest.mark.parametrize("removed", [(), (1,)], ids=["channels", "a layer too"])
def test_it_is_the_file_that_hand_sliced_modules_give(name, removed, tmp_path):
    if name == "gemma2":  # whose layers have two kinds, by position
        removed = (4, 5) if removed else ()
    model, channels = build(TINY[name]), channels_of(TINY[name].depth)
    file = write(model, name, TINY[name], tmp_path / "whole.gguf")
    plan = CutPlan(num_layers=TINY[name].depth, removed=removed, channels=channels)
    reads = name in ("llama", "qwen2")  # transformers takes other sizes of heads in these files of the others
    done = cut(file, plan, tmp_path / "thin.gguf", verify=reads)
    assert "quantised again" not in done.verified
    assert ("transformers reads from it the config" in done.verified) == reads

    stay = [layer for layer in range(TINY[name].depth) if layer not in removed]
    thin = build(TINY[name], intermediate_size=KEPT, num_hidden_layers=len(stay))
    sliced = dict(thin.state_dict())
    for new, old in enumerate(stay):
        for key in (key for key in sliced if key.startswith(f"model.layers.{new}.")):
            whole = model.state_dict()[key.replace(f"layers.{new}.", f"layers.{old}.", 1)]
            at = list(channels.kept[old])
            whole = whole[at] if "gate_proj" in key or "up_proj" in key else whole
            sliced[key] = whole[:, at] if "down_proj" in key else whole
    sliced |= {key: value for key, value in model.state_dict().items() if "layers." not in key}
    thin.load_state_dict(sliced)
    wanted = write(thin, name, TINY[name]._replace(depth=len(stay)), tmp_path / "wanted.gguf")
    assert tensors(tmp_path / "thin.gguf") == tensors(wanted)
    own = {key: value for key, value in metadata(tmp_path / "thin.gguf").items() if not key.startswith("layercut.")}
    assert own == metadata(wanted)


@pytest.mark.parametrize(
    ("before", "kept", "after"),
    [(Kind.Q8_0, 64, Kind.Q8_0), (Kind.Q4_1, 64, Kind.Q4_1), (Kind.Q5_0, 32, Kind.Q5_0), (Kind.Q8_0, 80, Kind.F16)],
)
def test_quantised_last_matrices_are_quantised_again(before, kept, after, tmp_path):
    file = write(
        build(TINY["llama"]), "llama", TINY["llama"], tmp_path / "whole.gguf",
        {"ffn_down.weight": before, "ffn_gate.weight": before},
    )  # fmt: skip
    plan = CutPlan(num_layers=4, channels=channels_of(4, kept))
    done = cut(file, plan, tmp_path / "thin.gguf")
    said = f"the last matrices of 4 MLPs are quantised again: 4 from {before.name} to {after.name}"
    assert said in done.verified and done.warnings == (said,) and "4 last matrices differ by at most" in done.verified
    old, new = tensors(file), tensors(tmp_path / "thin.gguf")
    at = list(plan.channels.kept[2]) if plan.channels else []
    rows = np.frombuffer(old["blk.2.ffn_gate.weight"][2], dtype=np.uint8).reshape(WIDTH, -1)
    assert new["blk.2.ffn_gate.weight"][2] == rows[at].tobytes()
    columns = np.frombuffer(old["blk.2.ffn_down.weight"][2], dtype=np.uint8).reshape(128, -1)
    exact = gguf.quants.dequantize(columns, before)[:, at]
    kind, shape, data = new["blk.2.ffn_down.weight"]
    assert (kind, shape) == (after, (kept, 128))
    written = np.frombuffer(data, dtype=np.uint8).reshape(128, -1)
    error = np.linalg.norm(gguf.quants.dequantize(written, after) - exact) / np.linalg.norm(exact)
    assert error < {Kind.Q8_0: 0.01, Kind.Q4_1: 0.1, Kind.Q5_0: 0.05, Kind.F16: 0.001}[after]
    saved = done.bytes_before - done.bytes_after
    assert gguf_bytes(file, plan) == file.stat().st_size - saved


def test_other_columns_are_refused(file, tmp_path, monkeypatch):
    """A last matrix with the columns of other channels passes the comparison of bytes, which shares the mistake."""
    plan, right = CutPlan(num_layers=4, channels=channels_of(4)), Requantised.chunks

    def other(part: Requantised, file: Path, offset: int) -> Iterator[bytes]:
        return right(part._replace(entries=(*part.entries[1:], part.entries[0])), file, offset)

    monkeypatch.setattr(Requantised, "chunks", other)
    with pytest.raises(VerificationError, match=r"ffn_down\.weight differs from that of the original model by 1[34]"):
        cut(file, plan, tmp_path / "thin.gguf")
    assert not (tmp_path / "thin.gguf").exists()


def test_rows_of_other_channels_are_refused(file, tmp_path, monkeypatch):
    right = Taken.chunks

    def other(part: Taken, file: Path, offset: int) -> Iterator[bytes]:
        return right(part._replace(entries=(*part.entries[1:], part.entries[0])), file, offset)

    monkeypatch.setattr(Taken, "chunks", other)
    with pytest.raises(VerificationError, match=r"blk\.0\.ffn_gate\.weight has other rows than the plan keeps"):
        cut(file, CutPlan(num_layers=4, channels=channels_of(4)), tmp_path / "thin.gguf")


def test_rows_of_other_tokens_are_refused(file, tmp_path, monkeypatch):
    right = gguf_parts.trim_tensor

    def other(tensor: GgufTensor, vocabulary: Any) -> tuple[GgufTensor, Part | None]:
        new, part = right(tensor, vocabulary)
        return new, part and part._replace(entries=(*part.entries[1:], part.entries[0]))

    monkeypatch.setattr(gguf_parts, "trim_tensor", other)
    plan = CutPlan(num_layers=4, vocabulary=Vocabulary(name="few", size=262, kept=tuple(range(261))))
    with pytest.raises(VerificationError, match=r"token_embd\.weight has other rows than the plan keeps"):
        cut(file, plan, tmp_path / "trimmed.gguf")


@pytest.mark.parametrize("place", [0, 0.5, 1], ids=["first byte", "in the middle", "last byte"])
def test_a_corrupted_byte_of_any_tensor_is_refused(tmp_path, monkeypatch, place):
    """One of every kind: copied whole, rows of tokens or channels, and quantised again."""
    tiny, check, damaged = TINY["qwen2"], surgery._check_written, list[str]()
    kinds = {"ffn_down.weight": Kind.Q8_0, "token_embd.weight": Kind.Q4_0, "attn_q.weight": Kind.Q5_0}
    whole = write(build(tiny, tie_word_embeddings=False), "qwen2", tiny, tmp_path / "whole.gguf", kinds)
    plan = CutPlan(
        num_layers=4, removed=(1,), channels=channels_of(4),
        vocabulary=Vocabulary(name="few", size=262, kept=tuple(range(261))),
    )  # fmt: skip

    def damage(work: Any, head: Any, source: Path, part: Path) -> None:
        check(work, head, source, part)
        for tensor in read_gguf_head(part).tensors:
            if tensor.name.startswith("blk.") and not tensor.name.startswith("blk.2."):
                continue
            at = tensor.offset + round(place * (tensor.num_bytes - 1))
            with part.open("r+b") as data:
                data.seek(at)
                (byte,) = data.read(1)
                for value in (byte ^ 1, byte):
                    data.seek(at)
                    data.write(bytes([value]))
                    data.flush()
                    if value != byte:
                        with pytest.raises(VerificationError, match=f"has other bytes in {tensor.name}"):
                            check(work, head, source, part)
            damaged.append(tensor.name.removeprefix("blk.2."))

    monkeypatch.setattr(surgery, "_check_written", damage)
    cut(whole, plan, tmp_path / "thin.gguf")
    assert {"token_embd.weight", "output.weight", "output_norm.weight", "attn_q.bias", "ffn_up.weight"} < {*damaged}
    assert len(damaged) == 3 + 12


@pytest.mark.parametrize(
    ("before", "after"),
    [
        *((Kind.Q6_K, Kind.Q8_0), (Kind.Q5_K, Kind.Q5_1), (Kind.Q4_K, Kind.Q5_0)),
        *((Kind.Q3_K, Kind.Q4_0), (Kind.IQ4_XS, Kind.Q4_0)),
    ],
)
def test_blocks_of_256_become_what_llama_cpp_takes_without_them(before, after, tmp_path):
    block, block_bytes = gguf.GGML_QUANT_SIZES[before]
    data = np.random.default_rng(0).integers(0, 60, (4, 2 * block_bytes), dtype=np.uint8)  # small scales
    tensor = GgufTensor("blk.0.ffn_down.weight", (2 * block, 4), int(before), 0)
    kept = tuple(range(3, 3 + 2 * 224, 2))
    thin, part = thin_tensor(tensor, Channels(field="intermediate_size", width=2 * block, kept={0: kept}))
    assert thin.kind == after and thin.shape == (224, 4)
    whole = gguf.quants.dequantize(data, before)
    written = written_by(part, data, tmp_path / "tensor")
    assert written == gguf.quants.quantize(whole[:, kept], after).tobytes()
    assert thin.num_bytes == len(written)


def test_gate_and_up_in_one_tensor_are_halves(tmp_path):
    data = np.arange(2 * WIDTH * 8, dtype=np.float32).reshape(2 * WIDTH, 8)
    tensor = GgufTensor("blk.1.ffn_up.weight", (8, 2 * WIDTH), int(Kind.F32), 0)
    channels = channels_of(2)
    thin, part = thin_tensor(tensor, channels)
    assert thin.shape == (8, 2 * KEPT)
    at = [*channels.kept[1], *(WIDTH + channel for channel in channels.kept[1])]
    assert written_by(part, data, tmp_path / "tensor") == data[at].tobytes()


def test_a_share_is_chosen_once_and_cut(file, tmp_path, monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(
        "layercut.verbs.cut.CutVerb._chosen",
        lambda *of: asked.append(of) or CutPlan(num_layers=4, channels=channels_of(4)),
    )
    out = layercut.cut(str(file), "mlp:0.3", tmp_path / "thin.gguf", device="cpu")
    assert len(asked) == 1
    assert read_gguf_head(out).metadata["llama.feed_forward_length"] == KEPT
    plan = CutPlan.from_dict(recorded_plans(read_gguf_head(out))[-1])
    assert plan.channels is not None and plan.channels.kept == channels_of(4).kept


def test_what_is_no_such_model_is_refused(file, tmp_path):
    head = read_gguf_head(file)
    other = Channels(field="intermediate_size", width=128, kept=dict.fromkeys(range(4), tuple(range(64))))
    few = Channels(field="intermediate_size", width=WIDTH, kept=dict.fromkeys(range(3), tuple(range(64))))
    for wrong in (other, few):
        with pytest.raises(InputError, match="this file has 4 such MLPs, of 96 channels. Use a plan made for this"):
            cut(file, CutPlan(num_layers=4, channels=wrong), tmp_path / "thin.gguf")
    extra = GgufTensor("blk.2.ffn_sub_norm.weight", (WIDTH,), 0, 0)
    with pytest.raises(InputError, match=r"blk\.2\.ffn_sub_norm\.weight \[96\] holds MLP channels"):
        check_channels(type(head)(**{**vars(head), "tensors": (*head.tensors, extra)}), channels_of(4))
    assert not (tmp_path / "thin.gguf").exists()


def healed_of(file: Path, folder: Path, plan: CutPlan, changed: str = "down_proj", **entry: Any) -> Path:
    """A checkpoint of a plan whose matrices of a name are others; of a layer, where one is named."""
    layercut.cut(str(file), plan, folder, device="cpu", verify=False)
    weights = load_file(folder / "model.safetensors")
    drawn = torch.Generator().manual_seed(5)
    for name in sorted(name for name in weights if changed in name):
        weights[name] += (0.2 * torch.randn(weights[name].shape, generator=drawn)).to(weights[name].dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((folder / "plan.json").read_text())
    written["healing"] = [{"method": "seam", **entry}]
    (folder / "plan.json").write_text(json.dumps(written))
    return folder


@pytest.mark.parametrize(
    ("plan", "changed", "count"),
    [
        (CutPlan(num_layers=4, removed=(1,), channels=channels_of(4)), "down_proj", 3),
        (CutPlan(num_layers=4, removed=(1,)), "layers.0.mlp.down_proj", 1),
    ],
    ids=["thinner MLPs", "a map at the cut"],
)
def test_it_has_the_matrices_that_healing_solved_for(file, tmp_path, plan, changed, count):
    folder = healed_of(file, tmp_path / "healed", plan, changed)
    layercut.cut(str(file), plan, tmp_path / "cut.gguf", device="cpu")
    out = layercut.cut(str(file), healed=folder, out=tmp_path / "healed.gguf", device="cpu")
    cut, found, weights = tensors(tmp_path / "cut.gguf"), tensors(out), load_file(folder / "model.safetensors")
    others = {name for name in found if found[name] != cut[name]}
    assert len(others) == count and all(name.endswith("ffn_down.weight") for name in others)
    for name in others:
        kind, shape, data = found[name]
        wanted = weights[f"model.layers.{name.split('.')[1]}.mlp.down_proj.weight"].float().numpy()
        assert kind == Kind.Q8_0 and shape == wanted.shape[::-1]
        rows = np.frombuffer(data, dtype=np.uint8).reshape(len(wanted), -1)
        assert np.abs(gguf.quants.dequantize(rows, kind) - wanted).max() <= np.abs(wanted).max() / 127
    handle = ModelHandle(ModelSettings(model=str(out), device="cpu"))
    assert [entry["method"] for entry in handle.healings] == ["seam"]
    assert handle.earlier_plans[0].key == plan.key
    assert read_gguf_head(out).num_layers == 3


@pytest.mark.parametrize(
    ("before", "width", "after"),
    [(Kind.Q4_1, 64, Kind.Q8_0), (Kind.Q6_K, 64, Kind.Q8_0), (Kind.F32, 64, Kind.F32), (Kind.Q4_0, 80, Kind.F16)],
)
def test_solved_matrices_have_eight_bits_or_more(before, width, after):
    tensor = GgufTensor("blk.0.ffn_down.weight", (256, 8), int(before), 0)
    thin, _ = replace_matrix(tensor, TensorSpan("down", "F32", (8, width), Path("model.safetensors"), 0))
    assert (thin.kind, thin.shape) == (after, (width, 8))
    block, block_bytes = gguf.GGML_QUANT_SIZES[after]
    assert thin.num_bytes == 8 * width // block * block_bytes


def test_from_a_pruned_file_over_its_healing_to_a_file(file, tmp_path):
    """A pruned GGUF file knows its plan, so that `heal` takes it."""
    plan = CutPlan(num_layers=4, channels=channels_of(4))
    thin = layercut.cut(str(file), plan, tmp_path / "thin.gguf", device="cpu")
    folder = layercut.heal(
        str(thin), str(file), "task:arithmetic", limit=30, responses="original", method="seam", seam="projection",
        dtype="float32", device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    out = layercut.cut(str(file), healed=folder, out=tmp_path / "healed.gguf", device="cpu")
    found, before = tensors(out), tensors(thin)
    others = {name for name in found if found[name] != before[name]}
    assert others == {f"blk.{layer}.ffn_down.weight" for layer in range(4)}


def test_a_file_that_was_cut_before_takes_what_was_healed_of_it(file, tmp_path):
    before = layercut.cut(str(file), CutPlan(num_layers=4, removed=(1,)), tmp_path / "before.gguf", device="cpu")
    plan = CutPlan(num_layers=3, channels=channels_of(3))
    folder = healed_of(before, tmp_path / "healed", plan)
    out = layercut.cut(str(before), healed=folder, out=tmp_path / "healed.gguf", device="cpu")
    handle = ModelHandle(ModelSettings(model=str(out), device="cpu"))
    assert [len(earlier.removed) for earlier in handle.earlier_plans] == [1, 0] and len(handle.healings) == 1
    assert read_gguf_head(out).num_layers == 3
    layercut.cut(str(file), CutPlan(num_layers=4, removed=(2,)), tmp_path / "other", device="cpu", verify=False)
    with pytest.raises(InputError, match="was not cut by this plan in one step"):
        read_healed_cut(folder, tmp_path / "other", plan)


def test_what_is_no_such_checkpoint_is_refused(file, tmp_path):
    plan = CutPlan(num_layers=4, removed=(1,), channels=channels_of(4))
    out = tmp_path / "x.gguf"
    trained = healed_of(file, tmp_path / "trained", plan, method="lora")
    more = healed_of(file, tmp_path / "more", plan, "_proj")
    whole = write(build(TINY["qwen2"]), "qwen2", TINY["qwen2"], tmp_path / "other.gguf")
    for source, healed, error, message in (
        (file, trained, InputError, "was healed by lora, and `healed` takes what .* seam solved for"),
        (file, more, VerificationError, r"after its healing, .*_proj\.weight differs"),
        (whole, more, VerificationError, "is not the model that was asked for"),
    ):
        with pytest.raises(error, match=message):
            layercut.cut(str(source), healed=healed, out=out, device="cpu")
    with pytest.raises(InputError, match="names its plan itself"):
        CutVerb.of(model=str(file), healed=more, remove="1", out=out)
    with pytest.raises(InputError, match=r"give `out` FILE\.gguf"):
        layercut.cut(str(file), healed=more, out=tmp_path / "folder", device="cpu")
    assert not out.exists() and not (tmp_path / "folder").exists()
