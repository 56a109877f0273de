"""The ways that search.py and chains.py measure, each run as ``python ways.py WAY OUT.json SETTINGS``."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from layercut.engine.base import Completion, Decoding, GenerationRequest, LikelihoodRequest, Likelihoods, always
from layercut.engine.handle import ModelHandle
from layercut.engine.plain import PlainEngine
from layercut.engine.prompts import encode_pairs
from layercut.engine.shared import SharedEngine
from layercut.engine.stack import Stack
from layercut.engine.stopping import stop_tokens
from layercut.engine.text_groups import Pack
from layercut.models.loading import LoadedModel, load_model
from layercut.models.sources import describe_source, resolve
from layercut.selection import answers as selection_answers
from layercut.selection import criterion
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.objective import TaskObjective
from layercut.selection.search_journal import SearchJournal
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Sample, Task
from layercut.tasks.few_shot import FewShotTask

Settings = dict[str, str]
Result = dict[str, Any]
GREEDY = Decoding()


def shared_round(asked: Settings) -> Result:
    """A whole round: TaskObjective on the shared engine, with one idea switched off or none."""
    off = asked.get("off")
    switch_off(off)
    loaded = load_model(asked["model"], dtype=asked["dtype"])
    engine = OnePlanACall(loaded) if off == "plans" else shared_engine(loaded, asked)
    speed = PromptSpeed()
    plans = candidates(loaded.num_layers, asked)
    journal = SearchJournal()
    parts = objective_tasks(asked)
    objective = TaskObjective(engine, parts, journal=journal, race="off" if off == "race" else "exact")
    if "shortlist" in asked:
        _ = objective.uncut  # all answers of the original model side by side, of which trace damage reads some
        shortlist = least_damaged(engine, parts, journal, asked)
        plans = [plan for plan in plans if plan.removed[0] in shortlist]
    standings = objective.round(plans).candidates
    finished = [place for place, standing in enumerate(standings) if standing.value is not None]
    best = max(finished, key=lambda place: (standings[place].value, place))
    answers = {
        f"{part.label} {plan.removed[0]} {record['id']}": next(iter(record["metrics"].values()))
        for index, part in enumerate(parts)
        for plan in plans
        for record in objective._answers.part(index, plan).records
    }
    return {
        "candidates": candidate_layers(loaded.num_layers, asked),
        "layers": [plan.removed[0] for plan in plans],
        "chosen": plans[best].removed[0],
        "scores": answers,
        "answers": len(answers),
        "flops": speed.flops_per_second,
        "model_gib": sum(p.numel() * p.element_size() for p in loaded.model.parameters()) / 2**30,
    }


def least_damaged(
    engine: SharedEngine, parts: Sequence[ObjectiveTask], journal: SearchJournal, asked: Settings
) -> frozenset[int]:
    """The candidates with the least trace damage on the first few items."""
    few = [replace(part, limit=int(asked["traces"])) for part in parts]
    context = Context(
        num_layers=engine.num_layers,
        num_remove=int(asked["shortlist"]),
        protect=frozenset(range(engine.num_layers)).difference(candidate_layers(engine.num_layers, asked)),
        engine=engine,
        objective=TaskObjective(engine, few, journal=journal),
    )
    return frozenset(criterion("trace_damage")(context).removed)


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

    source = resolve(asked["model"])
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


def official_vllm(asked: Settings) -> Result:
    """One candidate: cut to disk, a vLLM of its own on that, all answers at once."""
    (layer,) = map(int, asked["layers"].split(","))
    source = resolve(asked["model"])
    ((task, readout, samples),) = cells(asked)
    with tempfile.TemporaryDirectory() as folder:
        num_layers = describe_source(source).num_layers
        cut_checkpoint(source.path, CutPlan(num_layers=num_layers, removed=(layer,)), Path(folder, "cut"))
        engine = ModelHandle(
            ModelSettings(
                model=str(Path(folder, "cut")),
                dtype=asked["dtype"],
                engine="vllm",
                batch_size=len(samples),
                cache_gib=float(asked["cache_gib"]),
            )
        ).engine
        wanted = requests(task, samples, readout)
        plan = CutPlan(num_layers=num_layers - 1)
        answers = [one for _, part in engine.ask(wanted, [plan], GREEDY) for one in part]
    tokens = sum(one.num_new_tokens for one in answers)
    return {"scores": graded(task, samples, readout, layer, answers), "tokens": tokens}


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


def lm_eval(asked: Settings) -> Result:
    """lm-eval's Hugging Face backend on the options of ARC-Easy, batches of 32."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    loaded = load_model(asked["model"], dtype=asked["dtype"])
    task = load_task("arc_easy", data=asked["arc"])
    samples = task.samples("selection", int(asked["items"]))
    pairs = [(one.id, str(one.prompt), text) for one in options(task, samples) for text in one.continuations]
    logging.disable(logging.WARNING)
    harness = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=32)
    start = time.process_time()
    found = harness.loglikelihood(
        [
            Instance(request_type="loglikelihood", doc={}, arguments=(context, text), idx=index)
            for index, (_, context, text) in enumerate(pairs)
        ],
        disable_tqdm=True,
    )
    totals: dict[str, list[float]] = {}
    for (item, _, _), (total, _) in zip(pairs, found, strict=True):
        totals.setdefault(item, []).append(total)
    return {"scores": {item: best(values) for item, values in totals.items()}, "start": start}


def shared_options(asked: Settings) -> Result:
    """The shared engine on the options of ARC-Easy: the uncut model, or all candidates."""
    loaded = load_model(asked["model"], dtype=asked["dtype"])
    task = load_task("arc_easy", data=asked["arc"])
    wanted = options(task, task.samples("selection", int(asked["items"])))
    plans = candidates(loaded.num_layers, asked) if "sweep" in asked else [CutPlan(num_layers=loaded.num_layers)]
    start = time.process_time()
    found = [one for _, part in SharedEngine(loaded).ask(wanted, plans) for one in part]
    scores = {one.id: best(one.log_likelihoods) for one in found}
    return {"scores": scores, "start": start, "items": len(wanted), "plans": len(plans)}


class OnePlanACall(SharedEngine):
    """The shared engine, asked for one plan at a time: neither depth nor steps are shared."""

    def ask(self, requests: Any, plans: Any, decoding: Any, wanted: Any = always) -> Any:
        for plan in plans:
            yield from super().ask(requests, [plan], decoding, wanted)


def peak(asked: Settings) -> Result:
    """The machine's matrix peak."""
    return {"flops": matrix_peak(getattr(torch, asked["dtype"]))}


class PromptSpeed:
    """Floating-point operations per CPU second of decoder layers in prompt passes: 2 x weights x tokens."""

    def __init__(self) -> None:
        self.operations = self.seconds = 0.0
        run, sizes = Stack.run, {}

        def timed(stack: Stack, layer: int, states: torch.Tensor, entered: Any, attends: Any) -> torch.Tensor:
            if not isinstance(attends, Pack):
                return run(stack, layer, states, entered, attends)
            if not sizes:
                sizes.update(enumerate(sum(p.numel() for p in one.parameters()) for one in stack._layers))
            before = time.process_time()
            after = run(stack, layer, states, entered, attends)
            self.seconds += time.process_time() - before
            self.operations += 2 * sizes[layer] * states.shape[1]
            return after

        Stack.run = timed  # type: ignore[method-assign]

    @property
    def flops_per_second(self) -> float:
        return self.operations / self.seconds


def matrix_peak(dtype: torch.dtype, size: int = 4096, clock: Callable[[], float] = time.process_time) -> float:
    """FLOP of one large matrix product per second of a clock, by default of CPU time; the best of five."""
    left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    times = []
    for _ in range(5):
        before = clock()
        left @ right
        times.append(clock() - before)
    return 2 * size**3 / min(times)


def switch_off(idea: str | None) -> None:
    if idea == "prefix":
        import layercut.engine.shared as shared

        shared.SHORTEST_PREFIX = 10**9
    elif idea == "readouts":
        selection_answers._groups = lambda tasks, samples: [(place,) for place in range(len(tasks))]  # type: ignore[assignment]
    elif idea == "drafts":
        FewShotTask.draft = lambda self, sample, readout: ""  # type: ignore[method-assign]
    elif idea == "verdicts":
        FewShotTask.settled = lambda self, sample, readout, text: False  # type: ignore[method-assign]


def shared_engine(loaded: LoadedModel, asked: Settings) -> SharedEngine:
    sizes = {"batch_size": int, "cache_gib": float}
    return SharedEngine(loaded, **{name: kind(asked[name]) for name, kind in sizes.items() if name in asked})


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


def best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


WAYS: dict[str, Callable[[Settings], Result]] = {
    one.__name__: one
    for one in (
        *(shared_round, plain_round, official_candidate, official_chains, official_vllm, shared_chains, peak),
        *(lm_eval, shared_options),
    )
}

if __name__ == "__main__":
    way, out, settings = sys.argv[1:]
    Path(out).write_text(json.dumps(WAYS[way](json.loads(settings))))
