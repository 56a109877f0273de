from __future__ import annotations

import pytest
import torch

from layercut.healing.fold import outputs_of_layers
from layercut.healing.seam import PROJECTION, HeldStream, repair_seams
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import decoder_layers, remove_layers
from tests.support.healing import tiny_data
from tests.support.tiny import CONFIGS, NUM_LAYERS, tiny_model

BATCHES = [torch.arange(40).reshape(2, 20), torch.arange(5, 20).reshape(1, 15)]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_held_stream_goes_on_as_the_model_itself_does(family: str) -> None:
    model = tiny_model(family)
    found = HeldStream(model, BATCHES)
    assert found.goes_on
    for place, ids_BT in enumerate(BATCHES):
        with torch.no_grad(), outputs_of_layers(decoder_layers(model), range(NUM_LAYERS)) as plain:
            model(input_ids=ids_BT, use_cache=False)
        for layer in (0, 1, 1, 4):
            assert torch.equal(found.above(place, layer), plain[layer])
        with outputs_of_layers(decoder_layers(model), range(NUM_LAYERS)) as seen:
            found.run(place, 5)
        assert torch.equal(seen[5], plain[5])
        assert set(seen) == {5}, "layers up to the held one run again"


def test_a_model_whose_layers_need_more_than_the_stream_runs_from_the_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    layer = decoder_layers(model)[3]
    lower = decoder_layers(model)[0]
    kept: list[torch.Tensor] = []
    lower.register_forward_hook(lambda _, __, output: kept.append(output))
    layer.register_forward_pre_hook(lambda _, given: (given[0] + kept.pop(), *given[1:]))
    found = HeldStream(model, BATCHES)
    assert not found.goes_on
    kept.clear()
    with torch.no_grad(), outputs_of_layers([layer], range(1)) as plain:
        model(input_ids=BATCHES[0], use_cache=False)
    assert torch.equal(found.above(0, 3), plain[0])
    assert torch.equal(found.above(0, 3), plain[0])


@pytest.mark.parametrize("kind", ["linear", PROJECTION])
def test_repairs_are_those_of_models_that_run_from_the_bottom(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    width = 48
    thin = Channels(
        field="intermediate_size", width=width, kept={layer: tuple(range(40)) for layer in range(NUM_LAYERS)}
    )
    plan = CutPlan(num_layers=NUM_LAYERS, removed=(2, 5), channels=thin if kind == PROJECTION else None)
    found = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr(HeldStream, "_is_equal", lambda self: False)
        cut = remove_layers(tiny_model("llama"), plan)
        fits = repair_seams(cut, tiny_model("llama"), plan, tiny_data(24), kind)
        found.append((fits, cut.state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())
