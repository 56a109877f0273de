"""A tiny model with two layers that do nothing, and files of prompts that it answers right, for tests of prune."""

import re
from pathlib import Path
from typing import Any

import torch

from layercut.engine.base import Completion, Decoding
from layercut.engine.plain import PlainEngine
from layercut.models.loading import load_model
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import decoder_layers
from layercut.tasks import load_task
from layercut.tasks.base import Split
from tests.support.answers import write_lines
from tests.support.tiny import byte_tokenizer, tiny_model

SPARE = (2, 4)
"""Layers whose removal changes nothing."""
SPLITS: tuple[Split, ...] = ("selection", "report")
PROMPTS = [f"{word} {number}:" for number in range(40) for word in ("the cat", "a plan", "x =", "so")]


def spare_model(path: Path, family: str = "llama") -> Path:
    """Write a tiny model whose layers SPARE add nothing to the stream."""
    model: Any = tiny_model(family)
    with torch.no_grad():
        for index in SPARE:
            layer: Any = decoder_layers(model)[index]
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    model.save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def wide_model(path: Path, family: str = "llama") -> tuple[Path, dict[int, set[int]]]:
    """Write a tiny model of which half of the MLP channels, others in each layer, add nothing; and the other half."""
    model: Any = tiny_model(family)
    used: dict[int, set[int]] = {}
    with torch.no_grad():
        for index, layer in enumerate(decoder_layers(model)):
            columns: Any = layer.mlp.down_proj.weight  # type: ignore[union-attr]
            order = torch.randperm(columns.shape[1], generator=torch.Generator().manual_seed(index)).tolist()
            columns[:, order[: len(order) // 2]] = 0
            used[index] = set(order[len(order) // 2 :])
    model.save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path, used


def written_file(path: Path, model: Path) -> Path:
    """Rows to be answered in words: what the model itself writes is right."""
    rows = [{"prompt": prompt, "answer": "?", "grade": "contains"} for prompt in PROMPTS]
    rows = [row | {"answer": answer} for row, answer in zip(rows, _said(path, rows, model), strict=True) if answer]
    return Path(write_lines(path, rows))


def choice_file(path: Path, model: Path) -> Path:
    """Rows with two choices: the one that is likelier to the model is right."""
    rows = [{"prompt": prompt, "choices": ["b", "k"], "answer": "b", "grade": "choice"} for prompt in PROMPTS]
    rows = [row | {"answer": answer} for row, answer in zip(rows, _said(path, rows, model), strict=True)]
    return Path(write_lines(path, rows))


def _said(path: Path, rows: list[dict[str, Any]], model: Path) -> list[str]:
    """What the model answers, row by row: its choice, or the first two letters that can be searched for."""
    task = load_task(write_lines(path, rows), max_new_tokens=8)
    samples = {sample.question: sample for split in SPLITS for sample in task.samples(split, None)}
    engine = PlainEngine(load_model(str(model), device="cpu"))
    requests = [task.request(samples[row["prompt"]], task.readouts[0]) for row in rows]
    found = {}
    for _, answers in engine.ask(requests, [CutPlan(num_layers=engine.num_layers)], Decoding(), lambda *_: True):
        found |= {answer.id: answer for answer in answers}
    said = []
    for row, request in zip(rows, requests, strict=True):
        answer = found[request.id]
        if isinstance(answer, Completion):
            letters = re.search(r"[A-Za-z0-9]{2}", answer.text)
            said.append(letters[0] if letters else "")
        else:
            said.append(max(zip(answer.log_likelihoods, row["choices"], strict=True))[1])
    return said
