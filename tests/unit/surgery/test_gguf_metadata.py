"""Every key of a GGUF file that says something of its layers follows the layers that stay, or the plan is refused."""

from __future__ import annotations

from typing import Any

import gguf
import pytest

from layercut.errors import CheckpointError, InputError
from layercut.models.gguf_file import GgufHead, GgufTensor
from layercut.surgery.gguf_metadata import ARCHITECTURES, block_tensor, cut_metadata, renumber_blocks
from layercut.surgery.plan import CutPlan


def head_of(name: str, num_blocks: int, *, tensors: dict[int, tuple[str, ...]] | None = None, **keys: Any) -> GgufHead:
    """A file's head; ``__`` in a key stands for a dot, and tuples are arrays."""
    own = {f"{name}.{key.replace('__', '.')}": value for key, value in keys.items()}
    found = {"general.architecture": name, f"{name}.block_count": num_blocks, **own}
    blocks = [(block, tensor) for block in range(num_blocks) for tensor in (tensors or {}).get(block, ("a.weight",))]
    return GgufHead(
        metadata={key: value for key, value in found.items() if not isinstance(value, tuple)},
        arrays={key: value for key, value in found.items() if isinstance(value, tuple)},
        fields={},
        tensors=tuple(GgufTensor(f"blk.{block}.{tensor}", (4,), 0, 0) for block, tensor in blocks),
        alignment=32,
        version=3,
    )


def cut(head: GgufHead, *removed: int) -> dict[str, Any]:
    return cut_metadata(head, CutPlan(num_layers=head.num_layers or 0, removed=removed))


def refused(head: GgufHead, *removed: int) -> str:
    with pytest.raises(InputError) as caught:
        cut(head, *removed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_arrays_of_one_entry_per_layer_keep_those_of_the_kept_layers():
    kinds, widths = (0, 8, 0, 8, 0, 8), (1, 2, 3, 4, 5, 6)
    head = head_of("lfm2", 6, attention__head_count_kv=kinds, feed_forward_length=widths, rope__other=(1, 2))
    assert cut(head, 0, 3) == {
        "lfm2.block_count": 4,
        "lfm2.attention.head_count_kv": (8, 0, 0, 8),
        "lfm2.feed_forward_length": (2, 3, 5, 6),
    }
    head = GgufHead(
        head_of("apertus", 4).metadata, {"xielu.alpha_p": (1.0, 2.0, 3.0, 4.0)}, {}, head.tensors[:4], 32, 3
    )
    assert cut(head, 1) == {"apertus.block_count": 3, "xielu.alpha_p": (1.0, 3.0, 4.0)}, "outside the architecture"
    other = head_of("qwen2vl", 4, rope__dimension_sections=(16, 24, 24, 0))
    assert cut(other, 1) == {"qwen2vl.block_count": 3}, "as long as the model is deep, and not about layers"


def test_counts_and_patterns_follow_the_layers_that_stay():
    head = head_of("deepseek", 8, leading_dense_block_count=3)
    assert cut(head, 1, 5)["deepseek.leading_dense_block_count"] == 2
    assert cut(head, 0, 1, 2)["deepseek.leading_dense_block_count"] == 0
    assert "deepseek.leading_dense_block_count" not in cut(head, 4)
    # A pattern of windows is a list, of as many entries as layers.
    head = head_of("gemma4", 6, attention__sliding_window_pattern=(True, True, False, True, True, False))
    assert cut(head, 1, 2)["gemma4.attention.sliding_window_pattern"] == (True, True, True, False)
    short = head_of("gemma4", 6, attention__sliding_window_pattern=(True, False))
    assert "sliding_window_pattern has 2 entries" in refused(short, 1)


def test_layers_for_multi_token_prediction_stay_last():
    head = head_of("glm4moe", 8, nextn_predict_layers=2, attention__head_count=tuple(range(8)))
    assert head.num_layers == 6
    plan = CutPlan(num_layers=6, removed=(1, 2))
    assert renumber_blocks(head, plan) == {0: 0, 3: 1, 4: 2, 5: 3, 6: 4, 7: 5}
    assert cut_metadata(head, plan) == {"glm4moe.block_count": 6, "glm4moe.attention.head_count": (0, 3, 4, 5, 6, 7)}
    with pytest.raises(InputError, match="model of 8"):
        cut_metadata(head, CutPlan(num_layers=8, removed=(1,)))


@pytest.mark.parametrize(
    ("name", "keys", "depth", "fine", "wrong"),
    [
        ("gemma3", {"attention__sliding_window": 512}, 14, [(12, 13), tuple(range(6)), (12,)], [(0,), (11,), (5, 13)]),
        ("gemma2", {"attention__sliding_window": 4096}, 8, [(7,), (2, 3)], [(2,), (1, 4)]),
        ("gpt-oss", {"attention__sliding_window": 128}, 6, [(0, 1), (5,)], [(0,)]),
        ("cohere2", {"attention__sliding_window": 64}, 9, [(8,), (0, 1, 2, 3)], [(3,)]),
        ("cohere2", {"attention__sliding_window_pattern": 3}, 9, [(0, 1, 2)], [(0, 1, 2, 3)]),
        ("olmo2", {}, 8, [(0,), (3,)], []),
        ("olmo2", {"attention__sliding_window": 64}, 8, [(0, 1, 2, 3)], [(3,)]),
        ("llama4", {"interleave_moe_layer_step": 2}, 8, [(4, 5, 6, 7)], [(1, 2)]),
        ("llama4", {"interleave_moe_layer_step": 1, "attention__sliding_window": 0}, 8, [(1,)], []),
        ("smollm3", {}, 8, [(4, 5, 6, 7)], [(1,)]),
        ("qwen35", {}, 8, [(0, 1, 2, 3)], [(0,)]),
        ("qwen35", {"full_attention_interval": 2}, 8, [(0, 1)], [(0,)]),
        ("rwkv6", {"rescale_every_n_layers": 6}, 12, [(11,)], [(0,)]),
        ("rwkv6", {"rescale_every_n_layers": 0}, 12, [(0,)], []),
    ],
)
def test_periods(name, keys, depth, fine, wrong):
    head = head_of(name, depth, **keys)
    for removed in fine:
        assert cut(head, *removed) == {f"{name}.block_count": depth - len(removed)}
    for removed in wrong:
        assert "sets the kind" in refused(head, *removed)
    if (name, depth) == ("gemma3", 14):
        assert "gemma3.attention.sliding_window_pattern = 6" in refused(head, 2)
    if name == "qwen35":  # a list speaks in place of the interval
        listed = head_of(name, 4, attention__recurrent_layers=(True, True, True, False), **keys)
        assert cut(listed, 0)["qwen35.attention.recurrent_layers"] == (True, True, False)


@pytest.mark.parametrize(
    ("name", "depth"),
    [*(("gemma3", 62), ("gemma3", 63), ("gemma2", 46), ("exaone4", 64)), *(("deepseek2", 27), ("deepseek2", 49))],
)
def test_depths_at_which_llama_cpp_computes_something_else(name, depth):
    said = refused(head_of(name, depth), depth - 1)
    assert said.startswith(f"{name}.block_count would go from {depth} to {depth - 1}")
    assert cut(head_of("deepseek2", 61), 60) == {"deepseek2.block_count": 60}


def test_architectures_and_keys_that_no_cut_can_follow():
    assert "the GGUF architecture 'martian'" in refused(head_of("martian", 4), 1)
    assert "the GGUF architecture 't5'" in refused(head_of("t5", 4), 1)
    for key, value in (("attention__shared_kv_layers", 3), ("embedding_length_per_layer_input", 64)):
        assert f"gemma4.{key.replace('__', '.')} = {value}" in refused(head_of("gemma4", 8, **{key: value}), 7)
    deep = head_of("qwen3vl", 6, n_deepstack_layers=3)
    assert "qwen3vl.n_deepstack_layers = 3" in refused(deep, 2)
    assert cut(deep, 3) == {"qwen3vl.block_count": 5}
    odd = {2: ("a.weight", "b.weight")}
    assert "differ in b.weight" in refused(head_of("llama", 4, tensors=odd), 1)
    assert cut(head_of("jamba", 4, tensors=odd), 1) == {"jamba.block_count": 3}


def test_a_file_that_holds_other_layers_than_it_counts():
    head = head_of("llama", 4)
    fewer = GgufHead(head.metadata, {}, {}, head.tensors[:2] + head.tensors[3:], 32, 3)
    more = GgufHead({**head.metadata, "llama.block_count": 3}, {}, {}, head.tensors, 32, 3)
    with pytest.raises(CheckpointError, match=r"no tensor of blk\.2"):
        cut(fewer, 1)
    with pytest.raises(CheckpointError, match=r"blk\.3, .*llama\.block_count is 3"):
        cut(more, 1)


def test_names_of_blocks_and_architectures():
    assert block_tensor("blk.12.attn_q.weight") == (12, "attn_q.weight")
    assert block_tensor("token_embd.weight") is None
    assert block_tensor("enc.blk.1.attn_q.weight") is None
    assert set(ARCHITECTURES) <= set(gguf.MODEL_ARCH_NAMES.values())
