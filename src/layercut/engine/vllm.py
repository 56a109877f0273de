"""VllmEngine: vLLM in this process, with layers skipped in place.

    engine = VllmEngine(load_without_weights(resolve("Qwen/Qwen3-8B")), batch_size=256, cache_gib=40)

Prompts and the end of answers are the same as with PlainEngine: prompts are tokenised here, and stop tokens, stop
strings and early verdicts are checked here, token by token. vLLM does the batching and the arithmetic. Plans run one
after the other; switching takes about a millisecond.

Prefixes are cached in a namespace per plan (vLLM's cache salt). Keys and values of the original model are wrong for any
plan, and answers from them look fine as long as prompts are shorter than a cache block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from layercut.engine import vllm_probe
from layercut.engine.answers import Answer
from layercut.engine.base import Completion, Decoding, Likelihoods
from layercut.engine.by_plan import PlanByPlan
from layercut.engine.prompts import decode
from layercut.engine.rows import GenerationRow, LikelihoodRow, Scoring, Tokens
from layercut.engine.sampling import Next, noise_key
from layercut.engine.scores import ContinuationScore, likelihoods_of
from layercut.engine.stopping import stop_tokens
from layercut.engine.vllm_layers import VERIFIED, leave_out, lists_of, pick_list
from layercut.engine.vllm_start import device_of, import_vllm, lora_request, start, stop
from layercut.errors import InputError
from layercut.progress.activity import wrote

if TYPE_CHECKING:
    from layercut.engine.handle import ModelHandle
    from layercut.models.loading import WeightlessModel
    from layercut.surgery.plan import CutPlan

logger = logging.getLogger(__name__)

MOST_TOKEN_IDS = 128  # next tokens that vLLM scores by their ids in one request
BLOCK = 4  # answers of this many batches come together, so that a finished sequence frees its place for the next one


class VllmEngine(PlanByPlan):
    """One model in vLLM, uncut or under any plan.

    A draw depends on the seed, the request's id and the token's place, as in the other engines, but takes vLLM's noise
    and so gives other texts.
    """

    gives_not = "vLLM does not give"
    _batches_at_once = BLOCK
    _always_writes = True

    def __init__(
        self,
        model: WeightlessModel,
        *,
        batch_size: int = 32,
        device: str = "auto",
        cache_gib: float = 2.0,
        cuda_graphs: bool = False,
    ) -> None:
        """Load the model into vLLM.

        Args:
            batch_size: sequences run at once.
            device: ``auto``, or the kind of device that this build of vLLM is for.
            cache_gib: memory for keys and values. The context is as long as fits in it, and not longer than the
                model's.
            cuda_graphs: let vLLM compile the model and capture CUDA graphs: slower to start and faster to run. They
                hold all layers, so that only the original model can be asked.

        Raises:
            MissingExtra: vLLM is not installed.
            InputError: another device, a model that vLLM refuses, one whose layers are not found, or one of a type that
                was not compared before and that gives other numbers than transformers.
        """
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size} is not possible; use 1 or more.")
        self._batch_size = batch_size
        self._cuda_graphs = cuda_graphs
        self._vllm = import_vllm()
        self._device = device_of(self._vllm, device)
        expected = None
        if model.structure.model_type not in VERIFIED and not cuda_graphs and model.source.adapter is None:
            logger.info("computing with transformers what vLLM has to give, as %s was not compared before", model.name)
            expected = vllm_probe.reference(model)
        self._may_skip = expected is not None or model.structure.model_type in VERIFIED
        self._llm = start(
            self._vllm, model, device=self._device, batch_size=batch_size, cache_gib=cache_gib, cuda_graphs=cuda_graphs
        )
        self._engine = self._llm.llm_engine
        self._lora = lora_request(model)
        self._is_closed = False
        self._removed: frozenset[int] | None = None
        (lists,) = self._llm.apply_model(partial(lists_of, num_layers=model.num_layers))
        try:
            self._layers = pick_list(lists, layers=model.structure.layers, model=model.name)
        except InputError:
            self.close()
            raise
        self._switch(frozenset(), model.num_layers)
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
        if expected is not None and (differs := vllm_probe.difference(expected, self, model.dtype)):
            self.close()
            raise InputError(f"vLLM does not run {model.name} as transformers does: {differs}. Use `engine` shared.")

    def describe(self) -> Mapping[str, Any]:
        return {**self._described("vllm", self._device), "cuda_graphs": self._cuda_graphs}

    def close(self) -> None:
        if not self._is_closed:
            stop(self._vllm, self._llm)
        self._is_closed = True

    def _write(self, rows: Sequence[GenerationRow], plan: CutPlan, decoding: Decoding) -> list[Completion]:
        answers = [Answer(row, (), self._stop_tokens, partial(decode, self._loaded.tokenizer)) for row in rows]
        left, under_way = sum(answer.num_left for answer in answers), len(answers)

        def take(index: int, output: Any) -> bool:
            nonlocal left, under_way
            answer = answers[index]
            before = answer.num_left
            has_ended = any(answer.add(Next(token)) for token in output.outputs[0].token_ids)
            new = before - answer.num_left
            left -= before if has_ended else new
            under_way -= has_ended
            wrote(new, left, under_way)
            return has_ended

        prompts = [(row.prompt, _drawing(self._vllm, row, decoding, self._stop_tokens)) for row in rows]
        self._run(prompts, plan, take)
        return [answer.completion() for answer in answers]

    def _score(self, items: Sequence[Scoring], plan: CutPlan) -> list[Likelihoods]:
        parts = [
            (row, row.continuations[start : start + MOST_TOKEN_IDS])
            for item in items
            for row in item.rows
            for start in range(0, len(row.continuations), MOST_TOKEN_IDS)
        ]
        scores: list[list[ContinuationScore]] = [[] for _ in parts]

        def take(index: int, output: Any) -> bool:
            scores[index] = _read_off(*parts[index], output)
            return True

        prompts = [(row.tokens, _scoring(self._vllm, row, continuations)) for row, continuations in parts]
        self._run(prompts, plan, take)
        return likelihoods_of(self._loaded, items, [score for part in scores for score in part])

    def _run(self, prompts: Sequence[tuple[Tokens, Any]], plan: CutPlan, take: Callable[[int, Any], bool]) -> None:
        """Run prompts under a plan to their ends.

        Args:
            asked: tokens and vLLM's parameters.
            take: is given a prompt's place and what there is new of it, and says whether it has ended.
        """
        self._switch(frozenset(plan.removed), plan.num_layers)
        open_ids: set[str] = set()
        try:
            for index, (tokens, parameters) in enumerate(prompts):
                prompt = {"prompt_token_ids": list(tokens), "cache_salt": plan.key}
                self._engine.add_request(str(index), prompt, parameters, lora_request=self._lora)
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

    def _switch(self, removed: frozenset[int], num_layers: int) -> None:
        if removed == self._removed:
            return
        self._removed = None  # should it be stopped half-way
        (num_found,) = self._llm.apply_model(partial(leave_out, layers=self._layers, removed=removed))
        assert num_found == num_layers, f"vLLM's {self._layers} has {num_found} layers, the checkpoint {num_layers}"
        self._removed = removed

    def _check(self, plan: CutPlan) -> None:
        super()._check(plan)
        if plan.channels is not None:
            raise InputError(
                "vLLM skips layers of the original model, and runs thinner MLPs from a checkpoint alone; write it with "
                "layercut cut and evaluate that, or use `engine` shared."
            )
        if self._cuda_graphs and not plan.is_uncut:
            raise InputError(
                "CUDA graphs contain all layers, so none can be skipped. Omit `cuda_graphs`, or write the pruned "
                "checkpoint with layercut cut and evaluate that."
            )
        if not self._may_skip and not plan.is_uncut:
            raise InputError(
                f"{self._loaded.name} is of a type that was not compared with vLLM, and the comparison takes no "
                "adapters, so no layer is skipped. Use `engine` shared, or merge the adapter."
            )


def _drawing(vllm: Any, row: GenerationRow, decoding: Decoding, stop_tokens: Collection[int]) -> Any:
    """``SamplingParams`` for an answer. The caller checks where it ends, except at stop tokens."""
    drawn: dict[str, Any] = {}
    if not decoding.is_greedy:
        seed = noise_key(decoding.seed, row.id) % 2**63
        drawn = {"top_p": decoding.top_p, "top_k": decoding.top_k, "seed": seed}
    return vllm.SamplingParams(
        temperature=decoding.temperature,
        max_tokens=row.limit,
        stop_token_ids=sorted(stop_tokens),
        ignore_eos=True,  # it is among the stop tokens
        detokenize=False,
        output_kind=vllm.sampling_params.RequestOutputKind.DELTA,
        **drawn,
    )


def _scoring(vllm: Any, row: LikelihoodRow, continuations: Sequence[Tokens]) -> Any:
    """``SamplingParams`` for scores of continuations that differ in their last token alone.

    That token is scored by its id at the row's end. Only what stands before it, inside of continuations of several
    tokens, needs scores along the prompt, and only those requests cannot begin with a cached prefix.
    """
    return vllm.SamplingParams(
        temperature=0.0,
        max_tokens=1,
        ignore_eos=True,
        detokenize=False,
        prompt_logprobs=None if row.num_scored == 1 else 0,  # 0: of the prompt's own tokens
        logprob_token_ids=list(dict.fromkeys(tokens[-1] for tokens in continuations)),
        output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
    )


def _read_off(row: LikelihoodRow, continuations: Sequence[Tokens], output: Any) -> list[ContinuationScore]:
    """Scores from a ``RequestOutput``, as ``_scoring`` asked for them."""
    inner = row.tokens[len(row.tokens) - row.num_scored + 1 :]
    along = output.prompt_logprobs[-len(inner) :] if inner else ()
    read = [entry[token] for token, entry in zip(inner, along, strict=True)]
    shared, is_greedy = sum(found.logprob for found in read), all(found.rank == 1 for found in read)
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
    return VllmEngine(
        handle.weightless,
        batch_size=wanted.batch_size,
        device=wanted.device,
        cache_gib=wanted.cache_gib,
        cuda_graphs=wanted.cuda_graphs,
    )
