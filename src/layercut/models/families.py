"""One row per model_type: where a family keeps its decoder layers.

To add a family, add a row here and a tiny model in ``tests/support/tiny.py``; the surgery tests then run on it.
Behaviour follows from the row and from the model's config, never from the model's name. Which per-layer config fields
follow the layers is in ``surgery/config_fields.py`` and holds for every family.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from layercut.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one model_type is built."""

    model_type: str
    """``model_type`` of config.json."""
    layers: str = "model.layers"
    """Dotted path from the causal language model to its ModuleList of decoder layers."""
    num_layers_field: str = "num_hidden_layers"
    """Key in config.json that counts decoder layers."""
    per_layer_scale_field: str | None = None
    """Config flag under which a layer's arithmetic depends on its position. Such a model cannot lose a layer below
    one that stays without changing that one, so it is refused."""

    @property
    def tensor_pattern(self) -> re.Pattern[str]:
        """Matches a tensor of a decoder layer: groups are what stands before the index, the index, and the rest.

        Checkpoints of some families leave out the first part of the path (``h.0.ln_1.weight`` for
        ``transformer.h.0.ln_1.weight``), so it is optional.
        """
        *base, last = self.layers.split(".")
        prefix = "".join(rf"(?:{re.escape(part)}\.)?" for part in base)
        return re.compile(rf"^({prefix}{re.escape(last)}\.)(\d+)(\..+)$")


_ROWS = (
    Family(model_type="llama"),  # Llama 1-3, SmolLM2, deepseek-llm and many others
    Family(model_type="mistral"),
    Family(model_type="qwen2"),
    Family(model_type="qwen3"),
    Family(model_type="gemma2"),
    Family(model_type="gemma3_text"),
    Family(model_type="olmo2"),
    Family(model_type="olmo3"),
    Family(model_type="phi3"),
    Family(model_type="gpt_neox", layers="gpt_neox.layers"),
    Family(
        model_type="gpt2",
        layers="transformer.h",
        num_layers_field="n_layer",
        per_layer_scale_field="scale_attn_by_inverse_layer_idx",
    ),
    Family(model_type="mixtral"),
    Family(model_type="qwen3_moe"),
)

FAMILIES: dict[str, Family] = {row.model_type: row for row in _ROWS}


def family_of(model_type: str | None, model: str = "this model") -> Family:
    """The row of a model_type.

    Raises:
        InputError: no such row; the known ones are listed with how to add one.
    """
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    raise InputError(
        f"{model} is of the family {model_type!r}, which layercut does not know. Known: {', '.join(sorted(FAMILIES))}. "
        "If its decoder layers are plain residual blocks, add a row to layercut/models/families.py (CONTRIBUTING.md)."
    )
