from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from layercut.errors import InputError
from layercut.healing.fold import (
    add_to_projection,
    fold_map_into_mlp,
    last_projection,
    norm_gain,
    outputs_of_layers,
    residual_branch,
    run_up_to_layer,
)
from layercut.healing.seam import (
    PROJECTION,
    HeldStream,
    Sums,
    places_to_repair,
    repair_seams,
    seams_of,
    solve_linear_map,
)
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import decoder_layers, remove_layers
from tests.support.healing import tiny_data
from tests.support.tiny import CONFIGS, NUM_LAYERS, tiny_model

PLAN = CutPlan(num_layers=NUM_LAYERS, removed=(2, 5))
NORMALISED = {"gemma2", "gemma3_text", "olmo2", "olmo3"}
WITH_EXPERTS = {"mixtral", "qwen3_moe"}
IDS = torch.arange(40).reshape(2, 20)


def gain_in(model: Any, layer: Any) -> float:
    return norm_gain(layer, lambda: run_up_to_layer(layer, model, IDS))


def assert_folded_is_hooked(family: str, part: Callable[[Any], Any], hook: Any, fold: Callable[[Any], None]) -> None:
    """A cut model whose layer was changed computes what one with a hook at a part of this layer computes."""
    hooked, folded = (remove_layers(tiny_model(family), PLAN) for _ in range(2))
    plain = hooked(input_ids=IDS).logits
    part(decoder_layers(hooked)[1]).register_forward_hook(hook)
    fold(decoder_layers(folded)[1])
    expected, found = hooked(input_ids=IDS).logits, folded(input_ids=IDS).logits
    assert (expected - plain).abs().max() > 1e-2  # else the change would show nothing
    assert torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_cut_and_folded_is_cut_with_a_hook(family):
    torch.manual_seed(0)
    map_DD = torch.eye(32, dtype=torch.float64) + 0.1 * torch.randn(32, 32, dtype=torch.float64)
    hook = lambda _, __, output: output @ map_DD.float().T  # noqa: E731
    assert_folded_is_hooked(family, residual_branch, hook, lambda layer: fold_map_into_mlp(layer, map_DD))


def test_a_seam_brings_the_stream_nearer_to_the_uncut_models():
    uncut, cut = tiny_model("llama"), remove_layers(tiny_model("llama"), PLAN)
    fits = repair_seams(cut, uncut, PLAN, tiny_data(48))
    assert [(fit.seam.below, fit.seam.first, fit.seam.last) for fit in fits] == [(1, 2, 2), (3, 5, 5)]
    assert all(fit.is_folded and fit.gap_left < 1 for fit in fits)
    # What was measured before the fold is what a model with the fold does.
    again = repair_seams(cut, uncut, PLAN, tiny_data(48))
    assert again[1].gap_left > fits[1].gap_left


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_a_changed_projection_is_a_hook_that_adds_the_change(family):
    layer = decoder_layers(tiny_model(family))[1]
    if family in WITH_EXPERTS:
        with pytest.raises(InputError, match="has experts"):
            add_to_projection(layer, torch.zeros(32, 48, dtype=torch.float64))
        return
    inputs = last_projection(layer).weight.numel() // 32
    change_DI = 0.1 * torch.randn(32, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hook = lambda _, given, output: output + given[0] @ change_DI.float().T  # noqa: E731
    assert_folded_is_hooked(family, last_projection, hook, lambda layer: add_to_projection(layer, change_DI))


def test_projections_come_nearer_to_the_original_stream_than_maps():
    """On text that nothing was fitted on or chosen by: the distance of the stream above the cut."""
    plan, uncut = CutPlan(num_layers=NUM_LAYERS, removed=(2, 3)), tiny_model("llama")
    fitted = tiny_data(96)
    unseen = [one for one in tiny_data(140, held_out=0).train if int(one.id) >= 96]
    distances = {}
    for kind in (None, "linear", PROJECTION):
        cut = remove_layers(tiny_model("llama"), plan)
        if kind is not None:
            fits = repair_seams(cut, uncut, plan, fitted, kind=kind)
            assert all(fit.is_folded and fit.gap_left < 1 for fit in fits)
        total = torch.zeros(3)
        for example in unseen:
            ids = torch.tensor([example.input_ids])
            with torch.no_grad(), outputs_of_layers(decoder_layers(cut), (1, 2, 3)) as ours:
                cut(input_ids=ids, use_cache=False)
                with outputs_of_layers(decoder_layers(uncut), (3, 4, 5)) as theirs:
                    uncut(input_ids=ids, use_cache=False)
            pairs = ((ours[index], theirs[index + 2]) for index in (1, 2, 3))
            total += torch.tensor([((a - b).norm(dim=-1) / b.norm(dim=-1)).mean().item() for a, b in pairs])
        distances[kind] = total / len(unseen)
    assert (distances[PROJECTION] < distances["linear"]).all() and (distances["linear"] < distances[None]).all()


def test_projections_are_solved_at_the_cut_and_above_it():
    plan = CutPlan(num_layers=12, removed=(2, 4, 5, 10))
    assert [tuple(place) for place in places_to_repair(plan, PROJECTION)] == [
        (1, 2, 2), (2, 4, 5), (3, None, 6), (4, None, 7), (6, 10, 10), (7, None, 11)
    ]  # fmt: skip
    assert [place.describe() for place in places_to_repair(plan, PROJECTION)[1:3]] == ["seam of layers 4-5", "layer 6"]
    assert places_to_repair(plan, "linear") == seams_of(plan)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
@torch.no_grad()
def test_layers_behind_the_wanted_one_are_not_run(family):
    model, seen = tiny_model(family), []
    layers = decoder_layers(model)
    with outputs_of_layers(layers, range(NUM_LAYERS)) as wanted:
        model.base_model(input_ids=IDS, use_cache=False)
    hooks = [layer.register_forward_pre_hook(lambda *_, at=at: seen.append(at)) for at, layer in enumerate(layers)]
    with outputs_of_layers(layers, [1, 3]) as found:
        run_up_to_layer(layers[3], model, IDS)
    assert seen == [0, 1, 2, 3] and all(torch.equal(found[at], wanted[at]) for at in (1, 3))
    for hook in hooks:
        hook.remove()
    logits = model(input_ids=IDS).logits
    assert torch.equal(logits, tiny_model(family)(input_ids=IDS).logits), "no hook stays"


def config_model(family: str, **more: Any) -> Any:
    """A tiny model of a family that is no part of CONFIGS, or with other settings."""
    config = AutoConfig.for_model(family, **(CONFIGS["llama"] | {"tie_word_embeddings": False} | more))
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", CONFIGS)
def test_most_layers_add_what_their_mlp_gives_as_it_is(family):
    model = tiny_model(family)
    for layer in decoder_layers(model):
        if family in NORMALISED:
            with pytest.raises(InputError, match="DecoderLayer does more"):
                gain_in(model, layer)
        else:
            assert gain_in(model, layer) == 1


def test_rounding_to_bfloat16_does_not_look_like_another_layer():
    """In a stream that is a thousand times what the MLP adds."""
    model: Any = tiny_model("llama").bfloat16()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1000 / model.get_input_embeddings().weight.abs().mean())
    assert all(gain_in(model, layer) == pytest.approx(1, abs=0.02) for layer in decoder_layers(model))


def test_a_layer_may_multiply_what_its_mlp_gives_and_is_refused_where_it_normalises():
    granite, glm4 = config_model("granite", residual_multiplier=0.3), config_model("glm4")
    assert gain_in(granite, decoder_layers(granite)[2]) == pytest.approx(0.3, rel=1e-4)
    with pytest.raises(InputError, match="Glm4DecoderLayer does more"):
        gain_in(glm4, decoder_layers(glm4)[2])


@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", "linear"), ("llama", PROJECTION), ("mixtral", "linear"), ("granite", "linear"), ("granite", PROJECTION)],
)
@torch.no_grad()
def test_what_a_fit_leaves_of_the_gap_is_what_the_repaired_model_leaves(family, kind):
    """Measured in the streams of both models, without any of the sums."""
    made = {"granite": {"residual_multiplier": 0.3}}
    uncut, cut, repaired = (
        config_model(family, **made[family]) if family in made else tiny_model(family) for _ in range(3)
    )
    plan, data = CutPlan(num_layers=NUM_LAYERS, removed=(3,)), tiny_data(24)
    remove_layers(cut, plan)
    remove_layers(repaired, plan)
    fit = next(fit for fit in repair_seams(repaired, uncut, plan, data, kind) if fit.seam.first is not None)
    assert fit.is_folded and fit.gap_left < 1
    left, whole = 0.0, 0
    for example in data.held_out:
        ids_BT = torch.tensor([example.input_ids])
        streams = []
        for model, layer in ((uncut, 3), (cut, 2), (repaired, 2)):
            with outputs_of_layers(decoder_layers(model), [layer]) as seen:
                model.base_model(input_ids=ids_BT, use_cache=False)
            streams.append(seen[layer][0].double())
        theirs, before, after = streams
        left += ((theirs - after).norm(dim=-1) / (theirs - before).norm(dim=-1)).square().sum().item()
        whole += len(theirs)
    assert left / whole == pytest.approx(fit.gap_left, rel=1e-3)


@pytest.mark.parametrize(("kind", "width"), [("linear", 8), (PROJECTION, 12)])
def test_the_sums_are_those_of_least_squares(kind, width):
    torch.manual_seed(0)
    x, z = torch.randn(200, width, dtype=torch.float64), torch.randn(200, 8, dtype=torch.float64)
    sums = Sums(width, torch.device("cpu"), 8)
    for part in range(0, 200, 50):
        sums.add(x[part : part + 50], z[part : part + 50])
    found = solve_linear_map(sums, kind, ridge=0.0)
    assert torch.allclose(found, torch.linalg.lstsq(x, z).solution)
    assert sums.error(found) == pytest.approx((x @ found - z).square().sum().item())
    # A strong ridge pulls to no change, which is the identity for a map.
    unchanged = torch.eye(8, dtype=torch.float64) if kind == "linear" else torch.zeros(12, 8, dtype=torch.float64)
    assert torch.allclose(solve_linear_map(sums, kind, ridge=1e9), unchanged, atol=1e-6)


def test_too_little_text_for_a_map_is_said():
    sums = Sums(8, torch.device("cpu"), 8)
    with pytest.raises(InputError, match="no text"):
        solve_linear_map(sums, "linear")
    sums.add(torch.zeros(3, 8), torch.zeros(3, 8))
    with pytest.raises(InputError, match="3 tokens of text are too few"):
        solve_linear_map(sums, "linear")


@pytest.mark.parametrize(("removed", "says"), [((), "was not cut by layercut"), ((0, 3), "no layer is below")])
def test_seams_that_cannot_be_repaired_are_refused(removed, says):
    with pytest.raises(InputError, match=says):
        seams_of(CutPlan(num_layers=6, removed=removed))


@pytest.mark.parametrize(
    ("family", "kind", "says"),
    [
        ("gemma2", "linear", "Gemma2DecoderLayer does more"),
        ("gemma2", PROJECTION, "Gemma2DecoderLayer does more"),
        ("mixtral", PROJECTION, "has experts"),
        ("gemma2", "loud", "unknown seam"),
    ],
)
def test_models_that_cannot_be_repaired_are_refused(family, kind, says):
    cut = remove_layers(tiny_model(family), PLAN)
    with pytest.raises(InputError, match=says):
        repair_seams(cut, tiny_model(family), PLAN, tiny_data(4), kind=kind)
    with pytest.raises(InputError, match="the very model"):
        repair_seams(tiny_model("llama"), tiny_model("llama"), PLAN, tiny_data(4))


BATCHES = [torch.arange(40).reshape(2, 20), torch.arange(5, 20).reshape(1, 15)]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_held_stream_goes_on_as_the_model_itself_does(family):
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


def test_a_model_whose_layers_need_more_than_the_stream_runs_from_the_bottom(monkeypatch):
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
def test_repairs_are_those_of_models_that_run_from_the_bottom(kind, monkeypatch):
    kept = {layer: tuple(range(40)) for layer in range(NUM_LAYERS)}
    thin = Channels(field="intermediate_size", width=48, kept=kept)
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
