from __future__ import annotations

import json
from dataclasses import replace

from layercut.healing.record import UNTRAINED, healed_card
from tests.support.healing import HEALING


def test_what_does_not_apply_is_not_recorded() -> None:
    entry = HEALING.to_dict()
    assert not {"channels", "cut_from", "steps", "written"} & set(entry) and entry["num_held_out"] == 0
    assert list(replace(HEALING, mark=3, steps=2).to_dict())[-3:] == ["steps", "mark", "checked"]
    assert json.loads(json.dumps(entry)) == {**entry, "checked": []}


def test_the_card_of_a_pruned_model_no_longer_says_that_nothing_was_trained() -> None:
    card = healed_card(f"# Pruned\n\n{UNTRAINED}\n", replace(HEALING, dropped={"empty": 2}).to_dict())
    assert UNTRAINED not in card and card.startswith("# Pruned\n\nHealed after the cut: see below.\n\n## Healing\n")
    assert "| dropped | empty 2 |" in card and "| removed | 2; 4 |" in card and "| channels |" not in card
    assert healed_card("", HEALING.to_dict()).startswith("---\nlibrary_name: transformers\n")
