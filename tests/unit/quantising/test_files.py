"""Bytes of a file by the types of its tensors, against files that llama.cpp writes."""

import pytest

from layercut.errors import InputError
from layercut.models.gguf_file import read_gguf_head
from layercut.models.make_gguf import quantise_gguf, types_of_plain_file
from layercut.quantising import QuantiseSettings
from layercut.quantising.damage import Matrix
from layercut.quantising.files import Layout, decide_types
from tests.unit.quantising.models import WIDE, tiny_file


def layout_of(file, left_out=()):
    tensors = [tensor for tensor in read_gguf_head(file).tensors if len(tensor.shape) == 2]
    return Layout(file, [Matrix(tensor, (), None, None) for tensor in tensors if tensor.name not in left_out])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny_file(tmp_path_factory.mktemp("models"), **WIDE)


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q8_0", "Q3_K_S"])
def test_the_bytes_of_a_plain_file_are_known_before_it_is_written(file, tmp_path, kind):
    layout, types = layout_of(file), types_of_plain_file(file, kind, {})
    forecast = layout.by_type({name: types[name] for name in layout.sizes}).total() + layout.fixed
    quantise_gguf(file, tmp_path / "plain.gguf", kind)
    assert 0 <= forecast - (tmp_path / "plain.gguf").stat().st_size < 2**15


def test_a_tensor_without_statistics_has_eight_bits(file):
    name = "blk.0.ffn_up.weight"
    whole, layout = layout_of(file), layout_of(file, left_out=(name,))
    assert layout.others == {} and whole.fixed < layout.fixed  # float32 stays
    bits = QuantiseSettings(use="math", bits=4.0)
    assert layout.budget(bits) == layout.num_weights // 2


def test_a_recipe_gives_types_and_one_that_does_not_fit_is_refused(file, tmp_path):
    layout, recipe = layout_of(file), tmp_path / "recipe.txt"
    recipe.write_text("ffn_down=q4_k\n")
    types = decide_types(QuantiseSettings(use="math", recipe=recipe), layout, {})
    assert {types[name] for name in types if "ffn_down" in name} == {"Q4_K"}
    assert {types[name] for name in types if "ffn_down" not in name} == {"Q8_0"}
    recipe.write_text("ffn_down=f16\n")
    with pytest.raises(InputError, match="gives blk.0.ffn_down.weight a type that its rows do not fit"):
        decide_types(QuantiseSettings(use="math", recipe=recipe), layout, {})
