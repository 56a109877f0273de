"""layercut as a model of lm-eval: any model under a plan, in lm-eval's own runs

    python -m layercut.tools.lm_eval --model layercut --model_args pretrained=bundled:smollm2-135m,remove=27-29 \\
        --tasks arc_easy

This is lm-eval's command line with one more model. lm-eval's own ``hf`` model loads, batches, scores and generates, so
the numbers are those of ``--model hf`` on the checkpoint that ``layercut cut`` writes; all of its arguments hold.
lm-eval 0.4.13 knows only its own models by name, so this module registers ours. Versions that find models by entry
points know ``lm_eval --model layercut`` once both are installed. From Python, in both:

    import lm_eval, layercut.tools.lm_eval
    lm_eval.simple_evaluate("layercut", {"pretrained": "my-model", "remove": "3,8,21-24"}, tasks=["arc_easy"])
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from layercut.errors import InputError, MissingExtra
from layercut.models.placement import pick_device
from layercut.models.sources import describe_source, resolve_source
from layercut.selection.specs import LayerSpec
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import remove_layers

try:
    from lm_eval.api.registry import model_registry
    from lm_eval.models.huggingface import HFLM
except ImportError as missing:
    raise MissingExtra("being a model of lm-eval", "lm-eval") from missing

NAME = "layercut"
_OVER_ALL_LAYERS = ("peft", "delta")  # arguments of ``hf`` that change layers before they can be removed


class LayercutLM(HFLM):  # type: ignore[misc]
    """lm-eval's ``hf`` model with decoder layers removed.

    Args:
        pretrained: hub id, local folder, ``.gguf`` file or ``bundled:smollm2-135m``.
        remove: removed layers, as ``layercut eval --remove`` takes them: ``27-29``, ``reverse:3``, the path of a
            plan.json, one number, or a list of numbers; none if left out. lm-eval's command line splits arguments at
            commas, so write ``remove='3,8,21-24'`` there, with the quotes.
        revision: branch, tag or commit of a hub model.
        seed: of ``remove=random:N``.
        device: if left out, an accelerator if there is one, else the CPU (``hf`` asks for ``cuda`` everywhere).
        options: all other arguments of ``hf``, such as ``dtype``, ``max_length`` and ``parallelize``.

    Raises:
        InputError: a model, layers or a plan that cannot be used, or ``peft`` or ``delta`` beside ``remove``.
    """

    def __init__(
        self,
        pretrained: str,
        remove: str | int | Sequence[int] | None = None,
        *,
        revision: str | None = None,
        seed: int = 0,
        device: str | None = None,
        **options: Any,
    ) -> None:
        source = resolve_source(pretrained, revision=revision)
        metadata = describe_source(source)
        self.plan = _plan(
            remove,
            num_layers=metadata.num_layers,
            model=pretrained,
            model_hash=metadata.model_hash,
            seed=seed,
        )
        for name in _OVER_ALL_LAYERS:
            if options.get(name) and not self.plan.is_uncut:
                raise InputError(
                    f"{name} and remove cannot be combined, because {name} would be applied to the original model; cut "
                    f"first (layercut cut {pretrained} ...) and give the checkpoint as pretrained, with {name}."
                )
        self._named = source
        self._model_hash = metadata.model_hash
        super().__init__(pretrained=str(source.path), device=device or str(pick_device()), **options)

    def _create_model(self, *args: Any, **options: Any) -> None:
        super()._create_model(*args, **options)
        if not self.plan.is_uncut:
            remove_layers(self._model, self.plan)
            self._config = self._model.config

    def get_model_info(self) -> dict[str, Any]:
        """The model's entries in lm-eval's results: those of hf, the plan and the checkpoint's hash."""
        return {
            **super().get_model_info(),
            "model_revision": self._named.revision or "",
            "model_sha": self._named.revision or "",
            "layercut_model": self._named.name,
            "layercut_model_hash": self._model_hash,
            "layercut_removed": list(self.plan.removed),
            "layercut_num_layers": self.plan.num_layers,
            **({"layercut_mlp_channels": self.plan.channels.num_kept} if self.plan.channels else {}),
        }


def _plan(remove: str | int | Sequence[int] | None, **about: Any) -> CutPlan:
    if remove is None:
        del about["seed"]
        return CutPlan(**about)
    return LayerSpec.parse(remove if isinstance(remove, Sequence) else str(remove)).bind(**about)


if NAME not in model_registry:  # a version that reads entry points may have it already
    model_registry.register(NAME)(LayercutLM)


def main() -> None:
    """lm-eval's command line; errors that a user can correct are one line, as on layercut's own."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except InputError as error:
        print(f"layercut: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
