"""Plans that transformers cannot run are refused in one line, from the command line, from Python and in memory."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from benchmarks.families import tiny_config, tiny_model, write_cut
from layercut import cut, remove_layers
from layercut.errors import InputError
from tests.support.tiny import byte_tokenizer


@pytest.mark.parametrize(
    ("model_type", "removed", "why"),
    [
        ("bamba", [2, 5], "no layer with attention would stay .* keep one of 2,5"),
        ("recurrent_gemma", [2, 5], "no layer with attention would stay .* keep one of 2,5"),
        ("granitemoehybrid", [2, 5], "no layer with attention would stay .* keep one of 2,5"),
        ("olmo_hybrid", [0, 1, 3, 4], "transformers accepts no such pruned model: .* at least one 'linear_attention'"),
    ],
)
def test_a_plan_that_no_model_of_the_type_can_have_is_refused(
    model_type: str, removed: list[int], why: str, tmp_path: Path
) -> None:
    model = tiny_model(tiny_config(model_type))
    model.save_pretrained(tmp_path / "uncut")
    byte_tokenizer().save_pretrained(tmp_path / "uncut")
    with pytest.raises(InputError, match=why):
        write_cut(tmp_path / "uncut", tuple(removed), tmp_path / "cut")
    with pytest.raises(InputError, match=why):
        cut(str(tmp_path / "uncut"), removed, tmp_path / "cut")
    with pytest.raises(InputError, match=why):
        remove_layers(copy.deepcopy(model), removed)
    assert not (tmp_path / "cut").exists()


def test_a_model_that_transformers_cannot_run_is_named_and_may_be_written_unchecked(tmp_path: Path) -> None:
    """The chunked product of transformers' xLSTM fails where keys are narrower than values."""
    tiny_model(tiny_config("xlstm")).save_pretrained(tmp_path / "uncut")
    byte_tokenizer().save_pretrained(tmp_path / "uncut")
    with pytest.raises(InputError, match="layers 1,3: .*`verify=false`"):
        cut(str(tmp_path / "uncut"), [1, 3], tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    assert cut(str(tmp_path / "uncut"), [1, 3], tmp_path / "cut", verify=False).is_dir()
