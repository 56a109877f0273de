"""The grammar of what is removed, parsed once: layers, a count or an order of them, MLP channels, or a plan's file.

LayerSpec.parse("3,8,21-24")    layers, ranges inclusive; a bare 3 is layer 3
LayerSpec.parse("3 layers")     a count; "25%" is a share of the model's layers
LayerSpec.parse("reverse:4")    a count by an order that needs no model (reverse, random)
LayerSpec.parse("mlp:0.28")     a share of the channels of every MLP; also beside layers: "6,9 mlp:10%"
LayerSpec.parse("vocab:ascii")  the tokens that stay, see selection/vocabulary.py; also beside the rest
LayerSpec.parse("run/plan.json")
LayerSpec.parse("merge.yaml")   mergekit's passthrough slices of one model
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, InstanceOf, PlainSerializer
from pydantic_core.core_schema import ValidationInfo

from layercut.engine.handle import ModelHandle, ServedModel
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.models.sources import depth_of
from layercut.seed import check_seed
from layercut.selection import CRITERIA, criterion_row, find_criterion
from layercut.selection.base import Context
from layercut.selection.vocabulary import check_vocabulary
from layercut.settings import Depth, ModelSettings
from layercut.surgery.mergekit import SUFFIXES, read_slices, removed_by_slices
from layercut.surgery.plan import CutPlan, as_cut_plan, parse_layers
from layercut.text import count_of

_BY_CRITERION = re.compile(r"^([A-Za-z_][\w.:-]*):(\d{1,6}|\d{1,2}(?:\.\d+)?%|0?\.\d+)$")
_EDGE = re.compile(r"^(first|last):(\d{1,9})$")
_COUNT = re.compile(r"\d+\s*layers?|[\d.]+\s*%|0?\.\d+")
_MLP = re.compile(r"(?:^|\s)mlp:(\S+)")
_VOCABULARY = re.compile(r"(?:^|\s)vocab:(\S+)")
_EXPECTED = "a layer list such as 3,8,21-24 (inclusive), reverse:3, mlp:0.28, a plan.json or mergekit's .yaml"


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """The removed layers of a model that is not known yet. Beside ``text``, one of the fields is set."""

    text: str  # as it was written
    layers: tuple[int, ...] | None = None  # in order of removal
    count: Depth | None = None  # the number of layers; with ``order`` None it is open which
    order: str | None = None  # the criterion that names them; it needs no model
    plan: CutPlan | None = None
    kept: tuple[range, ...] | None = None  # the layers that stay, of a mergekit configuration
    mlp: float | None = None  # share of the channels of every MLP, beside the layers; it is open which
    vocabulary: str | None = None  # the tokens that stay, as they are named, beside the rest

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, value: object) -> LayerSpec:
        """Read what people write: text, the path of a plan.json, a list of layers, or a CutPlan. Raises InputError.

        >>> LayerSpec.parse("21-23").layers, LayerSpec.parse("3 layers").count, LayerSpec.parse([3, 1]).text
        ((21, 22, 23), Depth(text='3'), '3,1')
        """
        if isinstance(value, LayerSpec):
            return value
        if isinstance(value, CutPlan):
            return cls(text=value.label, plan=value)
        if isinstance(value, list | tuple):
            last = max((layer for layer in value if isinstance(layer, int)), default=0)
            removed = as_cut_plan(value, max(last, 0) + 2).removed
            return cls(text=",".join(map(str, removed)), layers=removed)
        text = (fspath(value) if isinstance(value, PathLike) else str(value)).strip()
        if match := _VOCABULARY.search(text):
            check_vocabulary(match[1])
            return replace(cls._parse_rest(_VOCABULARY.sub(" ", text, 1)), text=text, vocabulary=match[1])
        if text.endswith(".json"):
            return cls(text=text, plan=CutPlan.load(Path(text)))
        if text.endswith(SUFFIXES):
            return cls(text=text, kept=read_slices(Path(text)))
        if match := _MLP.search(text):
            layers = cls._parse_rest(_MLP.sub(" ", text, 1))
            if layers.plan or layers.order or layers.mlp is not None:
                raise InputError(f"{text!r:.60}: write mlp:SHARE once, beside layers or a count of layers alone.")
            try:
                share = float(match[1][:-1]) / 100 if match[1].endswith("%") else float(match[1])
            except ValueError:
                share = 0.0
            if not 0 < share < 1:
                raise InputError(f"mlp:{match[1]:.20} is no share of the MLP channels; write mlp:0.28 or mlp:28%.")
            return replace(layers, text=text, mlp=share)
        if _COUNT.fullmatch(text):
            return cls(text=text, count=Depth(text=text))
        if (match := _BY_CRITERION.match(text)) or text in CRITERIA:
            name, count = (match[1], match[2]) if match else (text, "")
            if criterion_row(name).needs_model and name in CRITERIA:
                wanted = count if "%" in count else f"'{count or 3} layers'"
                raise InputError(
                    f"{name} needs to run the model. Choose the layers first: layercut select MODEL --criterion {name} "
                    f"--remove {wanted} --out DIR, then give DIR/plan.json."
                )
            if not match:
                raise InputError(f"{text!r:.60} does not say how many layers; write {text}:3 to remove three.")
            return cls(text=text, count=Depth(text=count), order=name)
        if not re.match(r"^[\d,\- ]+$", text):
            raise InputError(f"{text!r:.60} is not a plan; write {_EXPECTED}.")
        return cls(text=text, layers=parse_layers(text))

    @classmethod
    def _parse_rest(cls, text: str) -> LayerSpec:
        """What is written beside another part; nothing removes no layers."""
        return cls.parse(text) if text.strip() else cls(text="", layers=())

    @property
    def is_open(self) -> bool:
        """True for a bare count or share, which does not say which layers or channels."""
        return self.mlp is not None or (self.count is not None and self.order is None)

    def bind(
        self, *, num_layers: int, model: str | None = None, model_hash: str | None = None, seed: int = 0
    ) -> CutPlan:
        """The plan on a model; ``seed``: of ``random:N``. Without ``model_hash`` a plan's own is not compared."""
        check_seed(seed)
        if self.vocabulary is not None:
            raise InputError(
                f"{self.text} is a plan for files: layercut cut MODEL --remove '{self.text}' --out DIR, then give DIR."
            )
        if self.plan is not None:
            if self.plan.num_layers != num_layers:
                raise self.plan.unfit(f"but {model or 'this one'} has {num_layers}")
            if model_hash is None or self.plan.model_hash in (None, model_hash):
                return self.plan
            raise InputError(
                f"the plan was made for another model, {self.plan.model} ({self.plan.model_hash}), than {model} "
                f"({model_hash}); choose layers on this one, or name them: `remove` {self.plan.label or 'LAYERS'}."
            )
        if self.mlp is not None:
            raise InputError(
                f"{self.text} does not say which MLP channels: layercut select MODEL --remove '{self.text}' --out DIR"
            )
        removed = self.layers or ()
        if self.kept is not None:
            removed = removed_by_slices(self.kept, num_layers, self.text)
        plan = CutPlan(num_layers=num_layers, removed=removed, model=model, model_hash=model_hash)
        if self.count is None:
            return plan
        if self.order is None:
            raise InputError(
                f"{self.text} does not say which layers; write {_EXPECTED}. layercut select, cut and prune choose them."
            )
        number = self.count.layers(num_layers)
        removed = find_criterion(self.order)(Context(num_layers=num_layers, num_remove=number, seed=seed)).removed
        settings = {"seed": seed, "num_remove": number} if self.order == "random" else {"num_remove": number}
        return replace(plan, removed=removed, criterion=self.order, settings=settings)


def _counted(given: object, info: ValidationInfo) -> LayerSpec:
    spec = LayerSpec.parse(given)
    if spec.vocabulary is not None:
        raise InputError(f"`{info.field_name}` {spec.text!r:.60} names tokens; layercut cut removes these.")
    if not spec.is_open:
        number = spec.layers[0] if spec.layers and len(spec.layers) == 1 else None
        named = "the layers themselves" if number is None else f"layer {number}"
        raise InputError(
            f"`{info.field_name}` {spec.text!r:.60} names {named}, and here it is chosen which layers go; write "
            f"'{count_of(number or 3, 'layer')}', or 25%."
        )
    return spec


_WRITTEN = PlainSerializer(lambda spec: spec.text if spec.mlp is not None or spec.count is None else spec.count.text)
Units = Annotated[InstanceOf[LayerSpec], BeforeValidator(_counted), _WRITTEN]
"""A field that says how much goes, for what chooses it itself: ``3 layers``, ``25%``, ``mlp:0.28``, ``6,9 mlp:0.1``."""


def plan_of(model: ModelHandle | ServedModel, given: object, seed: int) -> CutPlan:
    """The plan that ``given`` is on a model; None is the model unchanged. Raises InputError: one that does not fit."""
    if isinstance(model, ServedModel):
        return model.plan(None if given is None else str(given))
    if given is None:
        return model.plan()
    settings = model.settings
    plan = LayerSpec.parse(given).bind(
        num_layers=model.num_layers, model=settings.model, model_hash=model.metadata.model_hash, seed=seed
    )
    return model.plan(plan)


def check_fits(model: ModelSettings, specs: Iterable[LayerSpec | None], seed: int = 0) -> None:
    """Refuse plans with a layer that the model does not have by its config."""
    closed = [spec for spec in specs if spec is not None and not spec.is_open]
    if not closed or ENGINES[model.engine].is_served or (depth := depth_of(model.model, model.revision)) is None:
        return
    for spec in closed:
        spec.bind(num_layers=depth, model=model.model, seed=seed)


Removed = Annotated[InstanceOf[LayerSpec], BeforeValidator(LayerSpec.parse), PlainSerializer(str)]
"""The plan of a setting, written in any of its forms."""


def parse_protected(text: str, num_layers: int) -> frozenset[int]:
    """The layers that ``text`` protects: ``first:K``, ``last:K``, indices and inclusive ranges; or ``none``.

    ``first:4,last:2`` is the "+" of Mag+ and Taylor+. Kim et al., "Shortened LLaMA", arXiv:2402.02834. Raises
    InputError for any other text, or a layer that the model does not have.

    >>> sorted(parse_protected("first:2,last:1,4-5", 10))
    [0, 1, 4, 5, 9]
    """
    protected: set[int] = set()
    for part in text.replace(" ", "").split(",") if text.strip() != "none" else ():
        if edge := _EDGE.match(part):
            count = int(edge[2])
            if count > num_layers:
                raise InputError(f"{part} protects more layers than the model has ({num_layers}).")
            protected.update(range(count) if edge[1] == "first" else range(num_layers - count, num_layers))
            continue
        try:
            layers = parse_layers(part)
        except InputError as error:
            raise InputError(
                f"{part!r:.60} does not name the layers to protect ({error}); write first:4, last:2, indices and "
                "inclusive ranges such as 0,7-9, or none."
            ) from error
        if layers[-1] >= num_layers:
            raise InputError(
                f"protected layer {layers[-1]} is not in the model, whose decoder layers are 0-{num_layers - 1}."
            )
        protected.update(layers)
    return frozenset(protected)
