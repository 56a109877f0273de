"""What one round of a search costs: the official way, plainly in memory, and with the shared engine.

    python benchmarks/search.py --items 16

Every way runs in a process of its own on the same items and the same layers, one after the other, with the same number
of threads. What is compared is CPU time of the whole process (start included) and its peak memory. Ways that take long
are measured on a few candidates, spread over the depth, and scaled to the round; the table says so. Item scores are
compared wherever two ways answered the same item, and the chosen layer with that of a round without racing.

The official way (arXiv:2602.01997) writes each candidate to disk and loads it in a fresh process. Here the writing is
layercut's own, which is faster than mergekit's, so the ratios are on the low side.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engines import in_a_process

HEAD = "| way | CPU s a round | x less | peak GiB | |\n|---|---:|---:|---:|---|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--tasks", default="arithmetic,brackets,copy", help="built-in tasks with short answers")
    parser.add_argument("--readouts", default="short,rank")
    parser.add_argument("--items", type=int, default=32, help="of each task")
    parser.add_argument("--sample", type=int, default=4, help="candidates on which the slow ways are measured")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.set_defaults(python=[])
    asked = parser.parse_args()
    if asked.one:
        way, _, layers = asked.one.partition(":")
        result = WAYS[way](asked, list(map(int, layers.split(","))) if layers else [])
        used = resource.getrusage(resource.RUSAGE_SELF)
        result |= {"cpu": used.ru_utime + used.ru_stime, "gib": used.ru_maxrss / 2**20}
        asked.out.write_text(json.dumps(result))
        return
    shared, unraced = measured(asked, "exact"), measured(asked, "off")
    layers = shared["layers"]
    sample = spread(layers, asked.sample)
    plain = measured(asked, f"plain:{','.join(map(str, sample))}")
    official = [measured(asked, f"official:{layer}") for layer in sample]
    check("plain and shared", plain["scores"], unraced["scores"])
    check("racing and not racing", shared["scores"], unraced["scores"])
    for candidate in official:
        check("official and shared", candidate["scores"], unraced["scores"])
    assert shared["chosen"] == unraced["chosen"], "racing chose another layer"
    cut_and_load = sum(candidate["cpu"] for candidate in official) / len(official) * len(layers)
    in_memory = plain["start"] + (plain["cpu"] - plain["start"]) / len(sample) * len(layers)
    what = f"{asked.items} items each of {asked.tasks} by {asked.readouts} ({asked.dtype})"
    print(f"\n## One greedy round, {len(layers)} candidates, {what}\n\n{HEAD}")
    peak = max(candidate["gib"] for candidate in official)
    for name, cpu, gib, note in (
        ("(a) official: cut to disk, fresh process", cut_and_load, peak, f"{len(sample)} measured"),
        ("(b) plain engine in memory", in_memory, plain["gib"], f"{len(sample)} measured"),
        ("(c) shared engine, exact racing", shared["cpu"], shared["gib"], f"layer {shared['chosen']} chosen"),
    ):
        print(f"| {name} | {cpu:.0f} | {cut_and_load / cpu:.1f} | {gib:.2f} | {note} |")
    print(f"\nAnswers asked: {len(shared['scores']):,} of {len(unraced['scores']):,}.")


def measured(asked: argparse.Namespace, way: str) -> dict[str, Any]:
    """Run one way in a process of its own: its result, its CPU seconds and its peak memory in GiB."""
    result = in_a_process(asked, way, __file__)
    print(f"  {way}: {result['cpu']:.1f} CPU s", file=sys.stderr, flush=True)
    return result


def check(what: str, ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Compare all items that both scored; ends the program where they differ."""
    both = ours.keys() & theirs.keys()
    assert both, f"{what}: nothing in common"
    unequal = [key for key in both if ours[key] != theirs[key]]
    print(f"  {what}: {len(unequal)} of {len(both)} item scores differ {unequal[:3]}", file=sys.stderr, flush=True)
    if unequal:
        sys.exit(f"NOT EQUAL, {what}: {len(unequal)} of {len(both)} item scores.")


def spread(layers: list[int], number: int) -> list[int]:
    """So many layers, evenly over the depth."""
    return [layers[round((index + 0.5) * len(layers) / number - 0.5)] for index in range(min(number, len(layers)))]


def shared_round(asked: argparse.Namespace, race: str) -> dict[str, Any]:
    """A whole round: TaskObjective on the shared engine, with racing or without; layer 0 stays."""
    from layercut.engine.shared import SharedEngine
    from layercut.models.loading import load_model
    from layercut.selection.answers import ObjectiveTask
    from layercut.selection.objective import TaskObjective
    from layercut.selection.search_journal import SearchJournal

    loaded = load_model(asked.model, dtype=asked.dtype)
    plans = plans_without(loaded.num_layers, list(range(1, loaded.num_layers)))
    parts = [
        ObjectiveTask(task=task, readout=readout, limit=asked.items)  # type: ignore[arg-type]
        for task, readout in tasks_and_readouts(asked)
    ]
    objective = TaskObjective(SharedEngine(loaded), parts, journal=SearchJournal(), race=race)  # type: ignore[arg-type]
    standings = objective.round(plans).candidates
    finished = [place for place, standing in enumerate(standings) if standing.value is not None]
    best = max(finished, key=lambda place: (standings[place].value, place))
    scores = {
        f"{part.label} {plan.removed[0]} {record['id']}": next(iter(record["metrics"].values()))
        for index, part in enumerate(parts)
        for plan in plans
        for record in objective.known.part(index, plan).records
    }
    layers = [plan.removed[0] for plan in plans]
    return {"layers": layers, "chosen": layers[best], "scores": scores}


def plain_round(asked: argparse.Namespace, layers: list[int]) -> dict[str, Any]:
    """Some candidates of a round on the plain engine, all items."""
    from layercut.engine.base import Decoding
    from layercut.engine.plain import PlainEngine
    from layercut.models.loading import load_model

    loaded = load_model(asked.model, dtype=asked.dtype)
    start = time.process_time()
    engine, scores = PlainEngine(loaded), {}
    for task, readout in tasks_and_readouts(asked):
        samples = task.samples("selection", asked.items)
        requests = [task.request(sample, readout) for sample in samples]
        answers = engine.ask(requests, plans_without(loaded.num_layers, layers), Decoding())
        for plan, part in answers:
            scores |= graded(task, samples, readout, plan.removed[0], part)
    return {"scores": scores, "start": start}


def official_candidate(asked: argparse.Namespace, layers: list[int]) -> dict[str, Any]:
    """One candidate: cut to disk, load; in batches of 32 generate with left padding, and all logits of every option."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from layercut.models.sources import resolve_source
    from layercut.surgery.checkpoint import cut_checkpoint

    source = resolve_source(asked.model)
    num_layers = json.loads((source.path / "config.json").read_text())["num_hidden_layers"]
    with tempfile.TemporaryDirectory() as folder:
        cut_checkpoint(source.path, plans_without(num_layers, layers)[0], Path(folder, "cut"))
        model = AutoModelForCausalLM.from_pretrained(Path(folder, "cut"), dtype=getattr(torch, asked.dtype)).eval()
        tokenizer = AutoTokenizer.from_pretrained(Path(folder, "cut"), padding_side="left")
    scores: dict[str, float] = {}
    for task, readout in tasks_and_readouts(asked):
        samples = task.samples("selection", asked.items)
        for first in range(0, len(samples), 32):
            batch = samples[first : first + 32]
            requests = [task.request(sample, readout) for sample in batch]
            with torch.no_grad():
                if readout == "rank":
                    answers = [all_logits(model, tokenizer, request) for request in requests]
                else:
                    answers = generated(model, tokenizer, requests)
            scores |= graded(task, batch, readout, layers[0], answers)
    return {"scores": scores}


def generated(model: Any, tokenizer: Any, requests: Sequence[Any]) -> list[Any]:
    from layercut.engine.base import Completion
    from layercut.engine.stopping import stop_tokens

    ends = list(stop_tokens(tokenizer, model.generation_config))
    inputs = tokenizer([str(request.prompt) for request in requests], return_tensors="pt", padding=True)
    output = model.generate(
        **inputs, max_new_tokens=requests[0].max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0],
        stop_strings=list(requests[0].stop), tokenizer=tokenizer,
    )  # fmt: skip
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    answers = []
    for request, text in zip(requests, texts, strict=True):
        shown = min((text.partition(stop)[0] for stop in request.stop), key=len)
        answers.append(
            Completion(id=request.id, text=shown, finish_reason="stop", num_prompt_tokens=1, num_new_tokens=1)
        )
    return answers


def all_logits(model: Any, tokenizer: Any, request: Any) -> Any:
    import torch

    from layercut.engine.base import Likelihoods
    from layercut.engine.rows import encode_pairs

    pairs = encode_pairs(tokenizer, request.prompt, request.continuations)
    rows = [(*pair.context, *pair.continuation) for pair in pairs]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    log_p = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().log_softmax(-1)
    sums = [
        sum(float(log_p[row, len(pair.context) - 1 + place, token]) for place, token in enumerate(pair.continuation))
        for row, pair in enumerate(pairs)
    ]
    counts, is_greedy = tuple(len(pair.continuation) for pair in pairs), (False,) * len(sums)
    return Likelihoods(
        id=request.id, log_likelihoods=tuple(sums), num_tokens=counts, is_greedy=is_greedy, num_prompt_tokens=1
    )


def tasks_and_readouts(asked: argparse.Namespace) -> list[tuple[Any, Any]]:
    from layercut.tasks import load_task

    return [(load_task(name), readout) for name in asked.tasks.split(",") for readout in asked.readouts.split(",")]


def plans_without(num_layers: int, layers: list[int]) -> list[Any]:
    """Plans of one removed layer each."""
    from layercut.surgery.plan import CutPlan

    return [CutPlan(num_layers=num_layers, removed=(layer,)) for layer in layers]


def graded(task: Any, samples: Sequence[Any], readout: str, layer: int, answers: Iterable[Any]) -> dict[str, float]:
    """Score of each item, by task, readout, layer and item."""
    by_id = {sample.id: sample for sample in samples}
    return {
        f"{task.name} ({readout}) {layer} {answer.id}": next(
            iter(task.grade(by_id[answer.id], readout, answer).metrics.values())
        )
        for answer in answers
    }


WAYS = {
    "exact": lambda asked, _: shared_round(asked, "exact"),
    "off": lambda asked, _: shared_round(asked, "off"),
    "plain": plain_round,
    "official": official_candidate,
}

if __name__ == "__main__":
    main()
