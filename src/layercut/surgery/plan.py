"""CutPlan: what is removed from the original model, decoder layers, MLP channels and tokens, and how it was chosen.

Layer indices are zero-based and always those of the *uncut* model, also after several rounds of removal.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AliasPath, BaseModel, Field

from layercut.errors import InputError
from layercut.runs.atomic import write_json
from layercut.runs.environment import hide_home
from layercut.runs.json_text import check_fields
from layercut.runs.settings import read_json_or_refuse
from layercut.surgery.channels import Channels, Vocabulary
from layercut.text import Printed, format_layers, label_of_removal

FORMAT_VERSION = 1
MOST_LAYERS = 10_000  # no model has as many. A plan or a layer list beyond is a mistake, and would fill the memory.
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


@dataclass(frozen=True, kw_only=True, repr=False)
class CutPlan(Printed):
    """The removed layers and MLP channels. A plan that removes nothing is the original model, so that both run through
    the same code.
    """

    num_layers: int
    """Decoder layers of the original model."""
    removed: tuple[int, ...] = ()
    """Removed layers, in order of removal."""
    channels: Channels | None = None
    """The MLP channels that stay in the layers that stay; None for all."""
    vocabulary: Vocabulary | None = None
    """The tokens that stay; None for all."""
    criterion: str = "explicit"
    """Origin of the choice: the name of a selection criterion, or ``explicit`` for a list given by hand."""
    model: str | None = None
    """The original model, as it was named when the plan was made."""
    model_hash: str | None = None
    """Fingerprint of the original model's weights."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The criterion's settings: seed, objective, calibration, ..."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """Measurements of the criterion, per layer or per round."""
    earlier: Sequence[Mapping[str, Any]] = ()
    """Earlier cuts of this model, where it is a pruned checkpoint itself, oldest first: ``model``, ``model_hash``,
    ``num_layers``, ``removed``, ``mlp``, the share of MLP channels if some went, and ``healed``, the methods."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "removed", tuple(int(i) for i in self.removed))
        last = self.num_layers - 1
        for index in self.removed:
            if not 0 <= index <= last:
                raise InputError(
                    f"layer {index} is not in {self.model or 'the model'}, which has {self.num_layers} decoder layers "
                    f"(0-{last}, counted in the original model)."
                )
        if doubled := [layer for layer, times in Counter(self.removed).items() if times > 1]:
            raise InputError(
                f"layer {min(doubled)} is named more than once in the layers to remove; name each layer once."
            )
        if len(self.removed) >= self.num_layers:
            raise InputError(f"all {self.num_layers} decoder layers would be removed; keep at least one.")
        if self.channels is not None and (beyond := [i for i in self.channels.kept if not 0 <= i <= last]):
            raise InputError(f"layer {beyond[0]}, whose MLP channels are named, is not in the model (0-{last}).")

    @property
    def kept(self) -> tuple[int, ...]:
        """The layers that stay, ascending."""
        removed = set(self.removed)
        return tuple(i for i in range(self.num_layers) if i not in removed)

    @property
    def is_uncut(self) -> bool:
        """True if nothing goes."""
        return not (self.removed or self.channels or self.vocabulary)

    @property
    def depth_only(self) -> CutPlan:
        """The plan without MLP channels and tokens: what it does to layers."""
        return replace(self, channels=None, vocabulary=None) if self.channels or self.vocabulary else self

    @property
    def key(self) -> str:
        """Short stable name of the *set* of what goes: the same model results whatever the order."""
        if self.is_uncut:
            return "uncut"
        gone: list[Any] = [self.num_layers, sorted(self.removed), *([self.channels.key] if self.channels else [])]
        gone += [self.vocabulary.key] if self.vocabulary else []
        return hashlib.sha256(json.dumps(gone).encode()).hexdigest()[:12]

    @property
    def gone(self) -> dict[str, Any]:
        """Removed layers in order, and the key of ``channels`` if some are removed, as settings of a run name them."""
        units = {"channels": self.channels, "vocabulary": self.vocabulary}
        keys = {name: unit.key for name, unit in units.items() if unit}
        return {"removed": list(self.removed), **keys}

    @property
    def label(self) -> str:
        """What is removed, as people write it: ``3,8,21-24 mlp:0.1``; empty for nothing."""
        label = label_of_removal(self.removed, self.channels.share if self.channels else 0.0)
        vocabulary = f"vocab:{self.vocabulary.name}" if self.vocabulary else ""
        return " ".join(filter(None, (label, vocabulary)))

    def describe(self) -> str:
        """One line for people: ``removes 4 of 30 decoder layers (13.3 %): 3, 8, 21, 22``."""
        origin = origin_of_plan(self.to_dict())
        if self.is_uncut:
            return f"{origin or 'uncut'}, {self.num_layers} decoder layers"
        share = 100 * len(self.removed) / self.num_layers
        listed = ", ".join(str(i) for i in sorted(self.removed))
        layers = f"{len(self.removed)} of {self.num_layers} decoder layers ({share:.1f} %): {listed}"
        text = f"removes {'; and '.join(list_removed(self, layers))}"
        return f"{text}; {origin}" if origin else text

    def to_dict(self) -> dict[str, Any]:
        """The content of ``plan.json``: every field, the format version and, for readers, the layers that stay.

        ``channels``, ``vocabulary`` and ``earlier`` are left out where they are empty.
        """
        data = {
            "format_version": FORMAT_VERSION,
            **asdict(replace(self, channels=None, vocabulary=None)),
            "channels": self.channels and self.channels.to_dict(),
            "vocabulary": self.vocabulary and self.vocabulary.to_dict(),
            "removed": list(self.removed),
            "kept": list(self.kept),
        }
        optional = ("channels", "vocabulary", "earlier")
        return {name: value for name, value in data.items() if value or name not in optional}

    def unfit(self, depth: str) -> InputError:
        """The error for a model of another depth; ``depth`` says which it has."""
        own = f"the plan is for a model of {self.num_layers} decoder layers"
        return InputError(f"{own}, {depth}; use a plan made for this very model.")

    def save(self, path: Path) -> None:
        write_json(path, self.to_dict())

    @classmethod
    def from_dict(cls, data: Any, where: str = "plan") -> CutPlan:
        """The inverse of ``to_dict``; ``where`` says in an error where it came from. Raises InputError."""
        remedy = "Make the plan again with layercut select or layercut cut."
        check_fields(_PlanFile, data, f"{where}: not a plan of layercut", remedy)
        channels = Channels.from_dict(data["channels"], where) if data.get("channels") else None
        vocabulary = Vocabulary.from_dict(data["vocabulary"], where) if data.get("vocabulary") else None
        try:
            json.dumps(data, allow_nan=False)  # NaN could not be written again
            known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
            return cls(**known | {"channels": channels, "vocabulary": vocabulary})
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: not a plan of layercut ({error})") from error

    @classmethod
    def load(cls, path: Path) -> CutPlan:
        """Read a ``plan.json``. Raises InputError: no such file, or not a plan of layercut."""
        data = read_json_or_refuse(path, f"{path}: no plan can be read here")
        return cls.from_dict(data, str(path))


_Number = Annotated[float, Field(allow_inf_nan=False)]
_Layers = list[Annotated[int, Field(ge=0, lt=MOST_LAYERS)]]


class _Cut(BaseModel, strict=True):
    model: str | None = None
    model_hash: str | None = None
    num_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    removed: _Layers
    mlp: Annotated[float, Field(ge=0, le=1)] = 0.0
    tokens: Annotated[float, Field(ge=0, le=1)] = 0.0
    healed: list[str] = []


class _Round(BaseModel, strict=True):
    value: _Number | None = None
    candidates: _Layers = []
    values: list[_Number | None] = []


class _Scores(BaseModel, strict=True):
    uncut: _Number | None = None
    rounds: list[_Round] = []
    importance: dict[Annotated[int, Field(strict=False)], _Number | None] = {}
    selection_items: dict[str, Any] = {}
    held_out: dict[str, Any] = {}
    held_out_items: dict[str, Any] = Field({}, validation_alias=AliasPath("held_out", "items"))


class _PlanFile(_Cut):
    format_version: Literal[1]
    removed: _Layers = []
    criterion: str = "explicit"
    settings: dict[str, Any] = {}
    scores: _Scores = _Scores()
    earlier: list[_Cut] = []
    healing: list[dict[str, Any]] = []


def list_removed(plan: CutPlan, layers: str) -> list[str]:
    """What a plan removes, in words; ``layers`` are those for the layers."""
    parts = [layers] if plan.removed else []
    return parts + [unit.describe() for unit in (plan.channels, plan.vocabulary) if unit]


def origin_of_plan(plan: Mapping[str, Any]) -> str:
    """What the model of a plan (``CutPlan.to_dict``) lost before, in words; empty for a whole one."""
    cuts = []
    for step in plan.get("earlier") or ():
        removed, healed = step["removed"], step.get("healed")
        lost = [f"{len(removed)} of {step['num_layers']} decoder layers: {format_layers(removed)}"] if removed else []
        lost += [f"{100 * step['mlp']:.1f} % of the MLP channels"] if step.get("mlp") else []
        lost += [f"{100 * step['tokens']:.1f} % of the tokens"] if step.get("tokens") else []
        text = f" without {' and '.join(lost)}" if lost else ""
        cuts.append(f"{text}, healed by {', '.join(healed)}" if healed else text)
    if not cuts:
        return ""
    kind = "pruned" if any(cut.startswith(" without") for cut in cuts) else "healed"
    name = hide_home(str(plan["earlier"][0].get("model") or "a model without a name"))
    return f"a {kind} checkpoint ({name}{', then'.join(cuts)})"


class Loss(NamedTuple):
    """Layers that a model has lost since it was another one."""

    num_layers: int  # of that other model, whose numbers ``removed`` has
    removed: tuple[int, ...]
    healed: tuple[str, ...]  # the methods
    mlp: float = 0.0  # share of the MLP channels


def lost_since(plan: Mapping[str, Any], model_hash: str | None) -> Loss | None:
    """The changes of a plan (``CutPlan.to_dict``) and of the cuts and healings before it to the model with this hash.

    None where that model is not among those that the plan's model was made of.

    >>> before = {"model_hash": "12ab", "num_layers": 6, "removed": [4, 2], "healed": ["lora"]}
    >>> lost_since({"num_layers": 4, "removed": [3], "earlier": [before]}, "12ab")
    Loss(num_layers=6, removed=(4, 2, 5), healed=('lora',), mlp=0.0)
    """
    steps = [*plan.get("earlier", ()), plan]
    start = next((at for at, step in enumerate(steps[:-1]) if model_hash and step.get("model_hash") == model_hash), -1)
    if start < 0:
        return None
    steps, num_layers = steps[start:], steps[start]["num_layers"]
    left, removed = [*range(num_layers)], []
    for step in steps:
        if step["num_layers"] != len(left) or max(step["removed"], default=0) >= len(left):
            return None  # made for another depth than the cut before left, or it names a layer beyond it
        removed += [left[layer] for layer in step["removed"]]
        left = [layer for layer in left if layer not in removed]
    healed = tuple(method for step in steps for method in step.get("healed", ()))
    return Loss(num_layers, tuple(removed), healed, 1 - math.prod(1 - mlp_share(step) for step in steps))


def mlp_share(plan: Mapping[str, Any]) -> float:
    """Share of the MLP channels that a plan (``CutPlan.to_dict``) or one of its earlier cuts removes."""
    channels = plan.get("channels")
    return 1 - channels["num_kept"] / channels["width"] if channels else float(plan.get("mlp") or 0.0)


def as_cut_plan(plan: CutPlan | str | Sequence[int] | None, num_layers: int) -> CutPlan:
    """A plan as callers give it, for a model of ``num_layers`` decoder layers.

    >>> as_cut_plan("24-26", 30).removed, as_cut_plan([3, 1], 30).removed, as_cut_plan(None, 30).is_uncut
    ((24, 25, 26), (3, 1), True)

    Raises InputError: no such layers, or a plan for another number of them.
    """
    if isinstance(plan, CutPlan):
        return plan
    layers = parse_layers(plan) if isinstance(plan, str) else tuple(plan or ())
    if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in layers):
        raise InputError(f"{plan!r:.60} is no plan; give layers such as '24-26' or [24, 25, 26], or a CutPlan.")
    return CutPlan(num_layers=num_layers, removed=layers)


def parse_layers(text: str) -> tuple[int, ...]:
    """Layer list as people write it: ``3,8,21-24`` is 3, 8, 21, 22, 23, 24 (inclusive at both ends), in that order.
    Raises InputError: nothing named, a part that is no number or range, or a range that runs backwards.
    """
    layers: list[int] = []
    for part in text.replace(" ", "").split(","):
        if not (match := _RANGE.fullmatch(part)):
            raise InputError(
                f"{part or text!r:.60} is not a layer list; write numbers and inclusive ranges, such as 3,8,21-24."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"the range {part} runs backwards; write {last}-{first}.")
        if last > MOST_LAYERS:
            raise InputError(f"layer {last} is not in any model; write layers below {MOST_LAYERS}, such as 3,8,21-24.")
        layers.extend(range(first, last + 1))
    return tuple(layers)
