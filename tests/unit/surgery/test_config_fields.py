"""Per-layer config fields, one by one, and against transformers' own config classes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from layercut.errors import InputError
from layercut.models.structure import Structure
from layercut.surgery import config_fields
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.config_fields import cut_config, with_older_fields
from layercut.surgery.plan import CutPlan
from tests.support.tiny import save_tiny

L = 12
PLAN = CutPlan(num_layers=L, removed=(7, 0, 4))
KEPT = (1, 2, 3, 5, 6, 8, 9, 10, 11)
ANY = Structure(model_type="any")


def cut(plan: CutPlan = PLAN, **fields: Any) -> dict[str, Any]:
    return cut_config({"num_hidden_layers": plan.num_layers, **fields}, plan, ANY)


def test_the_number_of_layers_and_nothing_else_changes_in_a_uniform_model():
    config = {"model_type": "any", "hidden_size": 8, "note": {"a": [1]}, "x": None, "eos_token_id": list(range(L))}
    assert cut(**config) == {**config, "num_hidden_layers": 9}
    assert cut_config({"n_layer": L}, PLAN, Structure(model_type="gpt2", num_layers_field="n_layer")) == {"n_layer": 9}
    assert cut(CutPlan(num_layers=L), layer_types=["a"] * L) == {"num_hidden_layers": L, "layer_types": ["a"] * L}
    # A scale that is divided by the root of the depth shrinks with it.
    assert cut(scale_depth=1.4)["scale_depth"] / len(KEPT) ** 0.5 == pytest.approx(1.4 / L**0.5)
    # A scale that is divided by the root of the depth shrinks with it.
    assert cut(scale_depth=1.4)["scale_depth"] / len(KEPT) ** 0.5 == pytest.approx(1.4 / L**0.5)


@pytest.mark.parametrize("name", sorted(config_fields.LISTS | config_fields.MAYBE_LISTS))
def test_lists_keep_the_entries_of_the_layers_that_stay(name):
    values = list(range(100, 100 + L))
    assert cut(**{name: values})[name] == [100 + i for i in KEPT] and len(values) == L, "the input stays"
    if name in config_fields.MAYBE_LISTS:  # other values hold for all layers
        assert cut(**{name: [1536, 512]})[name] == [1536, 512] and cut(**{name: 1})[name] == 1
    else:
        with pytest.raises(InputError, match=f"{name} has 3 entries for 12"):
            cut(**{name: [1, 2, 3]})
        assert cut(**{name: []})[name] == []  # empty: the family's default


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer_scales": [0.1] * L}, "layer_scales has 12 entries"),
        ({"num_hidden_layers": 28}, "num_hidden_layers = 28"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step = 2 sets"),
    ],
)
def test_what_cannot_follow_the_layers_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        cut_config({"num_hidden_layers": L, **fields}, PLAN, ANY)
    assert cut(layer_scales=[0.1] * 5)["layer_scales"] == [0.1] * 5


@pytest.mark.parametrize("name", sorted(config_fields.INDEX_LISTS))
def test_index_lists_name_the_same_layers_by_their_new_numbers(name):
    assert cut(**{name: [0, 1, 4, 5, 11]})[name] == [0, 3, 8]
    assert cut(**{name: [-1]})[name] == [8]


@pytest.mark.parametrize("name", sorted(config_fields.INDEX_KEYED))
def test_dictionaries_keyed_by_index(name):
    # as transformers writes it (zero-padded strings) and as Python code has it
    assert cut(**{name: {"00": {"a": 1}, "05": {"a": 2}}})[name] == {"3": {"a": 2}}
    assert cut(**{name: {0: {"a": 1}, 5: {"a": 2}}})[name] == {3: {"a": 2}}


@pytest.mark.parametrize("name", sorted(config_fields.FIRST_COUNTS - {"moe_layer_start_index"}))
@pytest.mark.parametrize(("old", "new"), [(0, 0), (1, 0), (5, 3), (12, 9), (28, 25)])
def test_thresholds_from_the_first_layer(name, old, new):
    result = cut(**{name: old})[name]
    assert result == new
    assert [i < old for i in KEPT] == [position < result for position in range(len(KEPT))]


@pytest.mark.parametrize("name", sorted(config_fields.LAST_COUNTS))
@pytest.mark.parametrize(("old", "new"), [(0, 0), (1, 1), (4, 4), (5, 4), (6, 5)])
def test_thresholds_from_the_last_layer(name, old, new):
    # kinds of one layer each, so that no layer that stays reuses another's keys and values
    assert cut(**{name: old, "layer_types": list("abcdefghijkl")})[name] == new


def test_a_range_of_layers_by_first_and_last_index():
    fields = cut(moe_layer_start_index=4, moe_layer_end_index=8, moe_layer_interval=1)
    assert (fields["moe_layer_start_index"], fields["moe_layer_end_index"]) == (3, 5)
    assert [4 <= i <= 8 for i in KEPT] == [3 <= position <= 5 for position in range(9)]
    assert cut(moe_layer_end_index=-1)["moe_layer_end_index"] == -1


@pytest.mark.parametrize("name", sorted(config_fields.STRINGS | config_fields.REPEATED))
def test_letters_of_each_layer_and_patterns_that_the_family_repeats(name):
    if name in config_fields.STRINGS:
        assert cut(**{name: "abcdefghijkl"})[name] == "bcdfgijkl"
        return
    assert cut(**{name: ["r", "r", "a"]})[name] == [["r", "r", "a"][i % 3] for i in KEPT]


# Rules on positions


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize(("model_type", "mlp_only"), [("qwen3_moe", []), ("qwen3_moe", [3, 4]), ("qwen2_moe", [3, 4])])
def test_sparse_steps_become_a_list_of_dense_layers(model_type, mlp_only, step):
    config = {"num_hidden_layers": L, "decoder_sparse_step": step, "mlp_only_layers": mlp_only, "num_experts": 4}
    new = CONFIG_MAPPING[model_type](**cut_config(config, PLAN, Structure(model_type=model_type)))

    def is_sparse(index: int, dense: list[int], every: int) -> bool:  # as modeling_qwen3_moe.py decides it
        return index not in dense and (index + 1) % every == 0

    assert [is_sparse(i, mlp_only, step) for i in KEPT] == [
        is_sparse(i, new.mlp_only_layers, new.decoder_sparse_step) for i in range(new.num_hidden_layers)
    ]
    assert new.decoder_sparse_step == 1


@pytest.mark.parametrize("name", [name for name, explicit in config_fields.PERIODS.items() if explicit is None])
def test_periods_without_a_list_allow_only_plans_that_keep_the_phase(name):
    with pytest.raises(InputError, match=f"{name} = 3 sets the kind"):
        cut(**{name: 3})
    tail, whole_periods = CutPlan(num_layers=L, removed=(11, 10)), CutPlan(num_layers=L, removed=(3, 4, 5))
    for plan in (tail, whole_periods):
        assert cut(plan, **{name: 3})[name] == 3


@pytest.mark.parametrize(("name", "explicit"), [item for item in config_fields.PERIODS.items() if item[1]])
def test_periods_give_way_to_the_list_that_says_the_same(name, explicit):
    value = [3] if explicit == "moe_layers" else list("aabaabaabaab")
    fields = cut(**{name: 3, explicit: value})
    assert name not in fields
    assert explicit in fields
    tail = CutPlan(num_layers=L, removed=(11, 10))
    assert cut(tail, **{name: 3, explicit: value})[name] == 3
    with pytest.raises(InputError, match=f"{name} = 3 sets"):
        cut(**{name: 3})


def test_a_period_written_as_letters_or_as_repeated_kinds():
    fields = cut(sliding_window_pattern="LLLG", layer_types=list("lllglllglllg"))
    assert fields == {"num_hidden_layers": 9, "layer_types": list("llglllllg")}
    kinds = ["global" if i % 2 == 0 else "local" for i in KEPT]  # gpt_neo's
    assert cut(attention_types=[[["global", "local"], 6]])["attention_types"] == [[kinds, 1]]


def test_a_layer_that_reuses_keys_and_values_needs_their_source():
    kinds = list("ssfssfssfssf")
    for source, first in ((5, 8), (6, 7)):
        with pytest.raises(InputError, match=f"layer {first} .*layer {source}"):
            cut(CutPlan(num_layers=L, removed=(source,)), num_kv_shared_layers=5, layer_types=kinds)
    fields = cut(CutPlan(num_layers=L, removed=(2, 9)), num_kv_shared_layers=5, layer_types=kinds)
    assert fields["num_kv_shared_layers"] == 4


# Against transformers

POSITIONAL = [
    "qwen2", "qwen3", "qwen2_moe", "gemma2", "gemma3_text", "gemma3n_text", "olmo3", "cohere2", "gpt_oss",
    "smollm3", "llama4_text", "exaone4", "qwen3_next", "lfm2", "bamba", "recurrent_gemma", "minimax", "afmoe",
    "glm4_moe_lite", "modernbert", "olmo_hybrid", "granitemoehybrid", "hy_v3", "dots1", "phimoe",
]  # fmt: skip


def per_layer_values(config: dict[str, Any], size: int) -> dict[str, list[Any]]:
    """Everything with one entry per layer in a config that transformers made; index lists spelled out."""
    names = config_fields.LISTS | config_fields.MAYBE_LISTS
    lists = {name: config[name] for name in names if isinstance(config.get(name), list)}
    indices = {name: config[name] for name in config_fields.INDEX_LISTS if isinstance(config.get(name), list)}
    return lists | {name: [i in value for i in range(size)] for name, value in indices.items()}


@pytest.mark.parametrize("removed", [(7, 0, 4), (0,), (11,), (0, 1, 2), (5, 10)], ids=str)
@pytest.mark.parametrize("model_type", POSITIONAL)
def test_each_layer_keeps_the_kind_that_transformers_gave_it(model_type, removed):
    """A hub config that leaves the kinds to the family, and one that transformers wrote out."""
    plan = CutPlan(num_layers=L, removed=removed)
    config_class = CONFIG_MAPPING[model_type]
    bare = {"num_hidden_layers": L, "use_sliding_window": True, "max_window_layers": 5, "num_kv_shared_layers": 0}
    written = config_class(**bare).to_dict()
    expected = {name: [value[i] for i in plan.kept] for name, value in per_layer_values(written, L).items()}
    for raw in (bare, written):
        new = config_class(**cut_config(raw, plan, Structure(model_type=model_type), resolved=written)).to_dict()
        assert new["num_hidden_layers"] == len(plan.kept)
        assert per_layer_values(new, len(plan.kept)) == expected


DEFAULT = {"rope_theta": 1e5, "rope_type": "default"}
FACTORS = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
SCALED = {"rope_theta": 5e5, "rope_type": "llama3", **FACTORS}


@pytest.mark.parametrize(
    ("config", "added"),
    [
        ({"rope_parameters": DEFAULT}, {"rope_theta": 1e5}),
        ({"rope_parameters": SCALED}, {"rope_theta": 5e5, "rope_scaling": SCALED}),
        ({"rope_parameters": DEFAULT, "rope_theta": 7.0}, {}),
        ({"rope_parameters": {"full_attention": DEFAULT}}, {}),
        ({"rope_theta": 1e4}, {}),
    ],
)
def test_fields_are_added_where_they_say_the_same(config, added):
    assert with_older_fields(config) == {**config, **added}
    assert with_older_fields({"text_config": config})["text_config"] == {**config, **added}


@pytest.mark.parametrize("rope", [DEFAULT, SCALED], ids=["default", "scaled"])
def test_a_cut_checkpoint_has_them_and_computes_the_same(rope, tmp_path):
    source = save_tiny("llama", tmp_path / "model")
    config = json.loads((source / "config.json").read_text())
    config["rope_parameters"] = rope
    config.pop("rope_theta", None)
    (source / "config.json").write_text(json.dumps(config))
    cut_checkpoint(source, CutPlan(num_layers=6, removed=(3,)), tmp_path / "cut")
    written = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert written["rope_theta"] == rope["rope_theta"] and ("rope_scaling" in written) == (rope is SCALED)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "cut").eval()
    for name in ("rope_theta", "rope_scaling"):
        written.pop(name, None)
    plain = AutoConfig.for_model(**written)
    assert model.config.rope_parameters == plain.rope_parameters
    ids = torch.arange(40)[None]
    (tmp_path / "cut" / "config.json").write_text(json.dumps(written))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, AutoModelForCausalLM.from_pretrained(tmp_path / "cut").eval()(ids).logits)
