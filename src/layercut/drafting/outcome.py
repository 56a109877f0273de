"""The result of a draft: forecasts on report items, what was measured, the sentence and the serving commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from string import Template

from layercut.drafting.assisted import MeasuredAnswer
from layercut.drafting.forecast import (
    StepCost,
    StepTimes,
    TriedDraft,
    WrittenAnswer,
    cost_answer,
    estimate_ratio,
    forecast_speedup,
)
from layercut.drafting.search import part_name
from layercut.engine.handle import ModelHandle
from layercut.models.weights import read_config, stored_tensors
from layercut.pruning.speed import unread_bytes
from layercut.runs.draft import MODEL, PLAN, DraftMeasured, DraftPlan, DraftResult, DraftTask, DraftVerdict
from layercut.runs.environment import command_line, describe_machine
from layercut.selection.answers import ObjectiveTask
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.text import amount_text, count_of, two_decimals

COMMANDS = {
    "transformers": f'view = layercut.draft_view(model, layercut.CutPlan.load("{PLAN}")); '
    "view.generation_config.num_assistant_tokens = $window; "
    'view.generation_config.num_assistant_tokens_schedule = "constant"; '
    "view.generation_config.assistant_confidence_threshold = 0.0; model.generate(**inputs, assistant_model=view)",
    "vllm": "vllm serve $model --speculative-config '$speculative'",
    "llama.cpp": "llama-server -m model.gguf -md draft.gguf --spec-type draft-simple --spec-draft-n-max $window "
    "--spec-draft-n-min $window",
}
"""How a draft is served, by engine."""


def make_result(
    model: ModelHandle,
    parts: Sequence[ObjectiveTask],
    times: StepTimes,
    drafts: Sequence[TriedDraft],
    agreed: Sequence[Sequence[WrittenAnswer]],
    written: Sequence[MeasuredAnswer],
    *,
    tried: int,
    pays: bool,
    seed: int,
    seconds: dict[str, float],
) -> DraftResult:
    """Everything that draft.json holds; the first draft is the answer's, and ``agreed`` its answers and the others'.

    Args:
        written: answers that were written with and without the draft.
        pays: its checkpoint was written.
    """
    best, cost = drafts[0], times.cost(drafts[0])
    whole = _read_bytes(model, CutPlan(num_layers=model.num_layers))
    plans = []
    for own, answers in zip(drafts, agreed, strict=True):
        own_cost, read = times.cost(own), _read_bytes(model, own.plan) / whole
        by_bytes = StepCost((1.0,) * len(cost.check), read)
        hits = [{"agrees": sum(answer.agrees), "tokens": len(answer.agrees)} for answer in answers]
        plans.append(
            DraftPlan(
                kind=own.kind,
                removed=tuple(sorted(own.plan.removed)),
                mlp=own.mlp,
                read=read,
                window=own.window,
                step=own_cost.draft / own_cost.check[0],
                agrees=estimate_ratio(hits, "agrees", "tokens", seed),
                **forecast_speedup(answers, own_cost, own.window, seed),
                bandwidth=forecast_speedup(answers, by_bytes, own.window, seed)["speedup"],
            )
        )
    tasks = []
    for part in parts:
        answers = [answer for answer in agreed[0] if answer.task == part_name(part)]
        shown = forecast_speedup(answers, cost, best.window, seed)
        tasks.append(
            DraftTask(
                task=part.task.name,
                readout=part.readout,
                n=len(answers),
                tokens=sum(len(answer.agrees) for answer in answers),
                speedup=shown["speedup"],
                per_round=shown["per_round"],
            )
        )
    speculative = {"method": "draft_model", "model": MODEL, "num_speculative_tokens": best.window}
    served = {"window": best.window, "model": model.settings.model, "speculative": json.dumps(speculative)}
    commands = tuple((engine, Template(command).substitute(served)) for engine, command in COMMANDS.items())
    speedup, measured = plans[0].speedup, _measured(written, agreed[0], cost, best.window, seed) if written else None
    is_faster, is_slower = speedup.low is not None and speedup.low > 1, (speedup.high or speedup.value) < 1
    verdict: DraftVerdict = "faster" if is_faster else "slower" if is_slower else "undecided"
    return DraftResult(
        model=model.settings.model,
        dtype=model.dtype,
        serve=f"batch {times.batch}, {times.prompt:,} tokens read, steps behind {times.middle:,}",
        tasks=tuple(tasks),
        plans=tuple(plans),
        tried=tried,
        verdict=verdict,
        why=_answer_of(plans[0], verdict, measured),
        checks=tuple(check / times.check[0] for check in times.check),
        measured=measured,
        checkpoint=MODEL if pays else None,
        commands=commands if pays else (),
        times=times.where,
        where=describe_machine(),
        seed=seed,
        command=command_line(sys.argv),
        seconds=seconds,
    )


def _read_bytes(model: ModelHandle, plan: CutPlan) -> int:
    """Bytes of weights that a token passes through under a plan."""
    path = model.source.path
    return plan_cut(path, plan).bytes_after - unread_bytes(read_config(path), stored_tensors(path))


def _measured(
    written: Sequence[MeasuredAnswer], answers: Sequence[WrittenAnswer], cost: StepCost, window: int, seed: int
) -> DraftMeasured:
    by_id = {(answer.task, answer.id): answer for answer in answers}
    forecasts = [cost_answer(by_id[own.task, own.id], cost, window) for own in written]
    return DraftMeasured(
        speedup=estimate_ratio([own._asdict() for own in written], "plain", "drafted", seed),
        forecast=estimate_ratio([own._asdict() for own in forecasts], "plain", "drafted", seed),
        num_same=sum(own.is_same for own in written),
        num_expected=sum(own.rounds == other.rounds for own, other in zip(written, forecasts, strict=True)),
        rounds=sum(own.rounds for own in written),
        expected_rounds=sum(own.rounds for own in forecasts),
    )


def _answer_of(best: DraftPlan, verdict: DraftVerdict, measured: DraftMeasured | None) -> str:
    """The answer in a sentence."""
    what = f"the model without {amount_text(len(best.removed), best.mlp)}, {count_of(best.window, 'token')} at a time"
    speed = f"x {two_decimals(best.speedup)}"
    if verdict == "slower":
        return f"None: with the best draft ({what}) the model writes slower, {speed} by forecast."
    sentence = f"Draft: {what}. The model writes {speed} by forecast"
    if measured is not None:
        sentence += f", x {two_decimals(measured.speedup)} measured on {count_of(measured.speedup.n, 'answer')}"
        sentence += f", of which {measured.num_same} have the same tokens"
    return f"{sentence}." + ("" if verdict == "faster" else " Whether it is faster is not shown.")
