"""Check that the loaded model matches its checkpoint. transformers fills gaps with random numbers; layercut refuses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeGuard

from layercut.errors import CheckpointError, InputError
from layercut.models.structure import Structure, auto_class, config_of, config_text_part, counted_field

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_PER_TOKEN = "num_experts_per_tok"
_COUNTS = frozenset(
    {_PER_TOKEN, "head_dim", "n_head", "num_attention_heads", "num_heads", "num_key_value_heads", "sliding_window"}
)
"""Fields of config.json that count something there must be one of."""


def refuse_incomplete(info: Mapping[str, Any], where: str) -> None:
    """Raise if transformers did not find every parameter in its shape, given its ``output_loading_info``."""
    if missing := sorted(info.get("missing_keys") or ()):
        some = missing[0] if len(missing) == 1 else f"{len(missing)} parameters (such as {missing[0]})"
        raise CheckpointError(
            f"{where} is incomplete: it has no weights for {some} of the architecture in config.json. "
            "transformers would go on with random numbers; fetch the checkpoint again."
        )
    if wrong := sorted(info.get("mismatched_keys") or ()):
        name, held, wanted = wrong[0]
        raise CheckpointError(
            f"{where} does not fit its config.json: {name} has shape {list(held)}, the config asks for {list(wanted)}"
            f"{f' ({len(wrong)} such tensors)' if len(wrong) > 1 else ''}."
        )
    if errors := [*(info.get("error_msgs") or ()), *(info.get("conversion_errors") or {}).values()]:
        raise CheckpointError(f"{where} cannot be loaded: {str(errors[0]).splitlines()[0]}")


def count_layers(tensors: Iterable[str], config: Mapping[str, Any], structure: Structure, where: str) -> int:
    """Decoder layers in the weights, without those for several tokens at once; others than counted are refused."""
    matches = (structure.tensor_pattern.match(name) for name in tensors)
    layers = sorted({int(match[2]) for match in matches if match})
    text = structure.text_config(config)
    counted = text.get(structure.num_layers_field, len(layers))
    extra = text.get("num_nextn_predict_layers")
    if _is_whole_number(extra) and _is_whole_number(counted) and layers == list(range(counted + extra)):
        layers = layers[:counted]
    _refuse_other_count(counted, layers, structure.num_layers_field, where)
    return len(layers)


def refuse_absurd_count(names: Sequence[str], config: Mapping[str, Any], where: str) -> None:
    """Refuse a config that counts more layers than there are tensors, before any is laid out."""
    field, counted = counted_field(config)
    if field is None or (_is_whole_number(counted) and 0 < counted <= len(names)):
        return
    lists: dict[str, set[int]] = {}
    for name in names:
        if match := re.match(r"(.*?)\.(\d+)\.", name):
            lists.setdefault(match[1], set()).add(int(match[2]))
    _refuse_other_count(counted, sorted(max(lists.values(), key=len, default=())), field, where)


def _refuse_other_count(counted: Any, layers: list[int], field: str, where: str) -> None:
    if not _is_whole_number(counted):
        raise _to_mend(
            f"config.json of {where} says {field} = {counted!r}, and the weights hold {len(layers)} decoder layers"
        )
    if not layers or counted != len(layers) or layers[-1] != counted - 1:
        held = f"{len(layers)} ({layers[0]}-{layers[-1]})" if layers else "none"
        raise _to_mend(
            f"{where} is inconsistent: config.json counts {counted} decoder layers ({field}), the weights hold {held}"
        )


def check_counts(config: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError: a count that is below 1, or more experts for a token than there are."""
    config = config_text_part(config)
    most = config.get("num_local_experts", config.get("num_experts"))
    for name in sorted(_COUNTS & config.keys()):
        value = config[name]
        too_many = name == _PER_TOKEN and _is_whole_number(most) and _is_whole_number(value) and value > most
        if _is_whole_number(value) and (too_many or (value < 1 and not _is_default(config, name))):
            limit = f" to {most}" if name == _PER_TOKEN and most else ""
            raise _to_mend(f"config.json of {where} says {name} = {value}; it must be 1{limit or ' or more'}")


def _is_default(config: Mapping[str, Any], name: str) -> bool:
    """True if a field is as transformers sets it for the type: some types write 0 for what they do not use."""
    with suppress(InputError):
        return bool(getattr(config_of({"model_type": config.get("model_type")}, ""), name, None) == config[name])
    return False


def refuse_no_window(config: PretrainedConfig, where: str) -> None:
    """Raise CheckpointError: layers have a sliding window, and config.json gives no size of it."""
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None) or ()
    if "sliding_attention" in kinds and not (window := getattr(text, "sliding_window", 1)):
        raise CheckpointError(
            f"config.json of {where} says sliding_window = {'null' if window is None else window}, and "
            f"{kinds.count('sliding_attention')} of its layers have a sliding window; it must be 1 or more. Mend "
            "config.json or fetch the checkpoint again."
        )


def refuse_larger(config: PretrainedConfig, stored: int, where: str) -> None:
    """Refuse a config of more than twice the ``stored`` elements, and a million, before anything is built."""
    import torch

    loader = auto_class(config, where)
    with torch.device("meta"):
        model = loader.from_config(config)
    described = sum(parameter.numel() for parameter in model.parameters())
    if described > 2 * stored + 10**6:
        raise _to_mend(
            f"config.json of {where} describes a model of {described:,} parameters; the weights hold {stored:,}"
        )


def refuse_foreign_tokens(tokenizer: PreTrainedTokenizerBase, rows: int, where: str) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for; unused special tokens do not count."""
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1], reverse=True):
        if index < rows:
            return
        added = tokenizer.added_tokens_decoder.get(index)
        # transformers' classes add special tokens of their own where the files have none; those are never written.
        if added is None or not added.special or token in used or token in str(tokenizer.chat_template):
            raise CheckpointError(
                f"the tokenizer of {where} does not fit its weights: it gives the token {token!r} the id {index}, and "
                f"the model has embeddings for {rows} tokens (0-{rows - 1}). Use the tokenizer files of the same model."
            )


def refuse_nonfinite(model: nn.Module, where: str) -> None:
    """Raise CheckpointError if a parameter in memory holds NaN or infinity."""
    for name, tensor in model.named_parameters():
        if not tensor.is_meta and not is_finite(tensor):
            raise CheckpointError(
                f"{name} of {where} holds NaN or infinite numbers in {tensor.dtype}. Use dtype bfloat16 or float32; "
                "if they stay, fetch the checkpoint again, or save it again where it was made."
            )


def is_finite(tensor: Tensor) -> bool:
    """True if a tensor has neither NaN nor infinity; tensors of whole numbers have none."""
    import torch

    if not tensor.dtype.is_floating_point or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # float8 has no arithmetic of its own
        tensor = tensor.to(torch.float16)
    if tensor.device.type != "cpu":
        return bool(torch.isfinite(tensor).all())
    lowest, highest = torch.aminmax(tensor.detach())  # NaN goes through it; 40 times as fast as isfinite, no copy
    return bool(torch.isfinite(lowest) & torch.isfinite(highest))


def _is_whole_number(value: Any) -> TypeGuard[int]:
    return type(value) is int


def _to_mend(problem: str) -> CheckpointError:
    return CheckpointError(f"{problem}. Mend config.json or fetch the checkpoint again.")
