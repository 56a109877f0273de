"""A seam repair is weakened until it breaks no guard task; half of it is the mean of the weights with and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from layercut.healing import strength as module
from layercut.healing.fold import add_to_projection, fold, last_projection, takes_maps
from layercut.healing.guard import GuardTask
from layercut.healing.strength import STRENGTHS, strongest_kept, weaken
from layercut.runs.healing import GUARD, guard_lines
from layercut.runs.records import Journal
from layercut.surgery.remove import decoder_layers
from layercut.tasks import load_task
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, tiny_model

EYE = torch.eye(32, dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.5, 0.25])
@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_a_weaker_map_is_the_blend_of_folded_and_pruned_weights(family: str, strength: float) -> None:
    pruned, blended, folded = (tiny_model(family) for _ in range(3))
    map_DD = EYE + 0.1 * torch.randn(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if not takes_maps(decoder_layers(pruned)[1]):
        map_DD = torch.diag(map_DD.diagonal())
    fold(decoder_layers(blended)[1], map_DD)
    full = [parameter.clone() for parameter in blended.parameters()]
    weaken(blended, pruned, strength)
    fold(decoder_layers(folded)[1], EYE + strength * (map_DD - EYE))
    for one, other, whole, before in zip(
        blended.parameters(), folded.parameters(), full, pruned.parameters(), strict=True
    ):
        assert torch.allclose(one, before + strength * (whole - before), atol=1e-6)
        assert torch.allclose(one, other, atol=1e-6)
    assert any(not torch.equal(one, before) for one, before in zip(full, pruned.parameters(), strict=True))


@torch.no_grad()
def test_a_weaker_change_of_a_matrix_is_the_blend_too() -> None:
    pruned, blended, changed = (tiny_model("llama") for _ in range(3))
    size = last_projection(decoder_layers(pruned)[1]).weight.shape[1]
    change_DI = 0.1 * torch.randn(32, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    add_to_projection(decoder_layers(blended)[1], change_DI)
    weaken(blended, pruned, 0.25)
    add_to_projection(decoder_layers(changed)[1], 0.25 * change_DI)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(blended.parameters(), changed.parameters(), strict=True))


@pytest.mark.parametrize(("num_breaking", "kept"), [(0, 1.0), (1, 0.5), (2, 0.25), (3, 0.0)])
def test_the_largest_strength_that_breaks_no_guard_is_kept(
    num_breaking: int, kept: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task("copy")
    guard = GuardTask(task, task.samples("selection", 8))
    repaired, pruned = tiny_loaded("llama", seed=1), tiny_loaded("llama")
    full = [parameter.clone() for parameter in repaired.model.parameters()]
    files: list[str] = []
    asked: list[Any] = []
    rows_of = module.rows_of

    def rows(*given: Any) -> list[dict[str, Any]]:
        found = rows_of(*given)
        asked.append(given[3])  # what is compared with
        return [one | {"broken": 0 < len(asked) - 1 <= num_breaking} for one in found]

    def journal(guard: GuardTask, strength: float) -> Journal:
        files.append(f"{strength:g}")
        return Journal(tmp_path / f"{strength:g}.jsonl")

    monkeypatch.setattr(module, "rows_of", rows)
    entry = strongest_kept(repaired, pruned, [guard], journal)
    tried = list(STRENGTHS[: num_breaking + 1])
    assert entry[GUARD]["strength"] == kept and [one["strength"] for one in entry[GUARD]["rows"]] == tried
    assert files == ["0", *(f"{one:g}" for one in tried)]
    assert asked[0] is None and all(one[0]["values"] for one in asked[1:])
    for weight, before, whole in zip(repaired.model.parameters(), pruned.model.parameters(), full, strict=True):
        assert torch.allclose(weight, before + kept * (whole - before), atol=1e-6)
        assert kept or torch.equal(weight, before), "to the last bit"
    said = guard_lines(entry)
    assert len(said) == len(tried) + 1 and ("unhealed" in said[-1] if not kept else f"strength {kept:g}" in said[-1])
    # The same again asks nothing: the answers are in the journals.
    assert all(len(Journal(tmp_path / f"{name}.jsonl").records) == 8 for name in files)
