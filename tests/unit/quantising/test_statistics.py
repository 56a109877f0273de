"""Statistics against gradients that are taken one by one, and sums that go on where they were stopped."""

import numpy as np
import pytest
import torch

from layercut.engine.stopping import noise_key
from layercut.errors import InputError
from layercut.progress import show_nothing
from layercut.quantising.statistics import LOOKUP, Statistics
from tests.support.loaded import tiny_loaded
from tests.unit.quantising.models import random_texts


def read(loaded, texts, file, **more):
    statistics = Statistics(file, **more)
    statistics.read(loaded, texts, 0, show_nothing)
    return statistics.importance()


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma2", "gpt_neox", "phi3"])
def test_they_are_mean_squares_of_inputs_and_of_gradients_of_the_drawn_tokens(model_type, tmp_path):
    loaded, text = tiny_loaded(model_type), random_texts(1)[0]
    importance = read(loaded, [text], tmp_path / "statistics.npz")
    model, seen = loaded.model, {}
    # An independent computation: every output is kept, and its gradient taken by autograd.grad.
    matrices = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}

    def keep(name):
        return lambda _, given, output: seen.__setitem__(name, (given[0].detach(), output))

    hooks = [module.register_forward_hook(keep(name)) for name, module in matrices.items()]
    embedded = model.get_input_embeddings()(torch.tensor([text.tokens])).detach().requires_grad_()
    with torch.enable_grad():
        logits = model(inputs_embeds=embedded, use_cache=False).logits[0]
    [hook.remove() for hook in hooks]
    answer = logits[text.num_prompt - 1 : -1].log_softmax(-1)
    generator = torch.Generator().manual_seed(noise_key(0, text.id) % 2**63)
    drawn = torch.multinomial(answer.detach().exp(), 1, generator=generator)
    outputs = [output for _, output in seen.values()]
    gradients = torch.autograd.grad(answer.gather(1, drawn).sum(), [*outputs, embedded])
    for (name, (states, _)), gradient in zip(seen.items(), gradients, strict=False):
        columns, rows = importance[name]
        states = states.reshape(-1, states.shape[-1])
        if "head" not in name and "embed_out" not in name:  # the head reads the answer alone
            np.testing.assert_allclose(columns, states.square().mean(0), rtol=1e-4)
        wanted = gradient.reshape(-1, gradient.shape[-1]).square().sum(0) / text.num_answer
        np.testing.assert_allclose(rows, wanted, rtol=2e-3, atol=1e-9)
    columns, rows = importance[LOOKUP]
    np.testing.assert_allclose(columns, gradients[-1][0].square().mean(0), rtol=1e-3)
    assert rows.sum() * text.num_answer == pytest.approx(len(text.tokens))


def test_sums_go_on_where_they_were_stopped_to_the_last_bit(tmp_path):
    loaded, texts = tiny_loaded("llama"), random_texts(3)
    through = read(loaded, texts, tmp_path / "through.npz")
    read(loaded, texts[:2], tmp_path / "stopped.npz")
    again = read(loaded, texts, tmp_path / "stopped.npz")
    assert (tmp_path / "through.npz").read_bytes() == (tmp_path / "stopped.npz").read_bytes()
    assert all((again[name].rows == through[name].rows).all() for name in through)
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())  # as before


def test_without_gradients_every_output_weighs_the_same(tmp_path):
    loaded, texts = tiny_loaded("llama"), random_texts(2)
    alone = read(loaded, texts, tmp_path / "alone.npz", reads_back=False)
    both = read(loaded, texts, tmp_path / "both.npz")
    assert LOOKUP not in alone
    for name, (columns, rows) in alone.items():
        np.testing.assert_allclose(columns, both[name].columns, rtol=1e-6)
        assert len(set(rows.tolist())) == 1


def test_numbers_that_are_none_are_refused_with_the_matrix(tmp_path):
    loaded = tiny_loaded("llama")
    with torch.no_grad():
        before = loaded.model.model.layers[2].mlp.up_proj.weight.clone()
        loaded.model.model.layers[2].mlp.up_proj.weight[0] = float("nan")
    try:
        with pytest.raises(InputError, match=r"has activations or gradients that are no numbers; .*float32"):
            read(loaded, random_texts(1), tmp_path / "statistics.npz")
    finally:
        loaded.model.model.layers[2].mlp.up_proj.weight.data.copy_(before)
    assert not (tmp_path / "statistics.npz").exists()
