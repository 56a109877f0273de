"""Start vLLM with its model in this process, where layers can be skipped."""

from __future__ import annotations

import os
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError, MissingExtra, first_line

if TYPE_CHECKING:
    from layercut.models.loading import WeightlessModel

CPU_BLOCK = 32
"""Tokens of a cache block on a CPU. vLLM's own number, 128, is longer than most prefixes that are shared here."""

MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # ranks that vLLM supports

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model has to be in this process
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for results
}
"""Environment of vLLM, unless it is already set."""


def import_vllm() -> Any:
    """The module. Raises MissingExtra: vLLM is not installed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        import vllm.distributed
        import vllm.platforms
    except ImportError as error:
        raise MissingExtra("running a model with vLLM", "vllm") from error
    return vllm


def device_of(vllm: Any, wanted: str) -> str:
    """The kind of device that this build of vLLM is for: ``cuda``, ``cpu``, ...

    Raises:
        InputError: another one is wanted.
    """
    here: str = vllm.platforms.current_platform.device_type
    if wanted not in ("auto", here):
        raise InputError(f"this vLLM runs on {here}, not on {wanted}; use `device` auto, or `engine` shared.")
    return here


def start(
    vllm: Any, model: WeightlessModel, *, device: str, batch_size: int, cache_gib: float, cuda_graphs: bool
) -> Any:
    """Load a model: a ``vllm.LLM`` that takes tokens and gives tokens. Raises InputError: vLLM refuses it."""
    adapter = _lora(model)
    try:
        return vllm.LLM(
            str(model.source.path),
            dtype=model.dtype,
            trust_remote_code=model.trust_remote_code,
            skip_tokenizer_init=True,
            generation_config="vllm",  # none of the checkpoint's own
            max_model_len=-1,  # what fits
            max_num_seqs=batch_size,
            kv_cache_memory_bytes=round(cache_gib * 2**30),
            enable_prefix_caching=True,
            enforce_eager=not cuda_graphs,
            distributed_executor_backend="uni",
            async_scheduling=False,  # no step may be under way when layers are switched
            use_tqdm_on_load=False,
            **({"block_size": CPU_BLOCK} if device == "cpu" else {}),
            **adapter,
        )
    except (
        ValueError,
        RuntimeError,
        OSError,
        NotImplementedError,
        AssertionError,
    ) as error:  # vLLM raises all of these
        raise InputError(
            f"vLLM cannot run {model.name} ({_reason(error)}). Try a larger `cache_gib` or another `dtype`, or use "
            "`engine` shared."
        ) from error


def lora_request(model: WeightlessModel) -> Any:
    """The request that is sent with every prompt to have the adapter computed beside the weights, unmerged; or None."""
    adapter = model.source.adapter
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter.folder.name, 1, str(adapter.folder.absolute()))


def _lora(model: WeightlessModel) -> dict[str, Any]:
    """The adapter as vLLM takes it.

    Its places are named, because vLLM otherwise wraps the head too, which then cannot score the tokens of a prompt.
    """
    adapter = model.source.adapter
    if adapter is None:
        return {}
    places = adapter.places()
    outside = [place for place in places if not model.structure.tensor_pattern.match(f"{place}.weight")]
    if outside:
        raise InputError(
            f"{model.name} changes {outside[0]}, but vLLM supports adapters of decoder layers only; use `engine` "
            "shared, or merge the adapter."
        )
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": next((room for room in MAX_LORA_RANKS if room >= adapter.rank), adapter.rank),
        "lora_target_modules": sorted({place.rpartition(".")[2] for place in places}),
    }


def stop(vllm: Any, llm: Any) -> None:
    """Let a model and its memory go."""
    llm.llm_engine.engine_core.shutdown()
    vllm.distributed.cleanup_dist_env_and_memory()


def _reason(error: Exception) -> str:
    """One line, not longer than needed. The first one of a validation error only counts what is wrong."""
    reasons = error.errors() if hasattr(error, "errors") else ()
    return shorten(str(reasons[0]["msg"]) if reasons else first_line(error), 200, placeholder=" ...").rstrip(".")
