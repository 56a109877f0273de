"""Time one model: reading prompts of random tokens, and writing tokens behind them."""

# Shapes: B batch, T tokens.

from __future__ import annotations

import inspect
import time
from typing import Any, NamedTuple, Protocol

import torch

from layercut.models.loading import LoadedModel
from layercut.models.placement import stored_bytes
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass

NUM_NEW_TOKENS = 16  # timed tokens of each answer


class Timing(NamedTuple):
    """One run of one model."""

    first_token: float  # seconds from the prompts to the first token, which is the time to read them
    prefill: float  # prompt tokens a second, all rows together
    decode: float  # tokens a second after that, all rows together
    cache_bytes: int  # size of keys and values before the timed tokens


class Timer(Protocol):
    """Times one model once."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in memory."""

    def __call__(self, batch: int, prompt: int, middle: int, seed: int) -> Timing:
        """Read ``batch`` prompts of ``prompt`` tokens, and then write greedily behind ``middle`` tokens."""
        ...


class CheckpointTimer:
    """A model of transformers under a plan, by its own forward pass with its key-value cache."""

    def __init__(self, loaded: LoadedModel, plan: CutPlan) -> None:
        self._loaded, self._plan = loaded, plan
        with bypass(loaded.model, plan):
            self.weight_bytes = stored_bytes(loaded.model)

    @torch.no_grad()
    def __call__(self, batch: int, prompt: int, middle: int, seed: int) -> Timing:
        model = self._loaded.model
        keyword, options = name_of_cache(model), {"use_cache": True, "logits_to_keep": 1}
        ids_BT = draw_random_ids(model, batch, max(prompt, middle), seed)
        with bypass(model, self._plan):
            start = synchronised_time(model)
            output = model(input_ids=ids_BT[:, :prompt], **options)
            token_B1 = output.logits[:, -1:].argmax(dim=-1)
            first = synchronised_time(model)
            cache: Any = getattr(output, keyword)
            if middle > prompt:
                model(input_ids=ids_BT[:, prompt:middle], **{keyword: cache}, **options)
            cache_bytes = sum(
                part.nbytes for layer in cache.layers for part in (layer.keys, layer.values) if part is not None
            )
            begun = synchronised_time(model)
            for _ in range(NUM_NEW_TOKENS - 1):
                output = model(input_ids=token_B1, **{keyword: cache}, **options)
                token_B1 = output.logits[:, -1:].argmax(dim=-1)
            end = synchronised_time(model)
        return Timing(
            first_token=first - start,
            prefill=batch * prompt / (first - start),
            decode=batch * (NUM_NEW_TOKENS - 1) / (end - begun),
            cache_bytes=cache_bytes,
        )


def name_of_cache(model: Any) -> str:
    """The argument and the output that hold the key-value cache; transformers is renaming them."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def draw_random_ids(model: Any, batch: int, tokens: int, seed: int) -> torch.Tensor:
    """Texts of random tokens, (batch, tokens)."""
    generator = torch.Generator().manual_seed(seed)
    size = int(model.config.get_text_config(decoder=True).vocab_size)
    return torch.randint(0, size, (batch, tokens), generator=generator).to(model.device)


def synchronised_time(model: Any) -> float:
    """Seconds, once the model's device has done what it was asked."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    elif model.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
