"""mergekit's passthrough slices: read as a plan, written from one, and refused where they are more than that."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from layercut.errors import InputError
from layercut.selection.specs import LayerSpec
from layercut.surgery.channels import Channels
from layercut.surgery.mergekit import read_slices, to_mergekit
from layercut.surgery.plan import CutPlan

# As in mergekit's README, with the layers that most pruned checkpoints on the hub leave out.
PUBLISHED = """
slices:
  - sources:
      - model: meta-llama/Meta-Llama-3-70B
        layer_range: [0, 45]
  - sources:
      - model: meta-llama/Meta-Llama-3-70B
        layer_range: [74, 80]
merge_method: passthrough
dtype: bfloat16
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "merge.yaml"
    file.write_text(text)
    return file


def test_half_open_ranges_are_what_stays(tmp_path):
    spec = LayerSpec.parse(written(tmp_path, PUBLISHED))
    assert spec.bind(num_layers=80).removed == tuple(range(45, 74)) and not spec.is_open
    with pytest.raises(InputError, match="keeps layers up to 79; this model has 32"):
        spec.bind(num_layers=32)


@pytest.mark.parametrize("removed", [(3,), (0,), (7,), (2, 3, 5), (6, 7, 1), ()])
def test_a_plan_comes_back_from_what_is_written(tmp_path, removed):
    text = to_mergekit(CutPlan(num_layers=8, removed=removed), "me/model", "float16")
    assert LayerSpec.parse(written(tmp_path, text)).bind(num_layers=8).removed == tuple(sorted(removed))
    data = yaml.safe_load(text)
    assert (data["merge_method"], data["dtype"]) == ("passthrough", "float16")
    assert {one["sources"][0]["model"] for one in data["slices"]} == {"me/model"}
    thin = Channels(field="intermediate_size", width=8, kept=dict.fromkeys(range(8), (0, 1, 2, 3)))
    with pytest.raises(InputError, match="mergekit removes no MLP channels"):
        to_mergekit(CutPlan(num_layers=8, removed=removed, channels=thin), "m", "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("passthrough", "slerp"), "is no mergekit configuration of the merge method passthrough"),
        (("[74, 80]", "[40, 80]"), "repeats layers, or names them out of order"),
        (("[74, 80]", "[80, 74]"), "repeats layers, or names them out of order"),
        (("[74, 80]", "74"), "needs one source with a layer_range"),
        (("[74, 80]", "[74, 80]\n        parameters: {scale: 2}"), "parameters of a source"),
        (("dtype: bfloat16", "parameters: {scale: 2}"), "parameters of the file changes"),
        (("dtype: bfloat16", "3: 4\n? [a]\n: 5"), "cannot be read as a mergekit configuration"),
        (("dtype: bfloat16", "3: 4\nnull: 5"), "3, None of the file changes"),
        (("\n  - sources:", "\n  - parameters: {scale: 2}\n    sources:"), "parameters of a slice changes"),
        (("[0, 45]", "[-10000000000, 45]"), "needs one source with a layer_range"),
        (("[0, 45]", "[-4, 26]"), "needs one source with a layer_range"),
        (("3-70B\n", "3-70B+me/lora\n"), "the model of a slice must be one name"),
        (("model: meta-llama/Meta-Llama-3-70B\n        layer", "layer"), "the model of a slice must be"),
        (
            ("3-70B\n        layer_range: [74", "3-8B\n        layer_range: [74"),
            "takes layers of 2 models, meta-llama/Meta",
        ),
        (("merge_method: passthrough", "merge_method: [passthrough"), "cannot be read as a mergekit configuration"),
    ],
)
def test_more_than_layers_is_refused_in_one_line(tmp_path, change, message):
    text = PUBLISHED.replace(*change)
    with pytest.raises(InputError) as caught:
        read_slices(written(tmp_path, text))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_reads_and_writes_them(tmp_path, layercut):
    from tests.support.pruning import spare_model

    model, file = spare_model(tmp_path / "model"), tmp_path / "merge.yaml"
    wrote = layercut("cut", model, "--remove", "2-3", "--mergekit", file)
    assert wrote.code == 0 and "no checkpoint was written" in wrote.out
    assert "leave out their end" in wrote.err + wrote.out
    assert [one["sources"][0]["layer_range"] for one in yaml.safe_load(file.read_text())["slices"]] == [[0, 2], [4, 6]]
    again = layercut("cut", model, "--remove", "2", "--mergekit", file)
    assert again.code == 0 and "[3, 6]" in file.read_text(), "layercut replaces what it wrote"
    before = (model / "config.json").read_bytes()
    for other, message in ((model / "config.json", "was not written by layercut"), (model, "is a folder")):
        refused = layercut("cut", model, "--remove", "2-3", "--mergekit", other)
        assert refused.code == 1 and message in refused.err and "Traceback" not in refused.err
    assert (model / "config.json").read_bytes() == before
    file.unlink()
    layercut("cut", model, "--remove", "2-3", "--mergekit", file)
    cut = layercut("cut", model, "--remove", file, "--out", tmp_path / "cut")
    assert cut.code == 0, cut.err
    assert CutPlan.load(tmp_path / "cut" / "plan.json").removed == (2, 3)
