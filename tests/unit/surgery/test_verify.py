"""Verification says 0 for what is right and stops at what is wrong, however it came to be wrong."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from benchmarks.families import tiny_config
from benchmarks.families import tiny_model as model_of_type
from layercut.errors import VerificationError
from layercut.surgery import verify
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.remove import decoder_layers, remove_layers
from layercut.surgery.verify import layers_skipped, verify_checkpoint
from tests.support.surgery import Loaded, generate, logits_of, plan_of
from tests.support.tiny import save_tiny, tiny_model

PLAN = plan_of((1, 4))


@pytest.fixture
def cut(tmp_path):
    return cut_checkpoint(save_tiny("gemma2", tmp_path / "uncut"), PLAN, tmp_path / "cut").out


@pytest.fixture
def uncut():
    return Loaded(tiny_model("gemma2"))


def test_what_is_right_differs_by_nothing(cut, uncut):
    found = verify_checkpoint(uncut, PLAN, cut)
    assert (found.max_abs_diff, found.num_tokens) == (0, 1 + 7 + 24 + 64)
    assert "its tensors are equal" in found.describe() and "at most 0 (float32;" in found.describe()
    assert verify_checkpoint(uncut, PLAN, cut) == found


@pytest.mark.parametrize("learns", [True, False])
def test_both_models_say_the_same_of_gradients(cut, uncut, learns, monkeypatch):
    """torch picks kernels by it: on SmolLM2 the logits of a text's last token differed by 3.8e-5, a false alarm."""
    uncut.model.requires_grad_(learns)
    reloaded = verify._reload(uncut.model, cut).requires_grad_(not learns)
    monkeypatch.setattr(verify, "_reload", lambda model, path: reloaded)
    found = verify_checkpoint(uncut, PLAN, cut)
    assert {one.requires_grad for one in reloaded.parameters()} == {learns}
    assert found.max_abs_diff == 0 and found.max_written_diff <= found.tolerance < 1e-4


def test_it_runs_in_the_dtype_of_the_uncut_model(cut, tmp_path):
    uncut = AutoModelForCausalLM.from_pretrained(tmp_path / "uncut", dtype=torch.bfloat16).eval()
    found = verify_checkpoint(Loaded(uncut), PLAN, cut)
    assert (found.max_abs_diff, found.dtype) == (0, "bfloat16")
    assert found.tolerance > 1e-2


def spoil(cut, change):
    tensors = load_file(cut / "model.safetensors")
    change(tensors)
    save_file(tensors, cut / "model.safetensors", {"format": "pt"})


UP = "model.layers.0.mlp.up_proj.weight"


def last_bit(tensors):
    tensors[UP][3, 5] = torch.nextafter(tensors[UP][3, 5], torch.tensor(9.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (last_bit, r"layers\.0\.mlp\.up_proj\.weight differs"),
        (lambda tensors: tensors[UP][0, :1].fill_(float("nan")), r"up_proj\.weight differs"),
        (lambda tensors: tensors.pop(UP), r"lacks weights .*: model\.layers\.0\.mlp\.up_proj\.weight"),
    ],
    ids=["the last bit", "no number", "missing"],
)
def test_one_weight_that_is_off_is_seen(cut, uncut, change, message):
    spoil(cut, change)
    with pytest.raises(VerificationError, match=message):
        verify_checkpoint(uncut, PLAN, cut)


def test_two_layers_swapped_and_another_plan_are_seen(cut, uncut):
    with pytest.raises(VerificationError):
        verify_checkpoint(uncut, plan_of((1, 3)), cut)

    def swap(tensors):
        for name in [name for name in tensors if ".layers.1." in name]:
            other = name.replace(".layers.1.", ".layers.2.")
            tensors[name], tensors[other] = tensors[other], tensors[name]

    spoil(cut, swap)
    with pytest.raises(VerificationError, match=r"after reloading, model\.layers\.1\..* differs"):
        verify_checkpoint(uncut, PLAN, cut)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rope_parameters", 10100.0), ("rms_norm_eps", 2e-5), ("final_logit_softcapping", 30.01), ("sliding_window", 9)],
)
def test_a_config_that_computes_something_else_is_seen(cut, uncut, name, value):
    """With the same tensors; the smallest of these moves a logit by a few rounding steps of float32."""
    config = json.loads((cut / "config.json").read_text())
    config[name] = config[name] | {"rope_theta": value} if name == "rope_parameters" else value
    (cut / "config.json").write_text(json.dumps(config))
    with pytest.raises(VerificationError, match=r"\(float64;"):
        verify_checkpoint(uncut, PLAN, cut)


@pytest.fixture
def marked(monkeypatch):
    """The reloaded model, and every copy of it, known by a mark."""
    reload = verify._reload

    def mark(model, path):
        reloaded = reload(model, path)
        reloaded.is_reloaded = True
        return reloaded

    monkeypatch.setattr(verify, "_reload", mark)


@pytest.mark.parametrize("widths", [(torch.float32,), (torch.float32, torch.float64)])
def test_what_rounding_explains_vanishes_in_a_wider_dtype(cut, uncut, marked, monkeypatch, widths):
    """Sums in another order; where float64 differs too, it is another model."""
    right = verify._logits

    def noisy(model, batch, kept=None):
        return right(model, batch, kept) + 1e-4 * (hasattr(model, "is_reloaded") and model.dtype in widths)

    monkeypatch.setattr(verify, "_logits", noisy)
    if torch.float64 not in widths:
        found = verify_checkpoint(uncut, PLAN, cut)
        assert (found.dtype, found.max_abs_diff) == ("float64", 0)
        return
    with pytest.raises(VerificationError, match=r"by at most 0\.0001 \(float64;"):
        verify_checkpoint(uncut, PLAN, cut)


def test_text_that_is_written_in_another_way_is_seen(cut, uncut, marked, monkeypatch):
    """As by a cache that belongs to another layer, which the logits of whole texts do not show."""
    right = verify._written

    def other(model, batch):
        found = right(model, batch)
        more = 1 if hasattr(model, "is_reloaded") else 0
        return found._replace(logits_NBV=tuple(x + more for x in found.logits_NBV))

    monkeypatch.setattr(verify, "_written", other)
    with pytest.raises(VerificationError, match=r"most 0 .*most 1\b"):
        verify_checkpoint(uncut, PLAN, cut)


def test_a_layer_kind_is_compared_by_name(cut, tmp_path):
    """A window far longer than the texts: the logits could not tell."""
    uncut = Loaded(tiny_model("gemma2"))
    config = json.loads((cut / "config.json").read_text())
    (cut / "config.json").write_text(json.dumps({**config, "sliding_window": 400}))
    uncut.model.config.sliding_window = 400
    for layer in uncut.model.model.layers:
        layer.self_attn.sliding_window = 400 if layer.self_attn.sliding_window else None
    verify_checkpoint(uncut, PLAN, cut)
    kinds = ["full_attention", *config["layer_types"][1:]]
    (cut / "config.json").write_text(json.dumps({**config, "sliding_window": 400, "layer_types": kinds}))
    with pytest.raises(VerificationError, match=r"layer_types is .*be \['sliding"):
        verify_checkpoint(uncut, PLAN, cut)


@pytest.mark.parametrize("model_type", ["got_ocr2", "pp_chart2table"])
def test_sums_in_another_order_are_no_other_model(model_type, tmp_path):
    """Equal to modules deleted by hand, bit by bit; float32 logits of 3 differed by 7e-6, and 1.7e-6 was allowed."""
    model = model_of_type(tiny_config(model_type)).requires_grad_(False)
    model.save_pretrained(tmp_path / "uncut")
    for removed in ((1, 3), (3,), (4, 5)):
        out = tmp_path / "-".join(map(str, removed))
        verify_checkpoint(
            Loaded(model), plan_of(removed), cut_checkpoint(tmp_path / "uncut", plan_of(removed), out).out
        )


REMOVED = (1, 3)


def differs(cut, whole) -> bool:
    """True if a cut model gives other logits, or writes other text with its cache, than the original without layers."""
    with layers_skipped(whole, REMOVED):
        expected, text = logits_of(whole), generate(whole, use_cache=False)
    if not torch.allclose(logits_of(cut), expected, atol=1e-4):
        return True
    try:
        return generate(cut, use_cache=True) != text
    except RuntimeError:  # two layers share a place in the cache
        return True


def another_layer(cut, whole):
    decoder_layers(cut)[1] = deepcopy(decoder_layers(whole)[3])
    decoder_layers(cut)[1].self_attn.layer_idx = 1


def one_layer_too_many(cut, whole):
    remove_layers(cut, [3])


def two_layers_swapped(cut, whole):
    layers = decoder_layers(cut)
    layers[1], layers[2] = layers[2], layers[1]
    layers[1].self_attn.layer_idx, layers[2].self_attn.layer_idx = 1, 2


def a_layer_twice(cut, whole):
    decoder_layers(cut)[1] = deepcopy(decoder_layers(cut)[0])
    decoder_layers(cut)[1].self_attn.layer_idx = 1


def kinds_not_renumbered(cut, whole):
    cut.config.layer_types = whole.config.layer_types[: cut.config.num_hidden_layers]


def kinds_moved_by_one(cut, whole):
    cut.config.layer_types = [*cut.config.layer_types[1:], cut.config.layer_types[0]]


def depth_not_counted(cut, whole):
    cut.config.num_hidden_layers -= 1


def cache_index_not_renumbered(cut, whole):
    decoder_layers(cut)[1].self_attn.layer_idx = 2


def cache_index_used_twice(cut, whole):
    decoder_layers(cut)[3].self_attn.layer_idx = 2


def scaled_by_depth(cut, whole):
    for layer in decoder_layers(cut):
        layer.self_attn.scaling *= (4 / 6) ** 0.5


def scaled_by_position(cut, whole):
    for index, layer in enumerate(decoder_layers(cut)):
        layer.self_attn.attn_logit_softcapping = 1 + index


MUTATIONS = (
    another_layer, one_layer_too_many, two_layers_swapped, a_layer_twice, kinds_not_renumbered, kinds_moved_by_one,
    depth_not_counted, cache_index_not_renumbered, cache_index_used_twice, scaled_by_depth, scaled_by_position,
)  # fmt: skip


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_wrong_cut_is_seen(mutate):
    whole = tiny_model("gemma2")
    cut = remove_layers(deepcopy(whole), plan_of(REMOVED))
    assert not differs(cut, whole)
    mutate(cut, whole)
    assert differs(cut, whole)


def test_the_model_is_itself_again():
    model = tiny_model("gemma2")
    before = logits_of(model)
    with layers_skipped(model, REMOVED):
        assert not torch.equal(logits_of(model), before)
    assert torch.equal(logits_of(model), before)


def test_layers_that_change_their_input_in_place_hand_on_what_came():
    class InPlace(nn.Module):
        def forward(self, hidden_states, **kwargs):
            return hidden_states.mul_(2), "state"

    model = tiny_model("llama")
    layers = decoder_layers(model)
    layers[2] = InPlace()
    with layers_skipped(model, [2]):
        given = torch.randn(1, 3, 32)
        states, rest = layers[2](given)
    assert states is given and rest is None
