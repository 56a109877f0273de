"""Log-likelihoods equal those of the LM Evaluation Harness's own Hugging Face run, item by item."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from layercut.engine.base import LikelihoodRequest, Message
from layercut.engine.plain import PlainEngine
from layercut.engine.rows import render_prompt
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from tests.support.engines import by_id, log_likelihoods
from tests.support.harness import loaded_with_words
from tests.support.tiny import NUM_LAYERS

pytest.importorskip("lm_eval", reason="compares with lm-eval: pip install 'layercut[lm-eval]'")

CONTEXTS = (
    "Question: Which of these is larger? Answer:",
    "Question: Which of these is larger? Answer: ",
    "The answer is \n",
    "the",  # "the" + "se" is one token: the boundary falls inside a word
    "seven seven",
    "",
    "77 * 1 =",
    "the other " * 60,  # longer than the context
)
CONTINUATIONS = (" seven", " eleven", " 7", " 77", "se", " the others", "?")


def lm_eval_scores(model: Any, tokenizer: Any, pairs: list[tuple[str, str]], **options: Any) -> list[Any]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.disable(logging.WARNING)
    try:
        reference = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, **options)
        shared = {"request_type": "loglikelihood", "doc": {}}
        requests = [Instance(arguments=pair, idx=i, **shared) for i, pair in enumerate(pairs)]
        return [(float(total), bool(greedy)) for total, greedy in reference.loglikelihood(requests, disable_tqdm=True)]
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "qwen3", "mixtral"])
@pytest.mark.parametrize("adds_bos", [False, True], ids=["no_bos", "bos"])
@pytest.mark.parametrize("removed", [(), (0, 3)], ids=["uncut", "cut"])
def test_scores_are_those_of_lm_eval(model_type, adds_bos, removed):
    loaded, plan = loaded_with_words(model_type, adds_bos=adds_bos), CutPlan(num_layers=NUM_LAYERS, removed=removed)
    loaded.model.config.max_position_embeddings = 100
    requests = [
        LikelihoodRequest(id=str(i), prompt=context, continuations=CONTINUATIONS) for i, context in enumerate(CONTEXTS)
    ]
    scores = by_id(log_likelihoods(PlainEngine(loaded, batch_size=8), requests, plan))
    answers = [scores[request.id] for request in requests]
    ours = [pair for answer in answers for pair in zip(answer.log_likelihoods, answer.is_greedy, strict=True)]
    pairs = [(context, continuation) for context in CONTEXTS for continuation in CONTINUATIONS]
    with bypass(loaded.model, plan):
        theirs = lm_eval_scores(loaded.model, loaded.tokenizer, pairs, max_length=100)
    assert [total for total, _ in ours] == pytest.approx([total for total, _ in theirs], rel=1e-5, abs=1e-5)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert len({round(total, 3) for total, _ in ours}) > len(pairs) / 2


def test_a_conversation_is_scored_as_lm_eval_scores_the_rendered_text():
    loaded = loaded_with_words("llama")
    prompt = (Message("user", "Which of these is larger?"),)
    request = LikelihoodRequest(id="a", prompt=prompt, continuations=CONTINUATIONS)
    ((answer,),) = log_likelihoods(PlainEngine(loaded), [request], CutPlan(num_layers=NUM_LAYERS))
    text = render_prompt(loaded.tokenizer, prompt).text
    theirs = lm_eval_scores(loaded.model, loaded.tokenizer, [(text, continuation) for continuation in CONTINUATIONS])
    assert list(answer.log_likelihoods) == pytest.approx([total for total, _ in theirs], rel=1e-5, abs=1e-5)
