"""Products of few rows by another library: the same numbers within rounding, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layercut.engine import products
from layercut.engine.products import fast_products, large_layers, packed_weights

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()),
    reason="torch has no oneDNN or no MKL here, so products stay as they are",
)


@pytest.fixture(autouse=True)
def _small_weights_too(monkeypatch):
    monkeypatch.setattr(products, "_FEWEST_WEIGHTS", 64 * 48)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def linear(bias: bool) -> nn.Linear:
    layer = nn.Linear(48, 64, bias=bias)
    layer.load_state_dict({"weight": drawn(64, 48)} | ({"bias": drawn(64)} if bias else {}))
    return layer


DTYPES = [torch.float32] + [torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("use", "dtype"),
    [(lambda layer: fast_products(large_layers(layer)), torch.float32), *((packed_weights, dtype) for dtype in DTYPES)],
)
def test_products_are_torchs_own_within_rounding(use, dtype, bias):
    layer = linear(bias).to(dtype)
    states = [drawn(*shape, 48).to(dtype) for shape in ((), (1,), (3,), (4,), (15,), (70,), (1, 7), (3, 2))]
    states += [rows.transpose(0, -1).contiguous().transpose(0, -1) for rows in states]
    with torch.no_grad():
        expected = [layer(rows) for rows in states]
        with use(layer):
            output = [layer(rows) for rows in states]
    rounding = 1e-5 if dtype == torch.float32 else 2**-6
    for ours, own in zip(output, expected, strict=True):
        assert own.abs().mean() > 1
        torch.testing.assert_close(ours, own, rtol=rounding, atol=rounding)


def test_it_is_used_from_four_rows_on_and_never_with_gradients():
    layer, left_to_torch = linear(True), []

    def usual(states: torch.Tensor) -> torch.Tensor:
        left_to_torch.append(len(states))
        return states

    with torch.no_grad():
        for rows in (1, 3, 4, 200):
            products._product(layer, usual, drawn(rows, 48))
    products._product(layer, usual, drawn(5, 48))
    assert left_to_torch == [1, 3, 5]


def test_layers_that_are_small_changed_or_in_float16_are_left_alone():
    class Own(nn.Linear):
        pass

    patched = linear(True)
    vars(patched)["forward"] = patched.forward
    model = nn.ModuleList([linear(True), nn.Linear(48, 63), Own(48, 64), patched, linear(False).half()])
    assert large_layers(model) == [model[0]]


def test_the_layers_own_forward_is_back_even_after_an_error():
    layer = linear(False)
    with pytest.raises(RuntimeError), torch.no_grad(), fast_products([layer]):
        assert "forward" in vars(layer)
        layer(drawn(5, 47))
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_lie_in_another_order_in_place_of_their_own_and_come_back(dtype):
    layer = linear(True).to(dtype)
    weight, before = layer.weight, layer.weight.detach().clone()
    with pytest.raises(RuntimeError), torch.no_grad(), packed_weights(layer):
        assert torch.equal(weight, before)
        layer(drawn(5, 48).to(dtype))
        assert layer.weight is weight and weight.shape == (64, 48)
        assert weight.untyped_storage().nbytes() == weight.element_size()
        assert weight.isnan().all()
        layer(drawn(5, 47).to(dtype))
    assert layer.weight is weight and torch.equal(weight, before)
    assert "forward" not in vars(layer)


def test_a_weight_that_two_modules_hold_is_not_packed():
    model = nn.ModuleDict({"embedding": nn.Embedding(64, 48), "head": linear(False), "other": linear(False)})
    model["head"].weight = model["embedding"].weight
    with torch.no_grad(), packed_weights(model):
        _ = model["head"](drawn(5, 48)), model["other"](drawn(5, 48))
        assert not model["head"].weight.isnan().any()
        assert model["other"].weight.isnan().all()
        with fast_products(large_layers(model)):  # what is packed keeps its own way
            packed_way = vars(model["other"])["forward"]
            assert "forward" in vars(model["head"])
        assert vars(model["other"])["forward"] is packed_way


def test_a_weight_that_is_read_without_calling_its_layer_stays():
    """The router of LongCat's experts is read that way, and so are some projections of state space models."""

    class Router(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = linear(False)

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(states, self.classifier.weight)

    router, states = Router(), drawn(5, 48)
    assert large_layers(router) == [router.classifier]
    with torch.no_grad():
        expected = router(states)
        with packed_weights(router):
            found = router(states)
    assert torch.equal(found, expected)


def test_packing_what_is_packed_changes_nothing():
    layer, states = linear(True), drawn(5, 48)
    with torch.no_grad():
        expected = layer(states)
        with packed_weights(layer):
            with packed_weights(layer):
                pass
            torch.testing.assert_close(layer(states), expected, rtol=1e-5, atol=1e-5)
