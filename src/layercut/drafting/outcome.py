"""The result of a draft: forecasts on report items, what was measured, the sentence and the serving commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from layercut.drafting.agreement import WrittenAnswer, name_of
from layercut.drafting.forecast import Drafted, cost_of, drawn_speedup, forecast
from layercut.drafting.measure import MeasuredAnswer
from layercut.drafting.search import TriedDraft
from layercut.drafting.times import StepCost, StepTimes
from layercut.engine.handle import ModelHandle
from layercut.evidence.intervals import Estimate
from layercut.evidence.paired import sums_ratio
from layercut.models.weights import read_config, stored_tensors
from layercut.pruning.sizes import unread_bytes
from layercut.runs.draft import PLAN, DraftMeasured, DraftPlan, DraftResult, DraftTask, DraftVerdict
from layercut.runs.environment import command_line, machine
from layercut.runs.prune import measured
from layercut.selection.answers import ObjectiveTask
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.text.counting import counted
from layercut.text.numbers import two_decimals
from layercut.text.removal import amount


def outcome(
    *,
    model: ModelHandle,
    other: ModelHandle | None,
    parts: Sequence[ObjectiveTask],
    times: StepTimes,
    chosen: Sequence[TriedDraft],
    plans: Sequence[CutPlan],
    answers: Sequence[WrittenAnswer],
    agrees: Sequence[Sequence[Drafted]],
    drawn: Sequence[Sequence[float]],
    written: Sequence[MeasuredAnswer],
    tried: int,
    checkpoint: str | None,
    seed: int,
    seconds: dict[str, float],
) -> DraftResult:
    """Everything that draft.json holds; the first plan is the answer's."""
    rows, whole = [], read_bytes(model, CutPlan(num_layers=model.num_layers))
    for number, (one, plan, of_plan) in enumerate(zip(chosen, plans, agrees, strict=True)):
        cost = times.cost(plan, one.name)
        found = forecast(of_plan, cost, one.window, times.prompt, seed)
        read = read_bytes(other or model, plan) / whole
        by_bytes = StepCost((1.0,) * len(cost.check), read)
        hits = np.array([sum(two.agrees) for two in of_plan], dtype=np.float64)
        rows.append(
            DraftPlan(
                kind=one.kind,
                name=one.name,
                removed=tuple(sorted(plan.removed)),
                mlp=plan.channels.share if plan.channels else 0.0,
                read=read,
                window=one.window,
                step=cost.draft / cost.check[0],
                agrees=measured(sums_ratio(hits, np.array([float(len(two.agrees)) for two in of_plan]), seed)),
                accepted=measured(found.accepted),
                per_round=measured(found.per_round),
                speedup=measured(found.speedup),
                drawn=None if number or not drawn else measured(drawn_speedup(drawn, cost, one.window, seed)),
                bandwidth=measured(forecast(of_plan, by_bytes, one.window, times.prompt, seed).speedup),
            )
        )
    best, found_best = rows[0], rows[0].speedup
    verdict: DraftVerdict = "undecided"
    if found_best.low is not None and found_best.low > 1:
        verdict = "faster"
    elif (found_best.high or found_best.value) < 1:
        verdict = "slower"
    result = DraftResult(
        model=model.settings.model,
        dtype=model.dtype,
        serve=f"batch {times.batch}, {times.prompt:,} tokens read, steps behind {times.middle:,}",
        tasks=tuple(_of_task(part, times, chosen[0], plans[0], answers, agrees[0], seed) for part in parts),
        plans=tuple(rows),
        tried=tried,
        verdict=verdict,
        why="",
        checks=tuple(one / times.check[0] for one in times.check),
        measured=_measured(times, chosen[0], plans[0], answers, agrees[0], written, seed) if written else None,
        checkpoint=checkpoint,
        commands=commands(model.settings.model, best, checkpoint),
        times=times.where,
        where=machine(),
        seed=seed,
        command=command_line(sys.argv),
        seconds=seconds,
    )
    return result.model_copy(update={"why": _why(result)})


def read_bytes(model: ModelHandle, plan: CutPlan) -> int:
    """Bytes of weights that a token passes through under a plan."""
    path = model.source.path
    return plan_cut(path, plan).bytes_after - unread_bytes(read_config(path), stored_tensors(path))


def commands(model: str, best: DraftPlan, checkpoint: str | None) -> tuple[tuple[str, str], ...]:
    """How the draft is served."""
    if checkpoint is None:
        return ()
    view = f'view = layercut.draft_view(model, layercut.CutPlan.load("{PLAN}"))'
    if best.name:
        view = f'view = layercut.draft_view(AutoModelForCausalLM.from_pretrained("{best.name}"), [])'
    draft = json.dumps({"method": "draft_model", "model": checkpoint, "num_speculative_tokens": best.window})
    return (
        (
            "transformers",
            f"{view}; view.generation_config.num_assistant_tokens = {best.window}; "
            'view.generation_config.num_assistant_tokens_schedule = "constant"; '
            "view.generation_config.assistant_confidence_threshold = 0.0; "
            "model.generate(**inputs, assistant_model=view)",
        ),
        ("vllm", f"vllm serve {model} --speculative-config '{draft}'"),
        (
            "llama.cpp",
            "llama-server -m model.gguf -md draft.gguf --spec-type draft-simple "
            f"--spec-draft-n-max {best.window} --spec-draft-n-min {best.window}",
        ),
    )


def _of_task(
    part: ObjectiveTask,
    times: StepTimes,
    one: TriedDraft,
    plan: CutPlan,
    answers: Sequence[WrittenAnswer],
    agrees: Sequence[Drafted],
    seed: int,
) -> DraftTask:
    own = [two for answer, two in zip(answers, agrees, strict=True) if answer.task == name_of(part)]
    found = forecast(own, times.cost(plan, one.name), one.window, times.prompt, seed)
    return DraftTask(
        task=part.task.name,
        readout=part.readout,
        n=len(own),
        tokens=sum(len(two.agrees) for two in own),
        speedup=measured(found.speedup),
        per_round=measured(found.per_round),
    )


def _measured(
    times: StepTimes,
    one: TriedDraft,
    plan: CutPlan,
    answers: Sequence[WrittenAnswer],
    agrees: Sequence[Drafted],
    written: Sequence[MeasuredAnswer],
    seed: int,
) -> DraftMeasured:
    of_answer = {(answer.task, answer.id): two for answer, two in zip(answers, agrees, strict=True)}
    cost = times.cost(plan, one.name)
    forecasts = [cost_of(of_answer[two.task, two.id], cost, one.window, times.prompt) for two in written]

    def ratio(found: Sequence[Any]) -> Estimate:
        plain, drafted = (np.array([getattr(two, name) for two in found]) for name in ("plain", "drafted"))
        return sums_ratio(plain, drafted, seed)

    return DraftMeasured(
        speedup=measured(ratio(written)),
        forecast=measured(ratio(forecasts)),
        num_same=sum(two.is_same for two in written),
        num_expected=sum(two.rounds == three.rounds for two, three in zip(written, forecasts, strict=True)),
        rounds=sum(two.rounds for two in written),
        expected_rounds=sum(two.rounds for two in forecasts),
    )


def _why(result: DraftResult) -> str:
    """The answer in a sentence."""
    best = result.chosen
    gone = f"the model without {amount(len(best.removed), best.mlp)}"
    what = f"{best.name or gone}, {counted(best.window, 'token')} at a time"
    speed = f"x {two_decimals(best.speedup)}"
    if result.verdict == "slower":
        return f"None: with the best draft ({what}) the model writes slower, {speed} by forecast."
    said = f"Draft: {what}. The model writes {speed} by forecast"
    if result.measured is not None:
        one = result.measured
        said += f", x {two_decimals(one.speedup)} measured on {counted(one.speedup.n, 'answer')}"
        said += f", of which {one.num_same} have the same tokens"
    return f"{said}." + ("" if result.verdict == "faster" else " Whether it is faster is not shown.")
