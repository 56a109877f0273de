"""VllmEngine: vLLM in this process, with layers skipped in place; prompts and ends of answers are handled here.

Decoder layers are the list of modules that is as long as the checkpoint counts layers. A layer that is to change
nothing hands on the stream and, in most of vLLM's models, a second tensor: the residual stream that the first is still
to be added to. The signature of the layer's ``forward`` says which. VERIFIED types alone are run: for some others vLLM
computes something else than transformers.

Plans run one after the other, each with its own namespace of cached prefixes (vLLM's cache salt): keys and values of
the original model are wrong for any plan, and prompts shorter than a cache block do not show it.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from layercut.engine.base import Completion, Decoding, Likelihoods
from layercut.engine.batching import PlanByPlan
from layercut.engine.handle import ModelHandle
from layercut.engine.rows import GenerationRow, LikelihoodRow, Scoring, Tokens
from layercut.engine.scores import ContinuationScore, likelihoods_of
from layercut.engine.stopping import Answer, noise_key, stop_tokens
from layercut.errors import InputError, MissingExtra, first_line
from layercut.models.loading import WeightlessModel
from layercut.progress.activity import report_tokens
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

MOST_TOKEN_IDS = 128  # next tokens that vLLM scores by their ids in one request
CPU_BLOCK = 32  # tokens of a cache block on a CPU; vLLM's own 128 are more than most prefixes that are shared here
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model has to be in this process
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for results
}
"""Environment of vLLM, unless it is already set."""
VERIFIED = frozenset({
    "cohere", "gemma3_text", "gpt2", "granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "olmo3", "phi3",
    "qwen2", "qwen3", "qwen3_moe", "smollm3", "starcoder2",
})  # fmt: skip
"""Types that were compared with transformers, whole and without some layers: tests/behaviour/test_vllm.py. A new one is
a row here, once it passes there."""

_OWN = "_layercut_own_forward"
"""Attribute of a layer that is left out: the forward that was its own attribute before, or None."""
_STREAM, _RESIDUAL = "hidden_states", "residual"


class VllmEngine(PlanByPlan):
    """One model in vLLM, uncut or under any plan; draws take vLLM's noise and so give other texts."""

    gives_not = "vLLM does not give"
    _batches_at_once = 4  # so that a finished sequence frees its place for the next one
    _always_writes = True

    def __init__(
        self, model: WeightlessModel, *, batch_size: int = 32, device: str = "auto", cache_gib: float = 2.0
    ) -> None:
        """Load the model. The context is as long as fits in ``cache_gib``, and not longer than the model's."""
        refuse_other_types(model)
        self._batch_size = batch_size
        self._vllm = _import_vllm()
        self._device: str = self._vllm.platforms.current_platform.device_type  # that this build of vLLM is for
        if device not in ("auto", self._device):
            raise InputError(
                f"this vLLM runs on {self._device}, not on {device}; use `device` auto, or `engine` shared."
            )
        self._llm = self._start_model(model, cache_gib)
        self._engine = self._llm.llm_engine
        self._is_closed = False
        self._removed: frozenset[int] | None = None
        try:
            (lists,) = self._llm.apply_model(partial(module_lists_of, num_layers=model.num_layers))
            self._layers = pick_layer_list(lists, layers=model.structure.layers, model=model.name)
            self._skip_layers(frozenset(), model.num_layers)
            room = self._engine.model_config.max_model_len
            if model.context_length is not None and room < model.context_length:
                logger.warning(
                    "the context is %d tokens, of the %d that %s takes: more do not fit in `cache_gib` %g",
                    *(room, model.context_length, model.name, cache_gib),
                )
            self._loaded = replace(model, context_length=min(room, model.context_length or room))
            vocabulary = self._engine.model_config.get_vocab_size()
            stops = stop_tokens(model.tokenizer, model.generation_config)
            self._stop_tokens = tuple(token for token in stops if token < vocabulary)
        except InputError:
            self.close()
            raise

    def describe(self) -> Mapping[str, Any]:
        return self._described("vllm", self._device)

    def close(self) -> None:
        if not self._is_closed:
            self._llm.llm_engine.engine_core.shutdown()
            self._vllm.distributed.cleanup_dist_env_and_memory()
        self._is_closed = True

    def _start_model(self, model: WeightlessModel, cache_gib: float) -> Any:
        """A ``vllm.LLM`` that takes tokens and gives tokens. Raises InputError: vLLM refuses it."""
        options = {"block_size": CPU_BLOCK} if self._device == "cpu" else {}
        try:
            return self._vllm.LLM(
                str(model.source.path),
                dtype=model.dtype,
                skip_tokenizer_init=True,
                generation_config="vllm",  # none of the checkpoint's own
                max_model_len=-1,  # what fits
                max_num_seqs=self._batch_size,
                kv_cache_memory_bytes=round(cache_gib * 2**30),
                enable_prefix_caching=True,
                enforce_eager=True,  # CUDA graphs hold all layers
                distributed_executor_backend="uni",
                async_scheduling=False,  # no step may be under way when layers are switched
                use_tqdm_on_load=False,
                **options,
            )
        except (ValueError, RuntimeError, OSError, NotImplementedError, AssertionError) as error:  # vLLM raises any
            # The first line of a validation error only counts what is wrong.
            reasons = error.errors() if hasattr(error, "errors") else ()
            reason = str(reasons[0]["msg"]) if reasons else first_line(error)
            raise InputError(
                f"vLLM cannot run {model.name} ({shorten(reason, 200, placeholder=' ...').rstrip('.')}). Try a larger "
                "`cache_gib` or another `dtype`, or use `engine` shared."
            ) from error

    def _write(self, rows: Sequence[GenerationRow], plan: CutPlan, decoding: Decoding) -> list[Completion]:
        answers = [Answer(row, self._stop_tokens, self._decode) for row in rows]
        left = sum(answer.num_left for answer in answers)

        def take(index: int, output: Any) -> bool:
            nonlocal left
            answer = answers[index]
            before = answer.num_left
            has_ended = any(answer.add(token) for token in output.outputs[0].token_ids)
            new = before - answer.num_left
            left -= before if has_ended else new
            report_tokens(new, left)
            return has_ended

        self._run([(row.prompt, self._drawing(row, decoding)) for row in rows], plan, take)
        return [answer.completion() for answer in answers]

    def _drawing(self, row: GenerationRow, decoding: Decoding) -> Any:
        """``SamplingParams`` for an answer. Its end is checked here, except at stop tokens."""
        drawn: dict[str, Any] = {}
        if not decoding.is_greedy:
            seed = noise_key(decoding.seed, row.id) % 2**63
            drawn = {"top_p": decoding.top_p, "top_k": decoding.top_k, "seed": seed}
        return self._vllm.SamplingParams(
            temperature=decoding.temperature,
            max_tokens=row.limit,
            stop_token_ids=sorted(self._stop_tokens),
            ignore_eos=True,  # it is among the stop tokens
            detokenize=False,
            output_kind=self._vllm.sampling_params.RequestOutputKind.DELTA,
            **drawn,
        )

    def _score(self, items: Sequence[Scoring], plan: CutPlan) -> list[Likelihoods]:
        parts = [
            (row, row.continuations[start : start + MOST_TOKEN_IDS])
            for item in items
            for row in item.rows
            for start in range(0, len(row.continuations), MOST_TOKEN_IDS)
        ]
        scores: list[list[ContinuationScore]] = [[] for _ in parts]

        def take(index: int, output: Any) -> bool:
            scores[index] = _read_scores(*parts[index], output)
            return True

        self._run([(row.tokens, self._scoring(row, continuations)) for row, continuations in parts], plan, take)
        return likelihoods_of(self._loaded, items, [score for part in scores for score in part])

    def _scoring(self, row: LikelihoodRow, continuations: Sequence[Tokens]) -> Any:
        """For continuations that differ in their last token, scored by id; longer ones need scores along the prompt."""
        return self._vllm.SamplingParams(
            temperature=0.0,
            max_tokens=1,
            ignore_eos=True,
            detokenize=False,
            prompt_logprobs=None if row.num_scored == 1 else 0,  # 0: of the prompt's own tokens
            logprob_token_ids=list(dict.fromkeys(tokens[-1] for tokens in continuations)),
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )

    def _run(self, prompts: Sequence[tuple[Tokens, Any]], plan: CutPlan, take: Callable[[int, Any], bool]) -> None:
        """Run prompts, tokens with vLLM's parameters; ``take`` gets what is new at a place, and says if it ended."""
        self._skip_layers(frozenset(plan.removed), plan.num_layers)
        open_ids: set[str] = set()
        try:
            for index, (tokens, parameters) in enumerate(prompts):
                prompt = {"prompt_token_ids": list(tokens), "cache_salt": plan.key}
                self._engine.add_request(str(index), prompt, parameters)
                open_ids.add(str(index))
            while self._engine.has_unfinished_requests():
                ended = []
                for output in self._engine.step():
                    has_ended = take(int(output.request_id), output)
                    if has_ended and not output.finished:
                        ended.append(output.request_id)
                    if has_ended or output.finished:
                        open_ids.discard(output.request_id)
                if ended:
                    self._engine.abort_request(ended)
        finally:
            if open_ids:  # stopped in the middle, by Ctrl-C or an error
                self._engine.abort_request(sorted(open_ids))

    def _skip_layers(self, removed: frozenset[int], num_layers: int) -> None:
        if removed == self._removed:
            return
        self._removed = None  # should it be stopped half-way
        (count,) = self._llm.apply_model(partial(leave_out_layers, layers=self._layers, removed=removed))
        assert count == num_layers, f"vLLM's {self._layers} has {count} layers, the checkpoint {num_layers}"
        self._removed = removed

    def _check(self, plan: CutPlan) -> None:
        super()._check(plan)
        if plan.channels is not None:
            raise InputError(
                "vLLM runs thinner MLPs from a checkpoint alone; write it with layercut cut, or use `engine` shared."
            )


def _import_vllm() -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        import vllm.distributed
        import vllm.platforms
    except ImportError as error:
        raise MissingExtra("running a model with vLLM", "vllm") from error
    return vllm


def _read_scores(row: LikelihoodRow, continuations: Sequence[Tokens], output: Any) -> list[ContinuationScore]:
    """Scores from a ``RequestOutput``, as ``_scoring`` asked for them."""
    inner = row.tokens[len(row.tokens) - row.num_scored + 1 :]
    along = output.prompt_logprobs[-len(inner) :] if inner else ()
    read = [entry[token] for token, entry in zip(inner, along, strict=True)]
    shared, is_greedy = sum(score.logprob for score in read), all(score.rank == 1 for score in read)
    answer = output.outputs[0]
    (likeliest,), (after,) = answer.token_ids, answer.logprobs
    return [
        ContinuationScore(shared + after[tokens[-1]].logprob, is_greedy and tokens[-1] == likeliest)
        for tokens in continuations
    ]


def engine_of(handle: ModelHandle) -> VllmEngine:
    """The engine of a row of ENGINES."""
    wanted = handle.settings
    if wanted.device_map is not None:
        logger.warning("device_map %s has no effect with the engine vllm", wanted.device_map)
    options = {name: getattr(wanted, name) for name in ("batch_size", "device", "cache_gib")}
    return VllmEngine(handle.weightless, **options)


# Skipped layers


def refuse_other_types(model: WeightlessModel) -> None:
    """Raise InputError for a type of model that is not VERIFIED."""
    if (kind := model.structure.model_type) not in VERIFIED:
        raise InputError(
            f"{model.name} is of the type {kind}, of which it is not known that vLLM computes the same as transformers "
            f"({', '.join(sorted(VERIFIED))} are); use `engine` shared, or serve it with vllm and use `engine` openai."
        )


def module_lists_of(model: nn.Module, *, num_layers: int) -> list[str]:
    """Dotted names of the lists of modules that are as long as the model is deep."""
    from torch import nn

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]


def pick_layer_list(lists: Collection[str], *, layers: str, model: str) -> str:
    """The list of decoder layers: the only one, or the only one of the name that transformers gives it."""
    last = layers.rpartition(".")[2]
    named = [name for name in lists if name.rpartition(".")[2] == last]
    for names in (list(lists), named):
        if len(names) == 1:
            return names[0]
    raise InputError(
        f"vLLM's {model} has {', '.join(sorted(lists)) or 'no list'}, not one list of layers; use `engine` shared."
    )


def leave_out_layers(model: nn.Module, *, layers: str, removed: Collection[int]) -> int:
    """Leave out these layers of vLLM's model, and take back in all others; gives the number of all."""
    modules = list(model.get_submodule(layers).children())
    for index, layer in enumerate(modules):
        if _OWN in vars(layer):
            own = vars(layer)[_OWN]
            del layer.forward, layer.__dict__[_OWN]
            if own is not None:
                layer.forward = own
        if index in removed:
            layer.__dict__[_OWN] = vars(layer).get("forward")
            layer.forward = pass_states_on(type(layer).forward)
    return len(modules)


def pass_states_on(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's output if it changes nothing, by the arguments of its ``forward``: granite's promises are not kept."""
    names = [name for name in inspect.signature(forward).parameters if name != "self"]
    stream = _STREAM if _STREAM in names else names[0]

    def same(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if stream not in given:  # the first argument of a wrapper that takes any
            return args[0]
        return (given[stream], given.get(_RESIDUAL)) if _RESIDUAL in names else given[stream]

    return same
