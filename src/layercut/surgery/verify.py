"""Verify a written checkpoint: reload it with plain transformers and compare it with the requested model."""

# Shapes: B texts, T tokens, N real tokens of all texts, V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from layercut.errors import InputError, VerificationError, one_line
from layercut.models.loading import LoadedModel
from layercut.models.placement import widened_model
from layercut.models.quiet import quiet_transformers, without_defaults
from layercut.models.structure import auto_class, structure_in, text_config_of
from layercut.surgery.config_fields import INDEX_LISTS, LISTS
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, masked_channels

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEXT_LENGTHS = (1, 7, 24, 64)  # tokens of the texts that are compared, in one left-padded batch
NEW_TOKENS = 8  # tokens that both models write behind each text, greedily and with their caches
ROUNDING_STEPS = 4
"""Tolerance, in rounding steps of the dtype at the size of the largest logit. Mostly the difference is 0: the same
arithmetic to the last bit. Where weights lie in memory, and which kernels an accelerator chooses, sets the order of
sums; what that explains vanishes in a wider dtype, where the same tolerance holds."""
REFERENCE_TOLERANCE = 1e-4
"""Difference from the reference that passes, as a share of the largest logit: rwkv halves its states every few layers,
and a norm whose epsilon then weighs more gives other digits, where a wrong layer gives other logits."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of a comparison."""

    max_abs_diff: float  # largest difference between two logits of the texts
    max_written_diff: float  # the same of what both models write behind the texts
    tolerance: float
    dtype: str  # in which both were computed: that of the original model, or a wider one
    num_tokens: int  # positions compared; each has as many logits as the vocabulary has entries
    num_new_tokens: int
    """Tokens that both models wrote behind the texts, compared up to the first that rounding decided."""

    def describe(self) -> str:
        """One line for people."""
        return (
            f"reloaded with transformers, its tensors are equal and its logits at {self.num_tokens} tokens differ "
            f"from those of the original model under a bypass by at most {self.max_abs_diff:g} ({self.dtype}; up to "
            f"{self.tolerance:.2g} is rounding), and behind the {self.num_new_tokens} tokens that both write with the "
            f"cache by at most {self.max_written_diff:g}"
        )

    @property
    def passes(self) -> bool:
        """True if rounding explains the differences; NaN does not pass."""
        return self.max_abs_diff <= self.tolerance and self.max_written_diff <= self.tolerance


def verify_checkpoint(uncut: LoadedModel, plan: CutPlan, path: Path) -> Verification:
    """Reload the pruned checkpoint at ``path`` and compare it with the original model under a bypass.

    All tensors must be equal. Both models run on the same seeded tokens (TEXT_LENGTHS, left-padded) and write
    NEW_TOKENS behind them, which shows a cache or a recurrent state of another layer; kinds of layers are compared by
    name, as short texts show no window of thousands of tokens. The longest text is compared with the original whose
    layers are skipped in place. What differs by more than ROUNDING_STEPS x epsilon x the largest logit is computed
    again in a wider dtype. Raises VerificationError.
    """
    model = uncut.model
    # torch picks the kernel of a product by whether gradients may be needed, so both models say the same of it.
    cut = _reload(model, path).requires_grad_(next(model.parameters()).requires_grad)
    kept = torch.tensor(plan.vocabulary.kept) if plan.vocabulary else None
    # Left-padded random tokens (B, T), the same for the same number of tokens.
    embeddings: Any = model.get_input_embeddings()
    size, generator = embeddings.weight.shape[0] if kept is None else len(kept), torch.Generator().manual_seed(0)
    ids_BT = torch.zeros((len(TEXT_LENGTHS), max(TEXT_LENGTHS)), dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, length in enumerate(TEXT_LENGTHS):
        ids_BT[row, -length:] = torch.randint(size, (length,), generator=generator)
        mask_BT[row, -length:] = 1
    batch = {"input_ids": ids_BT.to(model.device), "attention_mask": mask_BT.to(model.device)}
    # Alone, because some attention turns padding into NaN in float64.
    texts = [
        {name: rows_BT[row : row + 1, -num:] for name, rows_BT in batch.items()} for row, num in enumerate(TEXT_LENGTHS)
    ]
    dtype = model.dtype

    def run_texts(bypassed: PreTrainedModel) -> _Run:
        batches = [batch] if bypassed.dtype == dtype else texts
        logits_NV = torch.cat([_logits(bypassed, some) for some in batches])
        return _Run(logits_NV, [_written(bypassed, some) for some in batches], bypassed.dtype)

    def run_cut(model: PreTrainedModel) -> _Run:
        return _Run(_logits(model, texts[-1]), [], model.dtype)

    def run_skipped(whole: PreTrainedModel) -> _Run:
        with layers_skipped(whole, plan.removed):
            return _Run(_logits(whole, texts[-1], kept), [], whole.dtype)

    with bypass(model, plan):
        for name in sorted(LISTS | INDEX_LISTS):
            wanted, held = (getattr(text_config_of(each), name, None) for each in (model, cut))
            if wanted != held:
                raise VerificationError(f"{path}: {name} is {held} after reloading, but should be {wanted}.")
        thin_NV = _logits(model, batch) if plan.channels else None
        tensors = cut.state_dict()
        for name, wanted in model.state_dict().items():
            if not isinstance(wanted, Tensor) or wanted.is_meta:  # offloaded: the logits tell
                continue
            held = tensors.get(name)
            if held is None or held.shape != wanted.shape or not torch.equal(held.to(wanted.device), wanted):
                what = "is missing" if held is None else "differs from that of the original model"
                raise VerificationError(f"{path} is not the model that was asked for: after reloading, {name} {what}.")
        try:
            expected = run_texts(model)
        except Exception as error:  # whatever the model's own code raises
            removed = f"layers {plan.label}" if plan.removed else plan.label
            raise InputError(
                f"transformers cannot run {uncut.name} without {removed}: {one_line(error)}. Remove others, or "
                "write the checkpoint without this comparison: `verify=false`."
            ) from error
        result = _compared(expected, (model, run_texts), (cut, run_texts))
    if thin_NV is not None:
        # Thinner MLPs and whole ones under zeros for the removed channels share no slicing code. They take sums of
        # different length, so they differ by rounding, a small part of what thinning changes; a channel at the wrong
        # place changes as much as that.
        with layers_skipped(model, plan.removed):
            whole_NV = _logits(model, batch, kept)
            with masked_channels(model, plan):
                masked_NV = _logits(model, batch, kept)
        change, wrong = (whole_NV - thin_NV).abs().mean(), (masked_NV - thin_NV).abs().mean()
        if not wrong <= 0.1 * change:
            raise VerificationError(
                f"{path}: with zeros for the removed MLP channels the whole model computes something else (logits "
                f"differ by {float(wrong):g} on average, and thinning changes them by {float(change):g})."
            )
    if not result.passes:
        raise VerificationError(f"{path} is not the model that was asked for: {result.describe()}.")
    if (plan.removed or plan.vocabulary) and plan.channels is None:
        reference = _compared(run_skipped(model), (model, run_skipped), (cut, run_cut), least=REFERENCE_TOLERANCE)
        if not reference.passes:
            raise VerificationError(
                f"{path} is not the model that was asked for: its logits differ by {reference.max_abs_diff:g} from "
                f"those of the original model with layers {plan.label} skipped in place ({reference.dtype})."
            )
    return result


def _reload(model: PreTrainedModel, path: Path) -> PreTrainedModel:
    from transformers import AutoConfig

    config: Any = model.config
    spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
    # Each part with a config of its own may have another attention.
    parts = {name: getattr(config, name, None) for name in getattr(config, "sub_configs", {})}
    own = {name: part._attn_implementation for name, part in parts.items() if part is not None}
    with quiet_transformers():
        loaded: Any = auto_class(AutoConfig.from_pretrained(path, local_files_only=True)).from_pretrained(
            path,
            dtype=model.dtype,
            device_map="auto" if spread else model.device,
            attn_implementation={"": config._attn_implementation, **own},
            local_files_only=True,
            output_loading_info=True,
        )
    cut, info = loaded
    if absent := [str(key) for key in (*info["missing_keys"], *info["mismatched_keys"])]:
        raise VerificationError(f"{path} lacks weights that transformers asks for: {', '.join(sorted(absent)[:3])}.")
    reloaded: PreTrainedModel = cut.eval()
    return reloaded


class _Run(NamedTuple):
    """Logits of a model on the texts."""

    logits_NV: Tensor
    written: list[_Written]  # by batch
    dtype: torch.dtype


def _compared(
    expected: _Run, *runs: tuple[PreTrainedModel, Callable[[PreTrainedModel], _Run]], least: float = 0.0
) -> Verification:
    """Compare two models by what runs each, and where they differ in a wider dtype; ``expected``: the first's run."""
    (model, _), (cut, run_cut) = runs
    share = max(ROUNDING_STEPS * torch.finfo(model.dtype).eps, least)
    result = _difference(expected, run_cut(cut), share)
    if result.passes:
        return result
    wide_runs = []
    for narrow, run in runs:  # one copy at a time
        if (wide := widened_model(narrow)) is None:
            return result
        try:
            wide_runs.append(run(wide))
        except (RuntimeError, NotImplementedError):  # a kernel that has no such dtype
            return result
    return _difference(wide_runs[0], wide_runs[1], share)


def _difference(expected: _Run, cut: _Run, share: float) -> Verification:
    steps = []  # logits (rows, V) of both, step by step, of texts that are still the same: past a tie they are others
    for left, right in zip(expected.written, cut.written, strict=True):
        for step, (left_BV, right_BV) in enumerate(zip(left.logits_NBV, right.logits_NBV, strict=True)):
            same_B = (left.tokens_BN[:, :step] == right.tokens_BN[:, :step]).all(dim=1)
            if same_B.any():
                steps.append((left_BV[same_B], right_BV[same_B]))
    written = [(left_NV - right_NV).abs().max() for left_NV, right_NV in steps]
    return Verification(
        max_abs_diff=(cut.logits_NV - expected.logits_NV).abs().max().item(),
        max_written_diff=torch.stack(written).max().item() if written else 0.0,
        tolerance=share * max(1.0, expected.logits_NV.abs().max().item()),
        dtype=str(expected.dtype).removeprefix("torch."),
        num_tokens=len(expected.logits_NV),
        num_new_tokens=sum(len(left_NV) for left_NV, _ in steps),
    )


@torch.no_grad()
def _logits(model: PreTrainedModel, batch: dict[str, Tensor], kept: Tensor | None = None) -> Tensor:
    """(number of real tokens, V) in float64 on the CPU; ``kept``: of these tokens alone, by whose places they go."""
    ids_BT = batch["input_ids"] if kept is None else kept.to(batch["input_ids"].device)[batch["input_ids"]]
    logits_BTV: Tensor = model(**batch | {"input_ids": ids_BT}, use_cache=False).logits
    logits_NV = logits_BTV[batch["attention_mask"].bool()].cpu().double()
    return logits_NV if kept is None else logits_NV[:, kept]


class _Written(NamedTuple):
    """Tokens and logits that a model wrote: N steps, B texts, V vocabulary."""

    tokens_BN: Tensor
    logits_NBV: tuple[Tensor, ...]


@torch.no_grad()
def _written(model: PreTrainedModel, batch: dict[str, Tensor]) -> _Written:
    from transformers import GenerationConfig

    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    with without_defaults(model):
        answer: Any = model.generate(**batch, generation_config=GenerationConfig(**settings))  # type: ignore
    width = batch["input_ids"].shape[1]
    return _Written(answer.sequences[:, width:].cpu(), tuple(step.cpu().double() for step in answer.logits))


@contextmanager
def layers_skipped(model: PreTrainedModel, removed: Sequence[int]) -> Iterator[None]:
    """Have these layers of the original ``model`` hand on the states that they are given: the reference of every cut.

    All other layers keep their place, their number and their config, so it shares no rule with ``remove``, ``kinds`` or
    ``config_fields``. It holds without a cache only: transformers counts cached tokens at layer 0.
    """
    stack: Any = model.get_submodule(structure_in(model).layers)
    with ExitStack() as undo:
        for layer in (stack[index] for index in removed):
            skip = _Skip()
            undo.callback(layer.register_forward_pre_hook(skip.keep_states, with_kwargs=True).remove)
            undo.callback(layer.register_forward_hook(skip.hand_on, with_kwargs=True).remove)
        yield


class _Skip:
    """Hooks of one layer. It still runs, because only its output shows in which form the model wants the states."""

    def keep_states(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        self._states = args[0] if args else kwargs["hidden_states"]
        copy = self._states.clone()  # some layers add to their input in place
        return ((copy, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": copy})

    def hand_on(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not isinstance(output, (tuple, list)):
            return self._states
        # What follows the states is handed from layer to layer, or is for callers who did not ask for it here.
        handed = [*args[1:], *(value for name, value in kwargs.items() if name.startswith("prev"))]
        rest = (*handed, *(None for _ in output))[: len(output) - 1]
        return type(output)([self._states, *rest])
