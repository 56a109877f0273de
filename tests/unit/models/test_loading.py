"""What comes out of load_model, and what it refuses instead of going on with random numbers."""

import json
import re
import resource
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from layercut.engine.stopping import stop_tokens
from layercut.errors import CheckpointError, InputError
from layercut.models.loading import load_model, load_without_weights
from layercut.models.placement import pick_device
from layercut.models.quiet import quiet_transformers
from layercut.models.sources import depth_of, describe_source, resolve_source
from layercut.models.weights import fingerprint_weights
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from tests.support.tiny import CONFIGS, NUM_LAYERS, save_tiny, tiny_model
from tests.unit.models.damage import cut_short, edit_json, edit_tensors

UP = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("whole"))


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def refused(path, **how):
    """The one line that load_model answers with."""
    with pytest.raises(InputError) as caught:
        load_model(str(path), **how)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_every_family_loads_as_it_was_saved(model_type, tmp_path):
    path = save_tiny(model_type, tmp_path / "model", max_shard_size="60KB")
    loaded = load_model(str(path), device="cpu")
    assert loaded.structure.model_type == model_type
    assert loaded.num_layers == NUM_LAYERS
    assert loaded.name == str(path)
    described = describe_source(resolve_source(str(path)))
    assert loaded.model_hash == fingerprint_weights(path)[:16] == described.model_hash
    assert depth_of(str(path)) == described.num_layers == NUM_LAYERS
    assert loaded.source.origin == {"kind": "folder"}
    assert loaded.has_chat_template
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, tiny_model(model_type)(ids).logits, rtol=0, atol=0)
    loaded.model.config.num_hidden_layers = 2
    assert loaded.num_layers == NUM_LAYERS, "a bypass does not change it"


def test_the_tokenizer_pads_on_the_left_and_a_missing_pad_token_is_lent_in_memory_only(copy):
    loaded = load_model(str(copy), device="cpu")
    assert loaded.tokenizer(["a", "abc"], padding=True)["attention_mask"] == [[0, 0, 1], [1, 1, 1]]
    assert loaded.tokenizer.pad_token == "<|pad|>"
    edit_json(copy / "tokenizer_config.json", pad_token=None)
    before = (copy / "tokenizer_config.json").read_text()
    loaded = load_model(str(copy), device="cpu")
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token == "<|im_end|>"
    assert (copy / "tokenizer_config.json").read_text() == before
    edit_json(copy / "tokenizer_config.json", pad_token=None, eos_token=None, bos_token=None)
    (copy / "chat_template.jinja").unlink()
    loaded = load_model(str(copy), device="cpu")
    assert loaded.tokenizer(["a", "abc"], padding=True)["attention_mask"] == [[0, 0, 1], [1, 1, 1]]
    assert not loaded.has_chat_template


def test_dtype_and_device(copy, caplog):
    assert load_model(str(copy), device="cpu").model.dtype == torch.float32
    assert load_model(str(copy), device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    tiny_model("llama").to(torch.float16).save_pretrained(copy)
    assert load_model(str(copy), device="cpu").model.dtype == torch.float32
    assert load_model(str(copy), device="cpu", dtype="float16").model.dtype == torch.float16
    assert "unknown dtype 'bfloat_16'" in refused(copy, dtype="bfloat_16")
    assert "unknown device 'gpu'" in refused(copy, device="gpu")
    assert "no device 'cpu:x'" in refused(copy, device="cpu:x")
    if not torch.cuda.is_available():
        assert "no device 'cuda'" in refused(copy, device="cuda") and pick_device("auto").type in ("cpu", "mps")
    loaded = load_model(str(copy), device="cpu", device_map={"": "cpu"})
    assert loaded.model.device.type == "cpu" and "no effect" in caplog.text, "a device map wins, and it is said"


def with_pickles(copy):
    (copy / "model.safetensors").unlink()
    torch.save(tiny_model("llama").state_dict(), copy / "pytorch_model.bin")


def with_tensors(change):
    return lambda copy: edit_tensors(copy / "model.safetensors", change)


def without_layer_2(tensors):
    for name in [name for name in tensors if ".layers.2." in name]:
        del tensors[name]


def without_tokenizer(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda copy: edit_json(copy / "config.json", model_type="bert"), r"\(is_decoder = false\)"),
        (lambda copy: (copy / "config.json").unlink(), r"no config\.json"),
        (with_pickles, r"only pickled weights \(pytorch_model\.bin\)"),
        (lambda copy: cut_short(copy / "model.safetensors", 1000), r"model\.safetensors is truncated"),
        (with_tensors(lambda tensors: tensors.pop(UP)), f"no weights for {UP} of the architecture.*random numbers"),
        (lambda copy: edit_json(copy / "config.json", tie_word_embeddings=False), r"no weights for lm_head\.weight"),
        (with_tensors(lambda tensors: tensors.update({UP: tensors[UP][:40]})), r"shape \[40, 32\], .*\[48, 32\]"),
        (with_tensors(without_layer_2), r"the weights hold 5 \(0-5\)"),
        (without_tokenizer, "no tokenizer"),
    ],
)
def test_what_is_not_whole_is_refused_in_one_line(copy, damage, says):
    damage(copy)
    assert re.search(says, refused(copy))


def test_a_folder_cannot_run_its_own_code(copy):
    edit_json(copy / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"})
    (copy / "evil.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\nclass Model: ...\nclass Config: ...\n")
    load_model(str(copy), device="cpu")
    assert not (copy / "ran").exists()


def test_a_tied_head_may_be_stored_too(copy):
    head = {"lm_head.weight": load_file(copy / "model.safetensors")["model.embed_tokens.weight"]}
    edit_tensors(copy / "model.safetensors", lambda tensors: tensors.update(head))
    load_model(str(copy), device="cpu")


@pytest.mark.parametrize(
    ("family", "tensor", "value", "dtype", "named"),
    [
        ("llama", UP, "nan", "float32", UP),
        ("llama", UP, "-inf", "bfloat16", UP),
        # transformers stacks the experts of a Mixtral into one parameter
        ("mixtral", "model.layers.3.block_sparse_moe.experts.1.w3.weight", "inf", "float32", "layers.3.mlp.experts"),
        ("llama", UP, "1e6", "float16", UP),  # more than it can hold
    ],
)
def test_not_a_number_is_found_and_named(tmp_path, family, tensor, value, dtype, named):
    path = save_tiny(family, tmp_path / "model")
    edit_tensors(path / "model.safetensors", lambda tensors: tensors[tensor].view(-1)[-1].fill_(float(value)))
    assert re.search(rf"{named}.* holds NaN or infinite numbers in torch.{dtype}", refused(path, dtype=dtype))


def test_loading_is_quiet_and_leaves_transformers_as_it_was(copy, capfd):
    hf_logging.set_verbosity_info()
    try:
        load_model(str(copy), device="cpu")
        assert capfd.readouterr() == ("", "")
        assert hf_logging.get_verbosity() == hf_logging.INFO
        AutoModelForCausalLM.from_pretrained(copy)
        assert "Loading weights" in capfd.readouterr().err
    finally:
        hf_logging.set_verbosity_warning()


def test_quiet_puts_everything_back_after_an_error():
    before = hf_logging.get_verbosity(), list(warnings.filters), hf_logging.is_progress_bar_enabled()
    with pytest.raises(RuntimeError), quiet_transformers():
        raise RuntimeError
    assert before == (hf_logging.get_verbosity(), list(warnings.filters), hf_logging.is_progress_bar_enabled())


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("num_hidden_layers", 5, "counts 5 decoder layers (num_hidden_layers), the weights hold 6 (0-5)"),
        ("num_hidden_layers", 7, "counts 7 decoder layers (num_hidden_layers), the weights hold 6 (0-5)"),
        ("num_hidden_layers", None, "num_hidden_layers = None"),
        ("num_hidden_layers", 10**9, "counts 1000000000 decoder layers (num_hidden_layers), the weights hold"),
        ("num_hidden_layers", "6", "says num_hidden_layers = '6', and the weights hold 6"),
        ("num_hidden_layers", 6.5, "says num_hidden_layers = 6.5, and"),
        ("num_hidden_layers", [6], "says num_hidden_layers = [6], and"),
        ("model_type", [], "is of the type [], which transformers"),
        ("vocab_size", 10, "Padding_idx must be within num_embeddings"),
        ("vocab_size", 10**7, "describes a model of"),
        ("hidden_size", 10**9, "describes a model of"),
        ("hidden_size", "32", "expected int, got str"),
        ("intermediate_size", 10**7, "describes a model of 5,760,0"),
        ("intermediate_size", "48", "expected int, got str"),
        ("num_key_value_heads", 10**7, "describes a model of"),
        ("num_key_value_heads", 0, "says num_key_value_heads = 0; it must be 1 or more"),
        ("head_dim", 10**18, "transformers cannot build "),
        ("pad_token_id", 260, "Padding_idx must be within num_embeddings"),
        ("hidden_act", "martian", "transformers cannot build "),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused_before_anything_is_built(copy, field, value, says):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {field: value}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert says in refused(copy, device="cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_more_experts_for_a_token_than_there_are(tmp_path):
    path = save_tiny("mixtral", tmp_path / "model")
    edit_json(path / "config.json", num_experts_per_tok=5)
    assert "num_experts_per_tok = 5" in refused(path)


def test_a_tokenizer_of_another_model(copy):
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(copy)
    says = "it gives the token '<new>' the id 260, and the model has embeddings for 260 tokens (0-259)"
    assert says in refused(copy)
    with pytest.raises(InputError) as caught:
        load_without_weights(resolve_source(str(copy)))
    assert says in str(caught.value)


def test_a_cut_is_refused_in_one_line_as_well(copy):
    edit_json(copy / "config.json", num_hidden_layers=10**9)
    with pytest.raises(InputError, match="num_hidden_layers = 1000000000"):
        plan_cut(copy, CutPlan(num_layers=NUM_LAYERS, removed=(1,)))
    edit_json(copy / "config.json", num_hidden_layers=NUM_LAYERS, rms_norm_eps=[])
    with pytest.raises(InputError, match="rms_norm_eps.* expected float") as caught:
        plan_cut(copy, CutPlan(num_layers=NUM_LAYERS, removed=(1,)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_it_knows_of_a_model_what_the_loaded_one_knows(family: str, tmp_path: Path) -> None:
    source = resolve_source(str(save_tiny(family, tmp_path / "tiny")))
    loaded, found = load_model(source, device="cpu"), load_without_weights(source, device="cpu")
    for name in ("name", "structure", "model_hash", "num_layers", "context_length", "dtype", "has_chat_template"):
        assert getattr(found, name) == getattr(loaded, name)
    stops = stop_tokens(found.tokenizer, found.generation_config)
    assert stops == stop_tokens(loaded.tokenizer, loaded.model.generation_config)


def test_without_weights_a_missing_generation_config_is_made_up_for_and_other_gaps_are_refused(copy: Path) -> None:
    (copy / "generation_config.json").unlink()
    assert load_without_weights(resolve_source(str(copy)), device="cpu").generation_config.eos_token_id == 259
    with pytest.raises(InputError, match="unknown dtype 'float8'"):
        load_without_weights(resolve_source(str(copy)), dtype="float8")
    without_tokenizer(copy)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_without_weights(resolve_source(str(copy)), device="cpu")


def test_its_own_dtype_is_that_of_the_config_or_of_the_weights(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layercut.models.loading.pick_torch_dtype", lambda _, dtype, **__: dtype)  # as on a GPU
    for named, expected in (("bfloat16", "bfloat16"), (None, "float32")):
        edit_json(copy / "config.json", dtype=named)
        assert load_without_weights(resolve_source(str(copy))).dtype == expected
    assert load_without_weights(resolve_source(str(copy)), dtype="float16").dtype == "float16"
