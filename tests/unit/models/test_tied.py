"""An output head that is a copy of the embeddings is measured, and then stored and counted once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import layercut
from layercut.engine.base import Decoding, GenerationRequest
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.models.gguf_file import find_copied_matrix, read_gguf_head
from layercut.models.loading import load_model
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from tests.support.engines import completions
from tests.support.tiny import save_tiny
from tests.support.tiny_gguf import TINY, build, write
from tests.unit.surgery.test_gguf_parts import channels_of

Kind = gguf.GGMLQuantizationType
pytestmark = pytest.mark.usefixtures("shared_cache")
IDS = torch.arange(40).reshape(2, 20)
FAMILIES = ("qwen2", "gemma2")
EMBEDDINGS = "model.embed_tokens.weight"


def two_matrices(name: str, head: torch.Tensor | None = None) -> PreTrainedModel:
    """A model whose head is its embeddings, or another matrix, as two parameters."""
    model = build(TINY[name], tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight if head is None else head)
    return model


def file_of(
    path: Path, name: str, embeddings: Kind | None = Kind.Q4_0, head: Kind | None = Kind.Q8_0, *, own: Any = None
) -> Path:
    """A file of two matrices: one in two quantisations, or a head of its own."""
    kinds = {end: kind for end, kind in (("token_embd.weight", embeddings), ("output.weight", head)) if kind}
    return write(two_matrices(name, own), name, TINY[name], path, kinds)


def tied_folder(family: str, folder: Path) -> None:
    """A tiny checkpoint that says that its head is its embeddings, and stores one matrix."""
    save_tiny(family, folder)
    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = True
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("embeddings", "head", "kept"),
    [
        *((Kind.Q4_0, Kind.Q8_0, "output.weight"), (Kind.Q8_0, Kind.Q5_1, "token_embd.weight")),
        *((Kind.Q4_1, Kind.F16, "output.weight"), (None, None, "output.weight")),
        (Kind.BF16, Kind.Q5_0, "token_embd.weight"),
    ],
)
def test_two_quantisations_of_one_matrix_are_told(
    tmp_path: Path, embeddings: Kind | None, head: Kind | None, kept: str
) -> None:
    file = file_of(tmp_path / "two.gguf", "llama", embeddings, head)
    copy = find_copied_matrix(file)
    assert copy is not None and copy.kept.name == kept and copy.left_out.name != kept


@pytest.mark.parametrize(("share", "noise"), [(1.0, 0.1), (1.0, 1.0), (0.01, 1.0)])
def test_a_matrix_of_its_own_is_not_a_copy(tmp_path: Path, share: float, noise: float) -> None:
    """A head that was trained further, another one, and one of which a hundredth of the rows differ."""
    model = two_matrices("llama")
    own = model.model.embed_tokens.weight.detach().clone()
    rows = max(1, round(share * len(own)))
    own[:rows] += noise * own.std() * torch.randn(rows, own.shape[1], generator=torch.Generator().manual_seed(1))
    file = file_of(tmp_path / "own.gguf", "llama", Kind.Q5_1, own=own)
    assert find_copied_matrix(file) is None
    loaded = load_model(str(file))
    assert loaded.model.lm_head.weight is not loaded.model.model.embed_tokens.weight


def test_a_file_is_loaded_with_the_finer_matrix_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = file_of(tmp_path / "two.gguf", "qwen2")
    settings = ModelSettings(model=str(file), device="cpu")
    tied = ModelHandle(settings)
    monkeypatch.setattr("layercut.models.convert.find_copied_matrix", lambda path: None)
    monkeypatch.setenv("LAYERCUT_CACHE", str(tmp_path / "other"))
    two = ModelHandle(settings)
    assert tied.metadata.model_hash != two.metadata.model_hash
    one, other = tied.loaded.model, two.loaded.model
    assert torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert torch.equal(one.model.embed_tokens.weight, other.lm_head.weight)
    assert not torch.equal(other.model.embed_tokens.weight, other.lm_head.weight)
    copies = other.lm_head.weight.numel()
    assert tied.num_parameters(tied.plan()) == two.num_parameters(two.plan()) - copies
    assert "are one matrix" in plan_cut(tied.source.path, tied.plan()).copy
    assert plan_cut(two.source.path, two.plan()).copy == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_checkpoint_stays_one_matrix_through_all_steps(family: str, tmp_path: Path) -> None:
    """Cut, thinned, healed, written and reloaded."""
    tied_folder(family, tmp_path / "tied")
    layers = AutoConfig.from_pretrained(tmp_path / "tied").num_hidden_layers
    thin = layercut.cut(str(tmp_path / "tied"), "1 mlp:0.3", tmp_path / "thin", device="cpu")
    healed = layercut.heal(
        thin, str(tmp_path / "tied"), "task:arithmetic", limit=30, responses="original", method="full", max_steps=2,
        batch_size=2, micro_batch=2, device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    for folder in (thin, healed):
        stored = load_file(folder / "model.safetensors")
        assert sum(name.endswith(("embed_tokens.weight", "lm_head.weight")) for name in stored) == 1
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert model.config.num_hidden_layers == layers - 1
    assert not torch.equal(*(load_file(folder / "model.safetensors")[EMBEDDINGS] for folder in (thin, healed)))


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_file_of_one_matrix_goes_to_a_folder_and_to_a_file(name: str, tmp_path: Path) -> None:
    """Cut, thinned, healed, and read again from GGUF."""
    file = file_of(tmp_path / "two.gguf", name)
    layers = TINY[name].depth
    plan = CutPlan(num_layers=layers, removed=(layers - 1,), channels=channels_of(layers))
    thin = layercut.cut(str(file), plan, tmp_path / "thin", device="cpu")
    healed = layercut.heal(
        thin, str(file), "task:arithmetic", limit=30, responses="original", method="seam", seam="projection",
        device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    written: list[tuple[Path, dict[str, Any]]] = [(thin, {"remove": plan}), (healed, {"healed": healed})]
    for folder, what in written:
        assert "lm_head.weight" not in load_file(folder / "model.safetensors")
        wanted = load_model(str(folder), dtype="float32").model(input_ids=IDS).logits
        out = layercut.cut(str(file), out=tmp_path / f"{folder.name}.gguf", device="cpu", **what)
        names = [tensor.name for tensor in read_gguf_head(out).tensors]
        assert "output.weight" not in names and names.count("token_embd.weight") == 1
        again = load_model(str(out), dtype="float32").model
        assert again.lm_head.weight is again.model.embed_tokens.weight
        # The last matrices of thinner MLPs are quantised again.
        assert (again(input_ids=IDS).logits - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_the_copy_alone_is_removed_from_a_file(tmp_path: Path) -> None:
    file = file_of(tmp_path / "two.gguf", "llama")
    tied = load_model(str(file)).model(input_ids=IDS).logits
    out = layercut.cut(str(file), out=tmp_path / "tied.gguf", device="cpu")
    assert torch.equal(load_model(str(out)).model(input_ids=IDS).logits, tied)
    before, after = ({one.name: one.num_bytes for one in read_gguf_head(path).tensors} for path in (file, out))
    assert sum(before.values()) - sum(after.values()) == before["token_embd.weight"]
    assert find_copied_matrix(out) is None
    with pytest.raises(InputError, match="removes nothing, and no copy"):
        layercut.cut(str(out), out=tmp_path / "again.gguf", device="cpu")


def test_llama_cpp_runs_one_matrix(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="running a GGUF file needs layercut[llama-cpp]")
    file = file_of(tmp_path / "two.gguf", "qwen2")
    alone = layercut.cut(str(file), out=tmp_path / "tied.gguf", device="cpu")
    shared = {"engine": "llama.cpp", "device": "cpu", "cache_gib": 0.05, "batch_size": 2, "dtype": "float32"}
    handles = [ModelHandle(ModelSettings(model=str(path), **shared)) for path in (file, alone)]
    plan = handles[0].plan()
    assert handles[0].disk_bytes(plan) <= alone.stat().st_size < handles[1].disk_bytes(plan) + 4096
    request = GenerationRequest(id="text", prompt="The sea is", max_new_tokens=12)
    answers = [[*completions(handle.engine, [request], plan, Decoding())] for handle in handles]
    assert answers[0] == answers[1]
