"""Quantised and sharded checkpoints: bytes are copied, and what names layers follows the layers that stay."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.quantizers.quantizers_utils import should_convert_module

from layercut.errors import CheckpointError, InputError, VerificationError
from layercut.models.loading import load_model
from layercut.models.sources import resolve_source
from layercut.models.structure import Structure
from layercut.models.weights import read_header, safetensors_files
from layercut.surgery import shards as writing
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.config_fields import QUANTIZED_FIELDS, LayerNumbers, follow_config, rename_modules
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from tests.support import quantized, tiny
from tests.support.quantized import save_quantized

PLAN = CutPlan(num_layers=6, removed=(1, 4))
NEW = {0: 0, 2: 1, 3: 2, 5: 3}


def in_layers(*layers: int) -> Callable[[str], bool]:
    """Whether a module is in one of these layers."""
    return lambda name: (layer := re.search(r"layers\.(\d+)\.", name)) is not None and int(layer[1]) in layers


def whole_down(name: str) -> bool:
    return name.endswith("layers.3.mlp.down_proj")


class Case(NamedTuple):
    layout: Callable[..., Any]
    is_whole: Callable[[str], bool]
    config: dict[str, Any] | None
    files: dict[str, Any]
    wanted: dict[str, Any]
    """What must be in the config, or a file, afterwards: keys joined by a slash, and their values."""
    says_whole: Callable[[Path, str], bool] | None
    """Whether the written files leave a module unquantised, as the reader of the format decides it."""


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return config


def by_transformers(field: str) -> Callable[[Path, str], bool]:
    return lambda folder, module: not should_convert_module(module, config_of(folder)[field])


def by_compressed_tensors(folder: Path, module: str) -> bool:
    entries = config_of(folder)["ignore"]
    return any(re.match(entry[3:], module) if entry.startswith("re:") else entry == module for entry in entries)


def by_modelopt(folder: Path, module: str) -> bool:
    entries = json.loads((folder / "hf_quant_config.json").read_text())["quantization"]["exclude_modules"]
    return any(fnmatch.fnmatchcase(module, entry) for entry in entries)


def by_gptq(folder: Path, module: str) -> bool:
    """GPTQModel: the first expression that matches from the beginning decides; ``-:`` leaves out."""
    for entry in config_of(folder)["dynamic"]:
        if re.match(entry[2:] if entry[1:2] == ":" else entry, module):
            return str(entry).startswith("-:")
    return False


CASES = {
    "fp8": Case(
        quantized.fp8, lambda name: whole_down(name) or "layers.1.mlp" in name,
        {"quant_method": "fp8", "weight_block_size": [16, 16],
         "modules_to_not_convert": ["lm_head", "model.layers.3.mlp.down_proj", "model.layers.1.mlp"]},
        {}, {"config/modules_to_not_convert": ["lm_head", "model.layers.2.mlp.down_proj"]},
        by_transformers("modules_to_not_convert"),
    ),
    "awq": Case(
        quantized.awq, in_layers(0, 5),
        {"quant_method": "awq", "bits": 4, "group_size": 16, "modules_to_not_convert": ["model.layers.0", "layers.5"]},
        {"quant_config.json": {"w_bit": 4, "modules_to_not_convert": ["model.layers.0", "model.layers.4"]}},
        {"config/modules_to_not_convert": ["model.layers.0", "layers.3"],
         "quant_config.json/modules_to_not_convert": ["model.layers.0"]},
        None,  # AutoAWQ looks for the entry anywhere in the name
    ),
    "gptq": Case(
        quantized.gptq, in_layers(0, 2, 4),
        {"quant_method": "gptq", "bits": 4,
         "modules_in_block_to_quantize": [["self_attn.k_proj", "self_attn.q_proj"], ["mlp.down_proj"]],
         "dynamic": {**{rf"-:model\.layers\.{n}\..*": {} for n in (0, 2, 4)}, r"+:.*\.layers\.5\.mlp.*": {"bits": 8},
                     r".*down_proj": {"bits": 8}}},
        {"quantize_config.json": {
            "bits": 4, "dynamic": {r"-:model\.layers\.2\..*": {}, r"-:model\.layers\.1\..*": {}}}},
        {"config/modules_in_block_to_quantize": [["self_attn.k_proj", "self_attn.q_proj"], ["mlp.down_proj"]],
         "quantize_config.json/dynamic": {r"-:model\.layers\.1\..*": {}}},
        by_gptq,
    ),
    "compressed-tensors": Case(
        quantized.compressed, in_layers(0, 1, 5),
        {"quant_method": "compressed-tensors", "format": "pack-quantized",
         "ignore": ["lm_head", r"re:.*layers\.0\..*", "re:.*layers.1.*_proj$", r"re:.*layers\.5.*_proj$",
                    "model.layers.1.mlp.up_proj"],
         "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4}},
            "group_1": {"targets": [r"re:.*layers\.4\..*"], "weights": {"num_bits": 8}},
            "group_2": {"targets": [r"re:.*layers\.3\..*", "model.layers.2.mlp.up_proj"], "weights": {"num_bits": 8}}}},
        {},
        {"config/config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4}},
            "group_2": {"targets": [r"re:.*layers\.2\..*", "model.layers.1.mlp.up_proj"], "weights": {"num_bits": 8}}}},
        by_compressed_tensors,
    ),
    "bitsandbytes": Case(
        quantized.bnb, lambda name: whole_down(name) or name.endswith("layers.4.self_attn.q_proj"),
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
         "llm_int8_skip_modules": ["lm_head", "model.layers.3.mlp.down_proj", "model.layers.4.self_attn.q_proj"]},
        {}, {"config/llm_int8_skip_modules": ["lm_head", "model.layers.2.mlp.down_proj"]},
        by_transformers("llm_int8_skip_modules"),
    ),
    "modelopt": Case(
        quantized.modelopt, in_layers(0, 1, 3),
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head", "model.layers.0*", "model.layers.3*"]},
        {"hf_quant_config.json": {"producer": {"name": "modelopt"}, "quantization": {
            "quant_algo": "FP8",
            "exclude_modules": ["lm_head", "model.layers.0*", "model.layers.3.*", "model.layers.1*"],
            "quantized_layers": {"model.layers.5.mlp.up_proj": {"quant_algo": "FP8"}, "model.layers.4.mlp": {}}}}},
        {"config/ignore": ["lm_head", "model.layers.0*", "model.layers.2*"],
         "hf_quant_config.json/quantization/exclude_modules": ["lm_head", "model.layers.0*", "model.layers.2.*"],
         "hf_quant_config.json/quantization/quantized_layers": {"model.layers.3.mlp.up_proj": {"quant_algo": "FP8"}}},
        by_modelopt,
    ),
}  # fmt: skip


def source_of(name: str, folder: Path) -> Path:
    case = CASES[name]
    return save_quantized(folder, case.layout, case.is_whole, case.config, case.files)


def raw(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """dtype, shape and bytes of every tensor."""
    found = {}
    for file in set(safetensors_files(folder).values()):
        header, data = read_header(file), file.read_bytes()
        for name, entry in header.tensors.items():
            found[name] = (entry.dtype, entry.shape, data[entry.offset : entry.offset + entry.num_bytes])
    return found


@pytest.mark.parametrize("name", CASES)
def test_bytes_stay_and_the_config_says_of_every_module_what_its_tensors_are(tmp_path, name):
    case, source, out = CASES[name], source_of(name, tmp_path / "whole"), tmp_path / "cut"
    report = cut_checkpoint(source, PLAN, out, max_shard_bytes=20_000)
    tensors = {source: raw(source), out: raw(out)}
    wanted = {}
    for tensor, value in tensors[source].items():
        layer = re.search(r"layers\.(\d+)\.", tensor)
        if layer is None or int(layer[1]) in NEW:
            new = tensor if layer is None else tensor.replace(layer[0], f"layers.{NEW[int(layer[1])]}.")
            wanted[new] = value
    assert tensors[out] == wanted
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(report.shards) > 1 and set(index["weight_map"]) == set(wanted)
    for tensor, file in index["weight_map"].items():
        with safe_open(out / file, framework="pt") as shard:
            assert tensor in shard.keys()  # noqa: SIM118 - not a dictionary
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 4
    for place, value in case.wanted.items():
        file, *keys = place.split("/")
        written = config_of(out) if file == "config" else json.loads((out / file).read_text())
        for key in keys:
            written = written[key]
        assert written == value, place
    for folder, num_layers in ((source, 6), (out, 4)) if case.says_whole else ():
        modules = {tensor[: tensor.index("_proj") + 5] for tensor in tensors[folder] if "_proj" in tensor}
        assert len(modules) == 7 * num_layers
        for module in modules:
            is_whole = tensors[folder].get(f"{module}.weight", ("",))[0] == "BF16"
            assert case.says_whole(folder, module) == is_whole, module


def numbers(*removed: int, layers: str = "model.layers", section: str = "") -> LayerNumbers:
    structure = Structure(model_type="any", layers=layers, section=section)
    return LayerNumbers(CutPlan(num_layers=12, removed=removed), structure)


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        (
            ["lm_head", "model.layers.11", "model.layers.1.mlp", "model.layers.10.mlp"],
            ["lm_head", "model.layers.10", "model.layers.9.mlp"],
        ),
        (["model.layers.12.mlp.up"], ["model.layers.11.mlp.up"]),  # behind the decoder layers
        (["layers.3.mlp.up", "model.layers.2"], ["layers.2.mlp.up", "model.layers.1"]),
        (["re:.*mlp.*", "re:.*vision.*", "re:.*q$"], ["re:.*mlp.*", "re:.*vision.*", "re:.*q$"]),
        ([r"re:.*layers\.1\..*"], []),
        ([r"re:model.layers.5.mlp.(up|down)"], [r"re:model.layers.4.mlp.(up|down)"]),
        (["model.layers.3*", "model.layers.4.*"], ["model.layers.2*", "model.layers.3.*"]),
        (["*.mlp.*", "model.layers.*"], ["*.mlp.*", "model.layers.*"]),
        ([r"model\.layers\.\d+\.mlp\.up"], [r"model\.layers\.\d+\.mlp\.up"]),
        ([r"re:.*layers.(\w+).mlp"], [r"re:.*layers.(\w+).mlp"]),
        (["Linear", "gate("], ["Linear", "gate("]),
        ([r"re:.*layers\.3\.experts\.5\.qkv", r"re:.*layers\.1\.attn"], [r"re:.*layers\.2\.experts\.5\.qkv"]),
        (["model.layers.2.mlp.up.weight", "layers.1.mlp.up.weight"], ["model.layers.1.mlp.up.weight"]),
        (["model.vision.encoder.layers.3.mlp"], ["model.vision.encoder.layers.3.mlp"]),
    ],
)
def test_entries(entries, wanted):
    assert rename_modules(entries, numbers(1), "ignore") == wanted


@pytest.mark.parametrize(
    "entry",
    [
        r"re:.*\.layers\.1[01]\..*", r"re:^model\.layers\.(?:1|2)\.mlp", r"re:.*layers\.[23]\.mlp", "re:.*layers.1.*up",
        r"re:.*\.5\.mlp.*", "*.3.mlp", "model.layers.1*",
    ],
)  # fmt: skip
def test_an_expression_that_picks_layers_by_more_than_a_number_is_refused(entry):
    with pytest.raises(InputError, match="ignore has the entry .* more than one number"):
        rename_modules([entry], numbers(3), "ignore")


def test_other_towers_keep_their_numbers():
    own = numbers(1, layers="model.language_model.layers", section="text_config")
    tower, names = "model.vision_tower.encoder.layers.3.mlp.up", ["model.language_model.layers.3.mlp.up", "layers.3"]
    new = ["model.language_model.layers.2.mlp.up", "layers.2"]
    assert rename_modules([tower, *names], own, "ignore") == [tower, *new]
    with pytest.raises(InputError, match="one by one"):
        rename_modules([r"re:.*layers\.3\..*"], own, "ignore")


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (  # AutoRound
            {"block_name_to_quantize": "model.layers", "extra_config": {"model.layers.3.mlp.up": {"bits": 16}}},
            {"block_name_to_quantize": "model.layers", "extra_config": {"model.layers.2.mlp.up": {"bits": 16}}},
        ),
        (  # VPTQ
            {"config_for_layers": {"model.layers.1.mlp.up": {"a": 1}, "model.layers.2.mlp.up": {"a": 2}}},
            {"config_for_layers": {"model.layers.1.mlp.up": {"a": 2}}},
        ),
        (  # MLX
            {"group_size": 64, "bits": 4, "model.layers.0.mlp.up": {"bits": 8}, "model.layers.11.mlp.up": False},
            {"group_size": 64, "bits": 4, "model.layers.0.mlp.up": {"bits": 8}, "model.layers.10.mlp.up": False},
        ),
        (  # compressed-tensors: a group for removed layers alone goes
            {"config_groups": {"a": {"targets": ["model.layers.1.mlp"]}, "b": {"targets": ["Linear"]}}},
            {"config_groups": {"b": {"targets": ["Linear"]}}},
        ),
        (  # GPTQModel
            {r"+:model\.layers\.3\.mlp\.up": {"bits": 8}, r"-:model\.layers\.1\..*": {}},
            {r"+:model\.layers\.2\.mlp\.up": {"bits": 8}},
        ),
    ],
    ids=["AutoRound", "VPTQ", "MLX", "compressed-tensors", "GPTQModel"],
)
def test_other_formats(config, wanted):
    assert rename_modules(config, numbers(1), "quantization_config") == wanted


@pytest.mark.parametrize("field", QUANTIZED_FIELDS)
def test_a_model_in_memory_follows_the_same_rule(field):
    model = tiny.tiny_model("llama")
    given = {
        "quant_method": "awq",
        "modules_to_not_convert": ["lm_head", "model.layers.1.mlp", "model.layers.3.mlp.down_proj", "layers.5"],
        "dynamic": {r"-:model\.layers\.3\.mlp\.up_proj": {}},
        "per_module": {"model.layers.4.mlp": {"bits": 8}, "model.layers.5.mlp": {"bits": 4}},
    }
    setattr(model.config, field, given)
    with bypass(model, PLAN):
        assert getattr(model.config, field) == {
            "quant_method": "awq",
            "modules_to_not_convert": ["lm_head", "model.layers.2.mlp.down_proj", "layers.3"],
            "dynamic": {r"-:model\.layers\.2\.mlp\.up_proj": {}},
            "per_module": {"model.layers.3.mlp": {"bits": 4}},
        }
    assert getattr(model.config, field) is given


def test_nested_configs_follow_and_lists_of_numbers_are_refused():
    def nested(num_layers: int, entry: str) -> dict[str, Any]:
        text = {"num_hidden_layers": num_layers, "quantization_config": {"ignore": [entry]}}
        return {"text_config": text, "a": {"b": 1}}

    found = follow_config(nested(11, "model.layers.3"), nested(12, "model.layers.3"), numbers(1))
    assert found == nested(11, "model.layers.2")
    with pytest.raises(InputError, match="quantization_config.bits has 12 numbers"):
        rename_modules({"bits": [4] * 12}, numbers(1), "quantization_config")


def test_a_format_that_cannot_run_here_says_how_to_cut_it_all_the_same(tmp_path):
    source = source_of("awq", tmp_path / "whole")

    def fails() -> Any:
        raise CheckpointError("cannot be loaded by transformers: Loading it requires another library.")

    with pytest.raises(CheckpointError, match="`verify=false`"):
        cut_model(resolve_source(str(source)), PLAN, tmp_path / "cut", uncut=fails)
    assert not (tmp_path / "cut").exists()
    done = cut_model(resolve_source(str(source)), PLAN, tmp_path / "cut", uncut=None)
    assert done.verified.startswith(f"{len(raw(tmp_path / 'cut'))} tensors have the names, shapes and dtypes")
    assert done.verified in (tmp_path / "cut" / "README.md").read_text()
    again = resolve_source(str(source_of("fp8", tmp_path / "fp8")))  # which transformers runs
    done = cut_model(again, PLAN, tmp_path / "fp8 cut", uncut=lambda: load_model(again, device="cpu"))
    assert "by at most 0 " in done.verified


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_itself_runs_what_was_cut(tmp_path, monkeypatch, bits):
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes, which runs on CPUs too")
    wide = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}  # blocks of 64 values
    monkeypatch.setitem(tiny.CONFIGS, "llama", tiny.CONFIGS["llama"] | wide)
    whole = tiny.save_tiny("llama", tmp_path / "whole")
    skipped = ["lm_head", "model.layers.3.mlp.down_proj"]
    settings = BitsAndBytesConfig(
        load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_use_double_quant=True, llm_int8_skip_modules=skipped
    )
    packed = tmp_path / "packed"
    model = AutoModelForCausalLM.from_pretrained(whole, quantization_config=settings, dtype=torch.bfloat16)
    model.save_pretrained(packed)
    tiny.byte_tokenizer().save_pretrained(packed)
    source = resolve_source(str(packed))
    done = cut_model(source, PLAN, tmp_path / "cut", uncut=lambda: load_model(source, device="cpu"))
    assert "by at most 0 " in done.verified
    assert config_of(tmp_path / "cut")["llm_int8_skip_modules"] == ["lm_head", "model.layers.2.mlp.down_proj"]


def test_a_damaged_file_beside_the_config(tmp_path):
    source = save_quantized(tmp_path / "whole", quantized.awq, whole_down, {"quant_method": "awq"})
    (source / "quant_config.json").write_text("{")
    with pytest.raises(InputError, match=r"quant_config\.json is damaged"):
        cut_checkpoint(source, PLAN, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize("what", ["a name", "a dtype", "the index", "a file"])
def test_a_folder_that_came_out_wrong_is_never_kept(tmp_path, monkeypatch, what):
    source = save_quantized(tmp_path / "whole", quantized.fp8, whole_down, None)
    write = writing.write_shards

    def write_wrong(shards: Any, folder: Path, *more: Any) -> None:
        write(shards, folder, *more)
        files = sorted(folder.glob("*.safetensors"))
        if what == "the index":
            index = json.loads((folder / "model.safetensors.index.json").read_text())
            index["metadata"]["total_size"] += 1
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        elif what == "a file":
            files[1].unlink()
        else:
            old, new = {"a name": (b"layers.0.mlp", b"layers.9.mlp"), "a dtype": (b'"F8_E4M3"', b'"F8_E5M2"')}[what]
            file = next(one for one in files if old in one.read_bytes())
            file.write_bytes(file.read_bytes().replace(old, new, 1))

    monkeypatch.setattr(writing, "write_shards", write_wrong)
    with pytest.raises((VerificationError, InputError)):
        cut_checkpoint(source, PLAN, tmp_path / "cut", max_shard_bytes=20_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]
