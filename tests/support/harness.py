"""lm-eval's own runs, over rows of ours that its own JSON loader reads."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from layercut.models.loading import LoadedModel
from tests.support.answers import write_lines
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CHATML, SPECIAL

Rows = list[dict[str, Any]]
TEXT = """Question: Which of these is larger, seven or eleven? Answer: eleven. The answer is larger than the question.
the then there these those other others another; seven elevens are seventy-seven. 0 1 2 3 12 123 77 * + - = ?"""


def write_rows(folder: Path, rows: Mapping[str, Rows]) -> str:
    """A file for each split; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in rows.items():
        write_lines(folder / f"{split}.jsonl", part)
    return str(folder)


def with_rows(task: str, folder: str, splits: Sequence[str], cache: Path, **changes: Any) -> dict[str, Any]:
    """lm-eval's task with its own JSON loader in place of the hub."""
    files = {"data_files": {split: f"{folder}/{split}.jsonl" for split in splits}, "cache_dir": str(cache)}
    return {"task": task, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": files, **changes}


def run_of_lm_eval(model: Any, tasks: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    """What ``simple_evaluate`` gives: ``results`` and ``samples`` by task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from layercut.tasks.lm_eval.loading import files_of_task

    homes = sorted({file.parent for one in tasks for file in files_of_task(one["task"])})
    logging.disable(logging.WARNING)
    try:
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[{"group": "own", "task": tasks}],
            task_manager=TaskManager(include_defaults=False, include_path=homes),
            bootstrap_iters=0,
            **options,
        )
    finally:
        logging.disable(logging.NOTSET)
    assert found is not None
    return dict(found)


def scripted(answer: Callable[[str], str], likelihood: Callable[[str], float]) -> Any:
    """A model of lm-eval that answers a prompt, and scores a document, by a function; notes what it was asked."""
    from lm_eval.api.model import LM

    class Scripted(LM):  # type: ignore[misc]
        asked: dict[str, dict[str, Any]]

        def __init__(self) -> None:
            super().__init__()
            self.asked = {}

        def generate_until(self, requests: list[Any]) -> list[str]:
            self.asked |= {request.args[0]: request.args[1] for request in requests}
            return [answer(request.args[0]) for request in requests]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [likelihood(request.args[0]) for request in requests]

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            raise NotImplementedError

    return Scripted()


def trained_tokenizer(*, adds_bos: bool) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer with merges, so that where a text is split matters."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=250, special_tokens=list(SPECIAL), show_progress=False)
    core.train_from_iterator([TEXT] * 3, trainer)
    if adds_bos:
        first = [("<|bos|>", core.token_to_id("<|bos|>"))]
        core.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=first)
    marks = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **marks)
    tokenizer.chat_template = CHATML
    return tokenizer


def loaded_with_words(model_type: str, *, adds_bos: bool = False) -> LoadedModel:
    """A tiny model with a tokenizer that joins letters."""
    loaded = tiny_loaded(model_type)
    object.__setattr__(loaded, "tokenizer", trained_tokenizer(adds_bos=adds_bos))
    return loaded
