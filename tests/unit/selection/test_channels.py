"""Channels are ranked by what they add to the stream; each criterion against its formula in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from layercut.errors import InputError
from layercut.selection.channels import choose_channels, rank_channels
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, decoder_layers
from tests.support.loaded import tiny_loaded

TEXTS = [(5, 9, 200, 31, 7), (80, 12), (40, 41, 42)]


def states_of(loaded: Any, layer: int, texts: list[tuple[int, ...]], removed: tuple[int, ...] = ()) -> list[Any]:
    """Inputs of the last matrix of a layer's MLP, by text."""
    found: list[Any] = []
    hook = decoder_layers(loaded.model)[layer].mlp.down_proj.register_forward_pre_hook(
        lambda _, given: found.append(given[0][0].double().numpy())
    )
    with torch.no_grad(), bypass(loaded.model, CutPlan(num_layers=6, removed=removed)):
        for text in texts:
            loaded.model(input_ids=torch.tensor([text]))
    hook.remove()
    return found


def scores_of(states: list[Any], columns: Any, criterion: str) -> Any:
    all_TC = np.concatenate(states)
    norm = np.linalg.norm(columns, axis=0)
    if criterion == "rms":
        return np.sqrt((all_TC**2).mean(0)) * norm
    return np.sqrt((all_TC**2).mean(0)) * np.abs(columns).sum(0)


@pytest.mark.parametrize("criterion", ["rms", "wanda"])
@pytest.mark.parametrize("removed", [(), (1,)])
def test_the_ranking_is_that_of_the_formula(criterion, removed):
    loaded = tiny_loaded("llama")
    ranked = rank_channels(loaded, removed, {"a": TEXTS}, criterion=criterion)
    assert set(ranked) == set(range(6)) - set(removed)
    for layer in (0, 5):
        columns = decoder_layers(loaded.model)[layer].mlp.down_proj.weight.detach().double().numpy()
        scores = scores_of(states_of(loaded, layer, TEXTS, removed), columns, criterion)
        ours = scores[list(ranked[layer])]
        assert (np.diff(ours) <= 1e-4 * scores.max()).all(), criterion


def test_tasks_count_the_same_however_long_their_answers_are():
    loaded = tiny_loaded("llama")
    long = [tuple(range(10, 60)), tuple(range(60, 110))]
    ranked = rank_channels(loaded, (), {"long": long, "short": TEXTS})
    means = [(np.concatenate(states_of(loaded, 2, texts)) ** 2).mean(0) for texts in (long, TEXTS)]
    columns = decoder_layers(loaded.model)[2].mlp.down_proj.weight.detach().double().numpy()
    scores = np.sqrt((means[0] + means[1]) / 2) * np.linalg.norm(columns, axis=0)
    assert (np.diff(scores[list(ranked[2])]) <= 1e-6 * scores.max()).all()


def test_a_channel_that_only_the_first_token_uses_is_kept():
    """Models write huge activations at the first token by a few channels; without them they write noise."""
    loaded = tiny_loaded("llama")
    alone = states_of(loaded, 3, TEXTS)
    first = np.mean([np.abs(states[0]) for states in alone], axis=0)
    ranked = rank_channels(loaded, (), {"a": [text[:1] for text in TEXTS]})
    assert ranked[3][0] in np.argsort(-first)[:12]


def test_as_many_stay_in_each_layer_and_the_plan_says_by_what():
    channels, about = choose_channels(tiny_loaded("llama"), (4,), 0.5, {"copy": TEXTS, "more": TEXTS[:1]})
    assert {len(few) for few in channels.kept.values()} == {24} and set(channels.kept) == set(range(6))
    assert about == {"criterion": "rms", "share": 0.5, "num_kept": 24, "num_tokens": {"copy": 10, "more": 5}}


@pytest.mark.parametrize("criterion", ["rms", "wanda"])
def test_an_experts_channels_are_ranked_on_the_tokens_that_reach_it(criterion):
    loaded = tiny_loaded("mixtral")
    before = loaded.model.config._experts_implementation
    ranked = rank_channels(loaded, (1,), {"a": TEXTS}, criterion=criterion)
    assert loaded.model.config._experts_implementation == before and 1 not in ranked
    mlp = decoder_layers(loaded.model)[3].mlp
    given: list[Any] = []
    hook = mlp.register_forward_pre_hook(lambda _, states: given.append(states[0][0]))
    with torch.no_grad(), bypass(loaded.model, CutPlan(num_layers=6, removed=(1,))):
        for text in TEXTS:
            loaded.model(input_ids=torch.tensor([text]))
    hook.remove()
    states_TD = torch.cat(given)
    with torch.no_grad():
        reaching = mlp.gate(states_TD)[-1]  # experts of each token
        for expert in range(4):
            own_TD = states_TD[(reaching == expert).any(dim=-1)]
            gate, up = (own_TD @ mlp.experts.gate_up_proj[expert].T).chunk(2, dim=-1)
            states = (torch.nn.functional.silu(gate) * up).double().numpy()
            columns = mlp.experts.down_proj[expert].detach().double().numpy()
            scores = scores_of([states], columns, criterion)
            ours = scores[[one - 48 * expert for one in ranked[3] if one // 48 == expert]]
            assert len(own_TD) and len(ours) == 48 and (np.diff(ours) <= 1e-4 * scores.max()).all()


def test_stacked_experts_keep_a_multiple_of_8_channels():
    """At 38 of 48 torch's grouped product of experts fails: strides should be multiples of 16 bytes."""
    loaded = tiny_loaded("mixtral")
    channels, about = choose_channels(loaded, (), 0.2, {"copy": TEXTS})
    assert about["num_kept"] == channels.num_kept == 40 and set(channels.mlps.values()) == {4}
    with bypass(loaded.model, CutPlan(num_layers=6, channels=channels)):
        loaded.model(input_ids=torch.tensor([TEXTS[0]]))
    assert choose_channels(tiny_loaded("llama"), (), 0.2, {"copy": TEXTS})[0].num_kept == 38


def test_experts_that_no_token_reaches_are_ranked_by_their_columns():
    loaded = tiny_loaded("mixtral")
    ranked = rank_channels(loaded, (), {"a": [(5,)]})  # one token reaches two of four
    norms = decoder_layers(loaded.model)[0].mlp.experts.down_proj.detach().norm(dim=1)
    by_norm = [
        expert
        for expert in range(4)
        if [one - 48 * expert for one in ranked[0] if one // 48 == expert]
        == torch.sort(norms[expert], descending=True, stable=True).indices.tolist()
    ]
    assert len(by_norm) == 2


def test_bad_requests_are_refused(monkeypatch):
    with pytest.raises(InputError, match="channel criterion 'rmsx'"):
        rank_channels(tiny_loaded("llama"), (), {"a": TEXTS}, criterion="rmsx")
    # Experts whose inputs are not seen would all be ranked by their columns, in silence.
    monkeypatch.setattr("layercut.selection.channels.plain_experts", lambda model: None)
    with pytest.raises(InputError, match=r"what mlp\.experts of layer 0 of .* reads was not seen"):
        rank_channels(tiny_loaded("mixtral"), (), {"a": TEXTS})
