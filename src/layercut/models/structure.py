"""The place of a model's decoder layers, found by structure, on a layout without memory (torch's meta device).

The stack is the one ``ModuleList`` of the language model, the parts built from the text config, that is as long as the
config counts. No type of model is named here but in ``EXCEPTIONS``.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from layercut.errors import CheckpointError, InputError, one_line
from layercut.models.cache import remembered_value
from layercut.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Names of the number of decoder layers in configs; the first that is there counts."""
SECTIONS = ("text_config", "decoder", "generator")
"""Names under which a config of several parts keeps that of its language model."""

Stored = Callable[[str], tuple[str, tuple[str, ...]]]
"""From a tensor's name in a checkpoint to the parameter's, and the classes of transformers' operations between."""
SAMPLES = 4  # names that are looked at of each list in a checkpoint
EXCEPTIONS: Mapping[str, str] = {
    "minimax": "the decay of its linear attention is computed from a layer's index and the model's depth (slope_rate)",
    "dory": "its middle layers run several times, and config.json counts them in another way than it is read",
    "hrm_text": "its layers lie in two stacks that run several times each",
    "reformer": "its layers are reversible: each passes on two streams, so that none can be left out",
    "idefics": "its cross-attention layers are a second list, placed by the index of the decoder layer",
}
"""Types of model that no layer can be removed from, and why, where structure alone would not tell."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """The structure of one model."""

    model_type: str  # ``model_type`` of config.json
    layers: str = "model.layers"  # dotted path from the model to its ModuleList of decoder layers
    num_layers_field: str = "num_hidden_layers"
    """Key that counts decoder layers, in the section of config.json that describes the language model."""
    embeddings: tuple[str, ...] = ()
    """Names of the parameters of the input embeddings and of the output head; empty where one of them is not known."""
    section: str = ""  # key of config.json under which that section lies; empty if it is the whole
    stored: tuple[str, ...] = ()
    """Prefix of the layer's index in the checkpoint's names; empty for ``layers`` itself, of which leading
    parts may be missing (``h.0.ln_1.weight`` for ``transformer.h.0.ln_1.weight``)."""

    @property
    def tensor_pattern(self) -> re.Pattern[str]:
        """Matches a tensor of a decoder layer: groups are what stands before the index, the index, and the rest."""
        if self.stored:
            return re.compile(rf"^({'|'.join(map(re.escape, self.stored))})(\d+)(\..+)$")
        *base, last = self.layers.split(".")
        prefix = "".join(rf"(?:{re.escape(part)}\.)?" for part in base)
        return re.compile(rf"^({prefix}{re.escape(last)}\.)(\d+)(\..+)$")

    def text_config(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        part = config.get(self.section) if self.section else None
        return part if isinstance(part, Mapping) else config

    def with_text_config(self, config: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
        return dict(text) if self.text_config(config) is config else {**config, self.section: dict(text)}


def config_text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of config.json for the language model, by config.json alone."""
    return next((config[name] for name in SECTIONS if isinstance(config.get(name), Mapping)), config)


def counted_field(config: Mapping[str, Any]) -> tuple[str | None, Any]:
    """The key that counts the decoder layers and what it holds, by config.json alone; (None, None) without one."""
    parts = (config_text_part(config), config)
    return next(((name, part[name]) for part in parts for name in COUNTS if name in part), (None, None))


def counted_layers(config: Mapping[str, Any]) -> int | None:
    """Decoder layers by config.json alone, which needs neither torch nor transformers; None where it does not say."""
    value = counted_field(config)[1]
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def structure_of(config: Mapping[str, Any], name: str, tensors: Iterable[str] = ()) -> Structure:
    """The structure that a config.json describes; without ``tensors`` the checkpoint has the model's own names."""
    listed = sorted(tensors)

    def find() -> dict[str, Any]:
        structure, stored = _laid_out(json.dumps(config, sort_keys=True), name)
        return asdict(replace(structure, stored=_heads(structure.layers, lambda tensor: stored(tensor)[0], listed)))

    known = remembered_value("structures", [config, listed], find)
    fields: dict[str, Any] = {key: tuple(part) if isinstance(part, list) else part for key, part in known.items()}
    return Structure(**fields)


def stored_names_of(config: Mapping[str, Any], name: str, tensors: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """By a tensor's name in a checkpoint, the parameter that it becomes a part of, and transformers' operations."""

    def rename() -> dict[str, Any]:
        stored = _laid_out(json.dumps(config, sort_keys=True), name)[1]
        return {tensor: stored(tensor) for tensor in tensors}

    by_name: dict[str, tuple[str, list[str]]] = remembered_value("stored", [config, [*tensors]], rename)
    return by_name


def config_of(config: Mapping[str, Any], name: str) -> PretrainedConfig:
    """The config object that transformers makes of config.json; others are refused."""
    from transformers import CONFIG_MAPPING, __version__

    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        own_code = " Code that comes with a model (auto_map) is not supported." if config.get("auto_map") else ""
        raise InputError(
            f"{name} is of the type {model_type!r}, which transformers {__version__} does not know; layercut needs a "
            f"decoder that transformers knows.{own_code}"
        )
    try:
        # From a copy, because config classes change the lists they are given.
        kind = CONFIG_MAPPING[model_type]
        made: PretrainedConfig = kind.from_dict(copy.deepcopy(kind._decode_special_floats(dict(config))))
    except Exception as error:  # whatever the config class finds wrong, it is the file that is wrong
        raise CheckpointError(
            f"config.json of {name} is not a config that transformers accepts: {one_line(error)}"
        ) from error
    return made


def with_text_fields(config: PretrainedConfig, fields: Mapping[str, Any], what: str) -> PretrainedConfig:
    """A copy of a config with other fields of the language model. InputError: its class accepts no ``what``."""
    made = copy.deepcopy(config)
    text = made.get_text_config(decoder=True)
    try:
        new: PretrainedConfig = type(text).from_dict(dict(fields))
    except Exception as error:  # whatever the config class finds wrong
        raise InputError(f"transformers accepts no {what}: {one_line(error)}") from error
    if text is made:
        return new
    setattr(made, next(name for name in SECTIONS if getattr(made, name, None) is text), new)
    return made


def auto_class(config: PretrainedConfig, name: str = "this model") -> Any:
    """transformers' loader for models of this kind: for language models, or for those that also see."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto import modeling_auto

    what = "no causal language model for transformers"
    if getattr(config, "is_encoder_decoder", False):
        what = "an encoder-decoder"
    elif getattr(config, "is_decoder", True) is False and type(config) in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING:
        what = "an encoder (is_decoder = false)"
    elif type(config) in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    elif type(config) in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise InputError(f"{name} ({config.model_type}) is {what}; layercut removes layers from decoder-only models.")


def blueprint_model(
    config: PretrainedConfig, model_class: type[PreTrainedModel] | None = None, name: str = "this model"
) -> PreTrainedModel:
    """The model laid out without memory, on torch's meta device; of the auto class, without another."""
    import torch

    build: Any = auto_class(config, name).from_config if model_class is None else model_class._from_config
    try:
        with quiet_transformers(), torch.device("meta"):
            model: PreTrainedModel = build(copy.deepcopy(config), attn_implementation="eager")
    except Exception as error:  # transformers and torch raise all kinds, for reasons that lie in the config
        raise CheckpointError(f"transformers cannot build {name} from its config.json: {one_line(error)}") from error
    return model


_known: WeakKeyDictionary[nn.Module, Structure] = WeakKeyDictionary()
_configs: WeakKeyDictionary[nn.Module, list[PretrainedConfig]] = WeakKeyDictionary()


def structure_in(model: PreTrainedModel) -> Structure:
    """The structure of a model in memory, found once; refused without one list of decoder layers."""
    if model not in _known:
        _known[model] = _find(model, type(model).__name__)
    return _known[model]


def text_config_of(model: PreTrainedModel) -> PretrainedConfig:
    """The config of the language model in a model."""
    return model.config.get_text_config(decoder=True)


def plain_experts(model: PreTrainedModel) -> str | None:
    """Run experts one after the other, which every dtype and width allows; gives the way before, None without any."""
    before = getattr(text_config_of(model), "_experts_implementation", None)
    if before is not None:
        model.set_experts_implementation("eager")
    return before


def language_configs(model: PreTrainedModel) -> list[PretrainedConfig]:
    """The text config, and its copies that parts of the model hold."""
    if model not in _configs:
        text = text_config_of(model)
        held = (getattr(part, "config", None) for part in model.modules())
        _configs[model] = list({id(copy): copy for copy in (text, *held) if type(copy) is type(text)}.values())
    return _configs[model]


def _language_lists(module: nn.Module, kind: type, path: str = "", is_text: bool = False) -> dict[str, nn.ModuleList]:
    """Lists of modules in what is built from a text config of this kind, by path, without those inside of lists."""
    from torch import nn
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel):
        is_text = type(module.config) is kind
    if isinstance(module, nn.ModuleList):
        return {path: module} if is_text else {}
    lists: dict[str, nn.ModuleList] = {}
    for name, child in module.named_children():
        lists |= _language_lists(child, kind, f"{path}.{name}" if path else name, is_text)
    return lists


@lru_cache(maxsize=8)
def _laid_out(config_json: str, name: str) -> tuple[Structure, Stored]:
    """The structure by the model's own names, and how names of a checkpoint become these."""
    config = config_of(json.loads(config_json), name)
    model = blueprint_model(config, name=name)
    text = config.get_text_config(decoder=True)
    section = next((key for key in SECTIONS if getattr(config, key, None) is text), "")
    paths = {module: path for path, module in model.named_modules()}
    ends: tuple[Any, ...] = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
    both = all(end in paths for end in ends)
    embeddings = tuple(f"{paths[end]}.weight" for end in ends) if both else ()
    known = replace(_find(model, name), model_type=config.model_type, section=section, embeddings=embeddings)
    return known, _renaming(model)


def _find(model: PreTrainedModel, name: str) -> Structure:
    from torch import nn

    text = text_config_of(model)
    model_type = model.config.model_type
    for kind in (model_type, text.model_type):
        if kind in EXCEPTIONS:
            raise InputError(f"no layer of {name} ({kind}) can be removed: {EXCEPTIONS[kind]}.")
    named = text.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    counts = {key: getattr(text, key) for key in (named, *COUNTS) if isinstance(getattr(text, key, None), int)}
    lists = _language_lists(model, type(text))
    lengths = {len(part) for part in lists.values()}
    field = next((key for key, value in counts.items() if value in lengths), named)
    counted = counts.get(field)
    stacks = {path: part for path, part in lists.items() if len(part) == counted}
    if len(stacks) != 1:
        held = ", ".join(f"{path} ({len(part)})" for path, part in (stacks or lists).items()) or "none"
        raise InputError(
            f"{name} ({model_type}) has {'no list' if not stacks else f'{len(stacks)} lists'} of {counted} decoder "
            f"layers ({field}); lists of its language model: {held}. layercut needs one stack of layers."
        )
    ((path, stack),) = stacks.items()
    # Layers that are one module or share a weight: none is a layer's worth of the checkpoint.
    owner: dict[int, int] = {}
    for index, layer in enumerate(stack):
        for part in (*layer.modules(), *layer.parameters()):
            other = owner.setdefault(id(part), index)
            is_stateless = isinstance(part, nn.Module) and next(part.parameters(), None) is None
            if other != index and not is_stateless:
                raise InputError(
                    f"layers {other} and {index} of {name} ({model_type}) share weights; none can be removed alone."
                )
    return Structure(model_type=model_type, layers=path, num_layers_field=field)


def _heads(layers: str, rename: Callable[[str], str], tensors: Iterable[str]) -> tuple[str, ...]:
    """Prefix of the layer's index in those names of a checkpoint that become tensors of a decoder layer."""
    samples: dict[str, list[str]] = {}
    for name in tensors:
        for match in re.finditer(r"(?<=\.)\d+(?=\.)", name):
            samples.setdefault(name[: match.start()], []).append(name)
    own, heads = re.compile(rf"^{re.escape(layers)}\.(\d+)\."), []
    for head, names in samples.items():
        index = re.compile(rf"^{re.escape(head)}(\d+)\.")
        renamed = [(index.match(name), own.match(rename(name))) for name in names[:SAMPLES]]
        if all(before and after and before[1] == after[1] for before, after in renamed):
            heads.append(head)
    return tuple(sorted(head for head in heads if not any(head != other and head.startswith(other) for other in heads)))


def _renaming(model: PreTrainedModel) -> Stored:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state = model.state_dict()

    def stored(name: str) -> tuple[str, tuple[str, ...]]:
        renamed, source = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        using = next((converter.operations for converter in converters if source in converter.source_patterns), ())
        return renamed, tuple(type(operation).__name__ for operation in using)

    return stored
