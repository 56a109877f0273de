"""The ways that search.py measures, each run as ``python ways.py WAY OUT.json SETTINGS``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from layercut.engine.base import Completion, Decoding, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.engine.plain import PlainEngine
from layercut.engine.prompts import encode_pairs
from layercut.engine.shared import SharedEngine
from layercut.engine.stopping import stop_tokens
from layercut.models.loading import load_model
from layercut.models.sources import resolve_source
from layercut.selection.answers import ObjectiveTask
from layercut.selection.objective import TaskObjective
from layercut.selection.search_journal import SearchJournal
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Sample, Task

Settings = dict[str, str]
Result = dict[str, Any]
GREEDY = Decoding()


def shared_round(asked: Settings) -> Result:
    """A whole round: TaskObjective on the shared engine, with racing or without."""
    loaded = load_model(asked["model"], dtype=asked["dtype"])
    plans = candidates(loaded.num_layers, asked)
    parts = objective_tasks(asked)
    race = "off" if asked.get("off") == "race" else "exact"
    objective = TaskObjective(SharedEngine(loaded), parts, journal=SearchJournal(), race=race)
    standings = objective.round(plans).candidates
    finished = [place for place, standing in enumerate(standings) if standing.value is not None]
    best = max(finished, key=lambda place: (standings[place].value, place))
    answers = {
        f"{part.label} {plan.removed[0]} {record['id']}": next(iter(record["metrics"].values()))
        for index, part in enumerate(parts)
        for plan in plans
        for record in objective.known.part(index, plan).records
    }
    layers = [plan.removed[0] for plan in plans]
    return {"layers": layers, "chosen": layers[best], "scores": answers, "answers": len(answers)}


def plain_round(asked: Settings) -> Result:
    """Some candidates of a round on the plain engine, all items."""
    loaded = load_model(asked["model"], dtype=asked["dtype"])
    start = time.process_time()
    engine = PlainEngine(loaded)
    scores: dict[str, float] = {}
    for task, readout, samples in cells(asked):
        for plan in candidates(loaded.num_layers, asked):
            if readout == "rank":
                found = engine.ask(options(task, samples), [plan])
            else:
                found = engine.ask(requests(task, samples, readout), [plan], GREEDY)
            scores |= graded(task, samples, readout, plan.removed[0], [one for _, part in found for one in part])
    return {"scores": scores, "start": start}


def official_candidate(asked: Settings) -> Result:
    """One candidate: cut to disk, load; in batches of 32 generate with left padding, and all logits of every option."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = resolve_source(asked["model"])
    (layer,) = map(int, asked["layers"].split(","))
    with tempfile.TemporaryDirectory() as folder:
        num_layers = json.loads((source.path / "config.json").read_text())["num_hidden_layers"]
        cut_checkpoint(source.path, CutPlan(num_layers=num_layers, removed=(layer,)), Path(folder, "cut"))
        model = AutoModelForCausalLM.from_pretrained(Path(folder, "cut"), dtype=getattr(torch, asked["dtype"])).eval()
        tokenizer = AutoTokenizer.from_pretrained(Path(folder, "cut"), padding_side="left")
    scores: dict[str, float] = {}
    for task, readout, samples in cells(asked):
        for first in range(0, len(samples), 32):
            batch = samples[first : first + 32]
            if readout == "rank":
                answers = [all_logits(model, tokenizer, request) for request in options(task, batch)]
            else:
                answers = generated(model, tokenizer, requests(task, batch, readout))
            scores |= graded(task, batch, readout, layer, answers)
    return {"scores": scores}


@torch.no_grad()
def generated(model: Any, tokenizer: Any, wanted: Sequence[GenerationRequest]) -> list[Completion]:
    ends = list(stop_tokens(tokenizer, model.generation_config))
    inputs = tokenizer([str(request.prompt) for request in wanted], return_tensors="pt", padding=True)
    output = model.generate(
        **inputs,
        max_new_tokens=wanted[0].max_new_tokens,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=ends[0],
        stop_strings=list(wanted[0].stop),
        tokenizer=tokenizer,
    )
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [
        Completion(
            id=request.id,
            text=min((text.partition(stop)[0] for stop in request.stop), key=len),
            finish_reason="stop",
            num_prompt_tokens=1,
            num_new_tokens=1,
        )
        for request, text in zip(wanted, texts, strict=True)
    ]


@torch.no_grad()
def all_logits(model: Any, tokenizer: Any, request: LikelihoodRequest) -> Likelihoods:
    pairs = encode_pairs(tokenizer, request.prompt, request.continuations)
    rows = [(*pair.context, *pair.continuation) for pair in pairs]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    log_p = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().log_softmax(-1)
    sums = [
        sum(float(log_p[row, len(pair.context) - 1 + j, token]) for j, token in enumerate(pair.continuation))
        for row, pair in enumerate(pairs)
    ]
    counts = tuple(len(pair.continuation) for pair in pairs)
    return Likelihoods(
        id=request.id,
        log_likelihoods=tuple(sums),
        num_tokens=counts,
        is_greedy=(False,) * len(sums),
        num_prompt_tokens=1,
    )


def official_chains(asked: Settings) -> Result:
    """As official_candidate, on chains."""
    return official_candidate({**asked, "tasks": "gsm_symbolic", "readouts": "chain"})


def shared_chains(asked: Settings) -> Result:
    """All candidates answer chains, with early verdicts and no racing."""
    loaded = load_model(asked["model"], dtype=asked["dtype"])
    engine = SharedEngine(loaded)
    task = load_task("gsm_symbolic")
    samples = task.samples("selection", int(asked["items"]))
    plans = candidates(loaded.num_layers, asked)
    wanted = requests(task, samples, "chain", hints=True)
    scores: dict[str, float] = {}
    tokens = 0
    for plan, answers in engine.ask(wanted, plans, GREEDY):
        scores |= graded(task, samples, "chain", plan.removed[0], answers)
        tokens += sum(answer.num_new_tokens for answer in answers)
    return {"layers": [plan.removed[0] for plan in plans], "scores": scores, "tokens": tokens}


def matrix_peak(dtype: torch.dtype, size: int = 4096, clock: Callable[[], float] = time.process_time) -> float:
    """FLOP of one large matrix product per second of a clock, by default of CPU time; the best of five."""
    left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    times = []
    for _ in range(5):
        before = clock()
        left @ right
        times.append(clock() - before)
    return 2 * size**3 / min(times)


def objective_tasks(asked: Settings) -> list[ObjectiveTask]:
    limit = int(asked["items"])
    return [ObjectiveTask(task=task, readout=readout, limit=limit) for task, readout in tasks_and_readouts(asked)]


def tasks(asked: Settings) -> list[Task]:
    return [load_task(name, data=asked.get("data")) for name in asked["tasks"].split(",")]


def cells(asked: Settings) -> list[tuple[Task, Any, list[Sample]]]:
    """Every task, readout and its samples."""
    limit = int(asked["items"])
    return [(task, readout, task.samples("selection", limit)) for task, readout in tasks_and_readouts(asked)]


def tasks_and_readouts(asked: Settings) -> list[tuple[Task, Any]]:
    return [(task, readout) for task in tasks(asked) for readout in asked["readouts"].split(",")]


def candidates(num_layers: int, asked: Settings) -> list[CutPlan]:
    """One layer each; layer 0 stays."""
    return [CutPlan(num_layers=num_layers, removed=(layer,)) for layer in candidate_layers(num_layers, asked)]


def candidate_layers(num_layers: int, asked: Settings) -> list[int]:
    return list(map(int, asked["layers"].split(","))) if "layers" in asked else list(range(1, num_layers))


def requests(task: Task, samples: Sequence[Sample], readout: Any, hints: bool = False) -> list[GenerationRequest]:
    found = []
    for sample in samples:
        request = task.request(sample, readout)
        assert isinstance(request, GenerationRequest)
        if hints:
            settled = partial(task.settled, sample, readout)
            request = replace(request, draft=task.draft(sample, readout), settled=settled)
        found.append(request)
    return found


def options(task: Task, samples: Sequence[Sample]) -> list[LikelihoodRequest]:
    found = [task.request(sample, "rank") for sample in samples]
    return [request for request in found if isinstance(request, LikelihoodRequest)]


def graded(task: Task, samples: Sequence[Sample], readout: Any, layer: int, answers: Iterable[Any]) -> dict[str, float]:
    by_id = {sample.id: sample for sample in samples}
    return {
        f"{task.name} ({readout}) {layer} {answer.id}": next(
            iter(task.grade(by_id[answer.id], readout, answer).metrics.values())
        )
        for answer in answers
    }


WAYS: dict[str, Callable[[Settings], Result]] = {
    way.__name__: way for way in (shared_round, plain_round, official_candidate, official_chains, shared_chains)
}

if __name__ == "__main__":
    way, out, settings = sys.argv[1:]
    Path(out).write_text(json.dumps(WAYS[way](json.loads(settings))))
