from __future__ import annotations

import json
import math

import pytest

from layercut.errors import InputError
from layercut.selection.base import Context
from layercut.selection.greedy import place_of_highest, remove_greedily
from tests.support.search import Layers, TableObjective, random_table


def by_hand(table: dict[Layers, float], num_layers: int, num_remove: int, protect: Layers) -> list[int]:
    """The greedy choice from a table of all sets, layer by layer from the end."""
    removed: list[int] = []
    for _ in range(num_remove):
        winner = None
        for layer in reversed(range(num_layers)):
            if layer in protect or layer in removed:
                continue
            if winner is None or table[frozenset([*removed, layer])] > table[frozenset([*removed, winner])]:
                winner = layer
        assert winner is not None
        removed.append(winner)
    return removed


@pytest.mark.parametrize("levels", [2, 4, 1_000_000])
@pytest.mark.parametrize("seed", range(8))
def test_chooses_what_a_table_of_all_sets_says(seed, levels):
    objective = TableObjective(random_table(seed, levels))
    sets = [frozenset(layer for layer in range(7) if bits >> layer & 1) for bits in range(2**7)]
    table = {removed: objective.value(removed) for removed in sets}
    for protect in (frozenset[int](), frozenset({0}), frozenset({2, 6})):
        selection = remove_greedily(Context(num_layers=7, num_remove=4, protect=protect), objective)
        assert list(selection.removed) == by_hand(table, 7, 4, protect)


def test_judges_the_remaining_candidates_of_each_round_once_and_shows_rounds():
    objective, shown = TableObjective(random_table(1)), []
    context = Context(num_layers=7, num_remove=3, protect=frozenset({0}), progress=lambda *told: shown.append(told))
    remove_greedily(context, objective)
    assert shown == [("rounds", done, 3) for done in range(4)]
    assert objective.asked[0] == frozenset()
    assert [len(removed) for removed in objective.asked[1:]] == [1] * 6 + [2] * 5 + [3] * 4
    assert len(set(objective.asked)) == len(objective.asked)


def test_later_layer_wins_ties_and_ties_are_told():
    values = {(): 1.0, (0,): 0.5, (1,): 0.9, (2,): 0.9, (3,): 0.7}
    objective = TableObjective(lambda removed: values[tuple(sorted(removed))])
    selection = remove_greedily(Context(num_layers=4, num_remove=1), objective, {"protect": []})
    assert selection.removed == (2,)
    asked = {"candidates": [0, 1, 2, 3], "values": [0.5, 0.9, 0.9, 0.7]}
    chosen = {"chosen": 2, "value": 0.9, "ties": [1], "runner_up": 1, "runner_up_value": 0.9}
    assert selection.details == {"protect": [], "uncut": 1.0, "value": 0.9, "rounds": [{**asked, **chosen}]}
    # One candidate has no runner-up.
    context = Context(num_layers=2, num_remove=1, protect=frozenset({0}))
    (only,) = remove_greedily(context, TableObjective(lambda removed: 1.0)).details["rounds"]
    assert (only["chosen"], only["runner_up"], only["ties"]) == (1, None, [])


def test_a_cut_model_that_computes_nan_is_worse_than_any_other():
    values = {0: -1e300, 1: math.nan, 2: math.inf, 3: -math.inf}
    objective = TableObjective(lambda removed: values[min(removed)] if removed else 0.0)
    selection = remove_greedily(Context(num_layers=4, num_remove=1), objective)
    assert selection.removed == (0,)
    assert selection.details["rounds"][0]["values"] == [-1e300, None, None, None]
    json.dumps(selection.details, allow_nan=False)


def test_refuses_to_choose_among_nothing_but_nan():
    objective = TableObjective(lambda removed: 1.0 if len(removed) < 2 else math.nan)
    with pytest.raises(InputError, match="round 2: .*remove fewer"):
        remove_greedily(Context(num_layers=4, num_remove=2), objective)
    with pytest.raises(InputError, match="gives nan"):
        remove_greedily(Context(num_layers=4, num_remove=2), TableObjective(lambda removed: math.nan))


@pytest.mark.parametrize(
    ("values", "best"),
    [([1.0], 0), ([1.0, 1.0], 1), ([math.nan, -5.0], 1), ([3.0, math.nan, 3.0 - 1e-15], 0), ([math.nan] * 2, 1)],
)
def test_best_of(values, best):
    assert place_of_highest(values) == best
