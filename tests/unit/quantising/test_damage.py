"""Matrices of GGUF files against the model's, rounding against llama.cpp's, forecasts against measurements."""

import gguf
import numpy as np
import pytest
import torch

from layercut.errors import InputError
from layercut.models.gguf_file import read_gguf_head
from layercut.models.make_gguf import quantise_gguf, quantised_rows
from layercut.progress import show_nothing
from layercut.quantising.damage import TYPES, match_matrices, measure_damage, tensor_values
from layercut.quantising.measure import keep_reference, measure_divergence, use_weights
from layercut.quantising.statistics import Importance, Statistics
from layercut.tasks.evaluate import InMemory
from tests.unit.quantising.models import WIDE, load_tiny, random_texts, tiny_file


def measured(tmp_path, name="llama", **more):
    """A tiny file, its model and its matrices."""
    file = tiny_file(tmp_path, name, **more)
    loaded, statistics = load_tiny(file), Statistics(tmp_path / "statistics.npz")
    statistics.read(loaded, random_texts(6), 0, show_nothing)
    return file, loaded, match_matrices(file, read_gguf_head(file), loaded.model, statistics.importance())


@pytest.mark.parametrize(
    ("name", "is_tied"), [("llama", True), ("llama", False), ("qwen2", True), ("qwen2", False), ("gemma2", True)]
)
def test_every_matrix_is_matched_with_its_own_row_by_row(tmp_path, name, is_tied):
    file, _, matrices = measured(tmp_path, name, tie_word_embeddings=is_tied)
    tensors = {tensor.name: tensor for tensor in read_gguf_head(file).tensors if len(tensor.shape) == 2}
    assert {own.name for own in matrices} == tensors.keys()
    permuted = {own.name.split(".")[2] for own in matrices if own.order is not None}
    assert permuted == ({"attn_q", "attn_k"} if name == "llama" else set())
    before = {own.name: own.weight.clone() for own in matrices}
    use_weights(file, matrices)  # the file's own numbers change nothing but the rounding to bfloat16
    for own in matrices:
        torch.testing.assert_close(own.weight, before[own.name], rtol=0.005, atol=0)
    assert len(next(own for own in matrices if own.name == "token_embd.weight").importance) == 1 + is_tied


def test_a_file_of_another_model_is_refused(tmp_path):
    file, loaded, _ = measured(tmp_path)
    with torch.no_grad():
        loaded.model.model.layers[1].mlp.up_proj.weight += 1
    importance = {"model.layers.1.mlp.up_proj": Importance(np.ones(128), np.ones(96))}
    with pytest.raises(InputError, match=r"blk\.1\.ffn_up\.weight of llama\.gguf is not the matrix of the model"):
        match_matrices(file, read_gguf_head(file), loaded.model, importance)


def test_rows_are_rounded_as_llama_cpp_rounds_them_in_a_file(tmp_path):
    file, _, matrices = measured(tmp_path, **WIDE)
    own = next(own for own in matrices if own.name == "blk.1.ffn_down.weight")
    values = tensor_values(file, own.tensor)
    for kind in TYPES:
        out = tmp_path / f"{kind}.gguf"
        quantise_gguf(file, out, "Q8_0", types={own.name: kind}, importance={own.name: own.columns})
        written = next(tensor for tensor in read_gguf_head(out).tensors if tensor.name == own.name)
        assert gguf.GGMLQuantizationType(written.kind).name == kind
        assert (tensor_values(out, written) == quantised_rows(values, kind, own.columns)).all()
        some = quantised_rows(values[5:9], kind, own.columns)  # a row does not depend on others
        assert (some == quantised_rows(values, kind, own.columns)[5:9]).all()


def test_the_damage_of_sampled_rows_is_near_that_of_all_rows_and_falls_with_bits(tmp_path):
    file, _, matrices = measured(tmp_path, **WIDE)
    for own in matrices:
        sampled = measure_damage(file, own, ["Q3_K", "Q6_K", "Q8_0", own.kind], 0)
        values = tensor_values(file, own.tensor)
        errors = np.square(quantised_rows(values, "Q3_K", own.columns) - values, dtype=np.float64)
        exact = sum(0.5 * rows @ errors @ columns for columns, rows in own.importance)
        assert sampled["Q3_K"] == pytest.approx(exact, rel=0.35)
        assert sampled["Q3_K"] > sampled["Q6_K"] > sampled["Q8_0"] > sampled[own.kind] == 0.0


def test_the_forecast_is_near_the_measured_divergence_and_the_file_itself_has_none(tmp_path):
    file, loaded, matrices = measured(tmp_path, "qwen2", **WIDE)
    held_out = random_texts(14)[6:]
    keep_reference(loaded, held_out, tmp_path / "reference", show_nothing)

    def divergence(path):
        use_weights(path, matrices)
        records = measure_divergence(loaded, held_out, tmp_path / "reference", InMemory(), show_nothing)
        nats = [value for record in records for value in record["nats"]]
        return sum(nats) / len(nats), {*"".join(record["same"] for record in records)}

    assert divergence(file)[0] == pytest.approx(0, abs=1e-3)
    types = {own.name: "Q5_K" for own in matrices}
    importance = {own.name: own.columns for own in matrices}
    quantise_gguf(file, tmp_path / "small.gguf", "Q5_K_M", types=types, importance=importance)
    forecast = sum(measure_damage(file, own, ["Q5_K"], 0)["Q5_K"] for own in matrices)
    nats, _ = divergence(tmp_path / "small.gguf")
    assert forecast / 2 < nats < 2 * forecast
