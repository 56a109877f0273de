"""Cut on disk = bypassed in memory, for every family: logits, text, tensors; and the folder itself."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from layercut.surgery.checkpoint import cut_checkpoint, plan_cut
from layercut.surgery.config_fields import LISTS
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, remove_layers
from layercut.surgery.verify import verify_checkpoint
from tests.support.surgery import PLANS, Loaded, generate, logits_of, plan_of
from tests.support.tiny import CONFIGS, NUM_LAYERS, save_tiny, tiny_model

families = pytest.mark.parametrize("model_type", CONFIGS)
plans = pytest.mark.parametrize("removed", PLANS.values(), ids=PLANS.keys())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of every family, written once, on first use."""
    folder = tmp_path_factory.mktemp("uncut")
    return lambda model_type: path if (path := folder / model_type).is_dir() else save_tiny(model_type, path)


def reload(path):
    return AutoModelForCausalLM.from_pretrained(path).eval()


def tensors_in(folder):
    """All tensors of a checkpoint folder, by name."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@families
@plans
def test_bypass_equals_cut_equals_reloaded(model_type, removed, saved, tmp_path):
    plan = plan_of(removed)
    whole, cut = tiny_model(model_type), remove_layers(tiny_model(model_type), plan)
    report = cut_checkpoint(saved(model_type), plan, tmp_path / "cut")
    reloaded = reload(report.out)
    with bypass(whole, plan):
        expected = logits_of(whole)
        text = generate(whole, use_cache=True)
    assert torch.equal(logits_of(cut), expected)
    assert torch.equal(logits_of(reloaded), expected)
    assert generate(reloaded, use_cache=True) == generate(reloaded, use_cache=False) == text
    assert verify_checkpoint(Loaded(whole), plan, report.out).max_abs_diff == 0
    for name in LISTS:
        assert getattr(reloaded.config, name, None) == getattr(cut.config, name, None)


@families
def test_cutting_nothing_copies_the_model(model_type, saved, tmp_path):
    source = saved(model_type)
    report = cut_checkpoint(source, plan_of(()), tmp_path / "cut")
    assert (report.out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    whole, written = (json.loads((folder / "config.json").read_text()) for folder in (source, report.out))
    older = {name: written.pop(name) for name in ("rope_theta",) if name in written and name not in whole}
    assert written == whole and all(whole["rope_parameters"][name] == value for name, value in older.items())
    assert torch.equal(logits_of(reload(report.out)), logits_of(tiny_model(model_type)))


@families
def test_many_shards_into_many_shards(model_type, tmp_path):
    plan = plan_of((0, 3))
    source = save_tiny(model_type, tmp_path / "uncut", max_shard_size="20KB")
    assert len(list(source.glob("*.safetensors"))) > 3
    report = cut_checkpoint(source, plan, tmp_path / "cut", max_shard_bytes=30_000)
    assert len(report.shards) > 3
    assert sorted(report.shards) == sorted(path.name for path in report.out.glob("*.safetensors"))
    for shard in report.shards:
        sizes = [tensor.nbytes for tensor in load_file(report.out / shard).values()]
        assert sum(sizes) <= 30_000 or len(sizes) == 1

    index = json.loads((report.out / "model.safetensors.index.json").read_text())
    tensors = tensors_in(report.out)
    assert index["weight_map"].keys() == tensors.keys()
    for name, shard in index["weight_map"].items():
        with safe_open(report.out / shard, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert name in file.keys()  # noqa: SIM118 (no mapping)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values()) == report.bytes_after
    assert index["metadata"]["total_parameters"] == reload(report.out).num_parameters() == report.parameters_after

    one_file = cut_checkpoint(source, plan, tmp_path / "one")
    assert one_file.shards == ("model.safetensors",)
    assert not (one_file.out / "model.safetensors.index.json").exists()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in tensors_in(one_file.out).items())
    assert torch.equal(logits_of(reload(report.out)), logits_of(remove_layers(tiny_model(model_type), plan)))


@families
def test_every_tensor_is_there_under_its_new_name_and_no_other(model_type, saved, tmp_path):
    before = tensors_in(saved(model_type))
    after = tensors_in(cut_checkpoint(saved(model_type), plan_of((4, 0)), tmp_path / "cut").out)
    base = {"gpt2": "transformer.h.", "gpt_neox": "gpt_neox.layers."}.get(model_type, "model.layers.")
    expected = {}
    for name, tensor in before.items():
        if not name.startswith(base):
            expected[name] = tensor
            continue
        old, rest = name.removeprefix(base).split(".", 1)
        if int(old) not in (4, 0):
            expected[f"{base}{(1, 2, 3, 5).index(int(old))}.{rest}"] = tensor
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("model_type", "prefix"), [("gpt2", "transformer."), ("gpt_neox", "gpt_neox."), ("llama", "model.")]
)
def test_checkpoints_of_the_base_model_alone(model_type, prefix, saved, tmp_path):
    """As gpt2 lies on the hub: ``h.0.ln_1.weight``, plus the mask buffers of old transformers."""
    source = tmp_path / "uncut"
    source.mkdir()
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors_in(saved(model_type)).items()}
    if model_type == "gpt2":
        tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8).tril() for i in range(NUM_LAYERS)}
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    (source / "config.json").write_bytes((saved(model_type) / "config.json").read_bytes())
    plan = plan_of((1, 2))
    report = cut_checkpoint(source, plan, tmp_path / "cut")
    names = tensors_in(report.out)
    assert len(names) == report.tensors_after < report.tensors_before == len(tensors)
    assert not any(name.startswith(prefix) for name in names)
    assert torch.equal(logits_of(reload(report.out)), logits_of(remove_layers(tiny_model(model_type), plan)))
    assert report.parameters_after == reload(report.out).num_parameters()


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "gemma2", "gemma3_text", "olmo3"])
def test_kinds_that_config_json_leaves_to_the_family(model_type, saved, tmp_path):
    """Hub configs of these families often lack layer_types; each layer keeps the kind that its place once gave it."""
    source = tmp_path / "uncut"
    source.mkdir()
    config = json.loads((saved(model_type) / "config.json").read_text())
    del config["layer_types"]
    (source / "config.json").write_text(json.dumps(config))
    (source / "model.safetensors").write_bytes((saved(model_type) / "model.safetensors").read_bytes())
    whole, plan = reload(source), plan_of((0, 1, 4))
    reloaded = reload(cut_checkpoint(source, plan, tmp_path / "cut").out)
    assert reloaded.config.layer_types == [whole.config.layer_types[i] for i in plan.kept]
    with bypass(whole, plan):
        assert torch.equal(logits_of(reloaded), logits_of(whole))


@families
def test_cut_twice_is_cut_once(model_type, saved, tmp_path):
    first = cut_checkpoint(saved(model_type), plan_of((1, 4)), tmp_path / "first")
    second_plan = CutPlan(num_layers=4, removed=(0,))
    second = cut_checkpoint(first.out, second_plan, tmp_path / "second")
    at_once = cut_checkpoint(saved(model_type), plan_of((0, 1, 4)), tmp_path / "at once")
    assert torch.equal(logits_of(reload(second.out)), logits_of(reload(at_once.out)))
    earlier = json.loads((second.out / "earlier_plans.json").read_text())
    assert [plan["removed"] for plan in earlier] == [[1, 4]]
    third = cut_checkpoint(second.out, CutPlan(num_layers=3, removed=(2,)), tmp_path / "third")
    assert [p["removed"] for p in json.loads((third.out / "earlier_plans.json").read_text())] == [[1, 4], [0]]


@families
def test_a_dry_run_says_what_the_cut_will_be_and_tied_weights_stay_tied(model_type, saved, tmp_path):
    plan = plan_of((2, 5))
    foreseen = plan_cut(saved(model_type), plan)
    report = cut_checkpoint(saved(model_type), plan, tmp_path / "cut")
    assert foreseen.out is None
    assert foreseen.checked == "" and "names, shapes and dtypes" in report.checked
    assert replace(foreseen, out=report.out, checked=report.checked) == report
    model, tensors = reload(report.out), tensors_in(report.out)
    assert report.parameters_before == tiny_model(model_type).num_parameters()
    assert report.parameters_after == model.num_parameters()
    assert report.bytes_after == sum(tensor.nbytes for tensor in tensors.values())
    tied = model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
    assert tied == model.config.tie_word_embeddings == (model_type in {"llama", "gpt2"})
    assert any("lm_head" in name or "embed_out" in name for name in tensors) != tied


def test_the_tokenizer_and_its_chat_template_come_along(saved, tmp_path):
    report = cut_checkpoint(saved("llama"), plan_of((2,)), tmp_path / "cut")
    before, after = (AutoTokenizer.from_pretrained(path) for path in (saved("llama"), report.out))
    messages = [{"role": "user", "content": "Grüße"}]
    assert after.apply_chat_template(messages, tokenize=False) == before.apply_chat_template(messages, tokenize=False)
    assert after("Grüße <|im_end|>").input_ids == before("Grüße <|im_end|>").input_ids
