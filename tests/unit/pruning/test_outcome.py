"""The checkpoint of prune: it is the one that was verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from layercut.errors import InputError
from tests.unit.pruning.conftest import DEPTHS, run
from tests.unit.pruning.test_job import found


def test_a_checkpoint_that_changed_is_noticed_and_one_that_is_gone_written_again(
    model: Path, choices: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"smaller": DEPTHS[2], "heal": "none"}
    done = run(model, choices, tmp_path / "run", **settings)
    whole, checkpoint = found(done), tmp_path / "run" / "model"
    changed = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        changed.model.norm.weight.mul_(2)
    changed.save_pretrained(checkpoint)
    with pytest.raises(InputError, match=r"model are not those that were verified.*writes it again"):
        run(model, choices, tmp_path / "run", **settings)
    checkpoint.rename(tmp_path / "elsewhere")
    assert found(run(model, choices, tmp_path / "run", **settings)) == whole
