"""Plans as people write them: a layer list, ``criterion:N``, or the path of a plan.json."""

from __future__ import annotations

import re
from pathlib import Path

from layercut.errors import InputError
from layercut.seed import check_seed
from layercut.selection import CRITERIA, criterion, criterion_row
from layercut.selection.base import Context
from layercut.surgery.plan import CutPlan, parse_layers

_BY_CRITERION = re.compile(r"^([A-Za-z_][\w.:-]*):(\d+)$")
_EXPECTED = "a layer list such as 3,8,21-24 (inclusive), a criterion with a count such as reverse:3, or a plan.json"


def plan_from_spec(
    spec: str, *, num_layers: int, model: str | None = None, model_hash: str | None = None, seed: int = 0
) -> CutPlan:
    """The plan that ``spec`` stands for, on a model of ``num_layers`` decoder layers.

    Raises:
        InputError: not one of the three forms, a layer out of range, or a plan made for a model of another depth.
    """
    check_seed(seed)
    check_spec(spec)
    spec = spec.strip()
    if spec.endswith(".json"):
        return _from_file(Path(spec), num_layers, model)
    if match := _BY_CRITERION.match(spec):
        name, num_remove = match[1], int(match[2])
        removed = criterion(name)(Context(num_layers=num_layers, num_remove=num_remove, seed=seed)).removed
        settings = {"seed": seed, "num_remove": num_remove} if name == "random" else {"num_remove": num_remove}
        return CutPlan(
            num_layers=num_layers,
            removed=removed,
            criterion=name,
            model=model,
            model_hash=model_hash,
            settings=settings,
        )
    return CutPlan(num_layers=num_layers, removed=parse_layers(spec), model=model, model_hash=model_hash)


def check_spec(spec: str) -> None:
    """Refuse what is no plan on any model.

    Raises:
        InputError: none of the three forms, an unknown criterion, or one that has to run the model.
    """
    spec = spec.strip()
    if spec.endswith(".json"):
        CutPlan.load(Path(spec))
    elif match := _BY_CRITERION.match(spec):
        name, num_remove = match[1], int(match[2])
        if criterion_row(name).needs_model and name in CRITERIA:
            raise InputError(
                f"{name} has to run the model. Choose the layers first: layercut select MODEL --criterion {name} "
                f"--remove {num_remove} --out DIR, then give DIR/plan.json."
            )
    elif spec in CRITERIA:
        raise InputError(f"{spec!r} does not say how many layers go; write {spec}:3 to remove three.")
    elif not re.match(r"^[\d,\- ]+$", spec):
        raise InputError(f"{spec!r} is no plan; write {_EXPECTED}.")
    else:
        parse_layers(spec)


def _from_file(path: Path, num_layers: int, model: str | None) -> CutPlan:
    plan = CutPlan.load(path)
    if plan.num_layers != num_layers:
        raise InputError(
            f"{path} was made for a model of {plan.num_layers} decoder layers, "
            f"but {model or 'this one'} has {num_layers}."
        )
    return plan
