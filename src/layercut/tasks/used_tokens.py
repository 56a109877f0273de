"""The tokens that a run reads and writes, so that a vocabulary can be trimmed to them (``vocab:RUN``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layercut.engine.base import GenerationRequest
from layercut.engine.prompts import encode, render
from layercut.tasks.base import Readout, Sample, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOTE = "tokens of "
"""Name of a note, before a task and readout: ``ids`` of all tokens of its prompts and answers, and the SHA-256 of the
``tokenizer`` whose ids they are."""


def find_used_tokens(
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    samples: Sequence[Sample],
    readout: Readout,
    records: Sequence[Mapping[str, Any]],
) -> list[int]:
    """Ids of all tokens of whole prompts, chat template and worked examples included, and of what follows them."""
    used: set[int] = set()
    for sample, record in zip(samples, records, strict=True):
        for text, add_special_tokens in _texts(tokenizer, task, sample, readout, record):
            used.update(encode(tokenizer, text, add_special_tokens=add_special_tokens))
    return sorted(used)


def _texts(
    tokenizer: PreTrainedTokenizerBase, task: Task, sample: Sample, readout: Readout, record: Mapping[str, Any]
) -> Iterator[tuple[str, bool]]:
    """A prompt alone and with each text that follows it, as they are tokenised."""
    request = task.request(sample, readout)
    if isinstance(request, GenerationRequest):
        answer = record.get("completion", "")
        pairs = [(request.prompt, text) for text in ("", request.begins, answer, request.begins + answer)]
    else:
        prompts = request.prompts or [request.prompt] * len(request.continuations)
        pairs = list(zip(prompts, request.continuations, strict=True))
    for prompt, text in dict.fromkeys(pairs):
        rendered = render(tokenizer, prompt)
        yield rendered.text + text, rendered.add_special_tokens
        if text:
            yield text, False
