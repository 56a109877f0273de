"""Parse plans as users write them: a layer list, ``reverse:N`` or ``random:N``, or the path of a plan.json."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.engine.served import ServedModel
from layercut.errors import InputError
from layercut.seed import check_seed
from layercut.selection import CRITERIA, criterion, criterion_row
from layercut.selection.base import Context
from layercut.settings import Depth
from layercut.surgery.plan import CutPlan, as_plan, parse_layers

if TYPE_CHECKING:
    from collections.abc import Callable

    from layercut.engine.handle import ModelHandle

_BY_CRITERION = re.compile(r"^([A-Za-z_][\w.:-]*):(\d{1,6}|\d{1,2}(?:\.\d+)?%|0?\.\d+)$")
_EXPECTED = "a layer list such as 3,8,21-24 (inclusive), reverse:3 or random:25%, or a plan.json"

_HINT = " A share alone does not say which layers: layercut select, cut and prune choose them."


def plan_from_spec(
    spec: str,
    *,
    num_layers: int,
    model: str | None = None,
    model_hash: str | None = None,
    seed: int = 0,
    from_another_model: bool = False,
) -> CutPlan:
    """The plan that ``spec`` stands for, on a model of ``num_layers`` decoder layers.

    Args:
        spec: layers, ``reverse:N`` or ``random:N`` (any criterion that needs no model), or a plan.json.
        num_layers: of the model.
        model: its name.
        model_hash: its fingerprint; None where it is not known, and a plan's own is then not compared.
        seed: of ``random:N``.
        from_another_model: take a plan.json that was made for another model; the plan then records both.

    Raises:
        InputError: not one of the three forms, a layer out of range, or a plan made for another model.
    """
    check_seed(seed)
    check_spec(spec)
    spec = spec.strip()
    if spec.endswith(".json"):
        plan = _from_file(Path(spec), num_layers, model)
        return plan_for_model(plan, model, model_hash, where=spec, from_another_model=from_another_model)
    if match := _BY_CRITERION.match(spec):
        name, num_remove = match[1], Depth(text=match[2]).layers(num_layers)
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


def plan_of(model: ModelHandle | ServedModel, spec: str | CutPlan | Sequence[int] | None, seed: int) -> CutPlan:
    """The plan that ``spec`` stands for on a model; None is the model unchanged. Layers may come as a list.

    Raises:
        InputError: no plan, one that does not fit, or one of another model where the settings do not allow it.
    """
    if isinstance(model, ServedModel):
        assert spec is None or isinstance(spec, str | CutPlan), "a server's model is evaluated as served"
        return model.plan(spec)
    if spec is None:
        return model.plan()
    make = plan_maker(spec, seed, model.settings.plan_from_another_model)
    name, model_hash = model.settings.model, model.metadata.model_hash
    return model.plan(make(num_layers=model.num_layers, model=name, model_hash=model_hash))


def prefix_that_keeps(plan: CutPlan, keep: float) -> CutPlan:
    """The deepest part of a greedy search's plan whose value is still ``keep`` of the original model's.

    The values are those of the selection items, which the search maximised, so they are too high by construction:
    ``layercut prune`` confirms them on other items.

    Args:
        plan: of ``task_accuracy``, with its ``rounds``.
        keep: share of the original model's value.

    Raises:
        InputError: a plan without rounds, or one whose first round keeps less.
    """
    rounds, uncut = plan.scores.get("rounds"), plan.scores.get("uncut")
    if not isinstance(rounds, list):
        rounds = []
    values = [one.get("value") for one in rounds]
    if not values or len(values) != len(plan.removed) or not isinstance(uncut, int | float) or not uncut > 0:
        raise InputError(
            f"`keep` {keep:g} needs what each layer's removal cost, which a plan of {plan.criterion} does not record; "
            "choose the layers by task_accuracy."
        )
    fine = [depth for depth, value in enumerate(values, start=1) if value is not None and value >= keep * uncut - 1e-9]
    if not fine:
        best = values[0]
        what = "no finite value" if best is None else f"{best / uncut:.0%}"
        raise InputError(f"without its first layer the model keeps {what} on selection items, less than {keep:.0%}.")
    return replace(
        plan,
        removed=plan.removed[: max(fine)],
        settings={**plan.settings, "keep": keep, "num_remove": max(fine)},
        scores={**plan.scores, "rounds": rounds[: max(fine)]},
    )


def plan_maker(spec: str | Sequence[int] | CutPlan, seed: int, from_another_model: bool) -> Callable[..., CutPlan]:
    """What makes the plan that ``spec`` stands for, from ``num_layers``, ``model`` and ``model_hash``."""

    def make(*, num_layers: int, model: str | None = None, model_hash: str | None = None) -> CutPlan:
        if isinstance(spec, CutPlan):
            return plan_for_model(spec, model, model_hash, from_another_model=from_another_model)
        if not isinstance(spec, str):
            return replace(as_plan(spec, num_layers), model=model, model_hash=model_hash)
        fits: dict[str, Any] = {"num_layers": num_layers, "model": model, "model_hash": model_hash}
        return plan_from_spec(spec, **fits, seed=seed, from_another_model=from_another_model)

    return make


def check_spec(spec: str) -> None:
    """Refuse what is no plan on any model.

    Raises:
        InputError: none of the three forms, an unknown criterion, or one that has to run the model.
    """
    spec = spec.strip()
    if spec.endswith(".json"):
        CutPlan.load(Path(spec))
    elif (match := _BY_CRITERION.match(spec)) or spec in CRITERIA:
        name, count = (match[1], match[2]) if match else (spec, "")
        if criterion_row(name).needs_model and name in CRITERIA:
            raise InputError(
                f"{name} needs to run the model. Choose the layers first: layercut select MODEL --criterion {name} "
                f"--remove {count or 3} --out DIR, then give DIR/plan.json."
            )
        if match:
            return
        raise InputError(f"{spec!r:.60} does not say how many layers to remove; write {spec}:3 to remove three.")
    elif not re.match(r"^[\d,\- ]+$", spec):
        raise InputError(f"{spec!r:.60} is not a plan; write {_EXPECTED}.{_HINT if spec.endswith('%') else ''}")
    else:
        parse_layers(spec)


def plan_for_model(
    plan: CutPlan,
    model: str | None,
    model_hash: str | None,
    *,
    where: str = "the plan",
    from_another_model: bool = False,
) -> CutPlan:
    """A plan as one of this very model; ``chosen_on`` records the other one that it was made for, if that is allowed.

    Raises:
        InputError: by its hash it was made for another model, and that is not allowed.
    """
    if model_hash is None or plan.model_hash in (None, model_hash):
        return plan
    if not from_another_model:
        raise InputError(
            f"{where} was made for another model, {plan.model or 'which it does not name'} ({plan.model_hash}); "
            f"{model or 'this one'} is {model_hash}. Choose the layers on this model, or use the plan anyway with "
            "`plan_from_another_model`."
        )
    other = {"model": plan.model, "model_hash": plan.model_hash}
    return replace(plan, model=model, model_hash=model_hash, chosen_on=plan.chosen_on or other)


def _from_file(path: Path, num_layers: int, model: str | None) -> CutPlan:
    plan = CutPlan.load(path)
    if plan.num_layers != num_layers:
        raise InputError(
            f"{path} was made for a model of {plan.num_layers} decoder layers, "
            f"but {model or 'this one'} has {num_layers}."
        )
    return plan
