"""Forecast of a draft's speed-up, and the result: rounds follow exactly from an answer's tokens, seconds from measured
steps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from layercut.engine.handle import ModelHandle
from layercut.evidence.paired import sums_ratio
from layercut.models.weights import read_config, stored_tensors
from layercut.pruning.speed import TimeParts, unread_bytes
from layercut.runs.draft import MODEL, PLAN, DraftMeasured, DraftPlan, DraftResult, DraftTask, DraftVerdict
from layercut.runs.environment import command_line, describe_machine
from layercut.runs.prune import Estimated, as_estimated
from layercut.selection.answers import ObjectiveTask
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.text import amount_text, count_of, two_decimals

WIDTH, DEPTH, BOTH = "channels", "layers", "both"
RATIOS = {"speedup": ("plain", "drafted"), "per_round": ("tokens", "rounds"), "accepted": ("accepted", "proposed")}
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


class WrittenAnswer(NamedTuple):
    """A greedy answer of the original model, and where a draft agrees with it."""

    id: str
    task: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]  # with its stop token
    limit: int  # tokens that it may have at most
    agrees: Sequence[bool] = ()  # for each token: the draft's likeliest one is the same


class TriedDraft(NamedTuple):
    """A plan as a draft, with its best window on the answers that chose it."""

    plan: CutPlan
    share: float = 0.0  # of the MLP channels, that the plan was to remove
    window: int = 0
    speedup: float = 0.0  # forecast on those answers

    @property
    def kind(self) -> str:
        """What it removes."""
        return BOTH if self.plan.removed and self.share else DEPTH if self.plan.removed else WIDTH

    @property
    def stays(self) -> tuple[float, float]:
        """Shares that the plan leaves, of the layers and of the MLP channels in them."""
        return len(self.plan.kept) / self.plan.num_layers, 1 - self.mlp

    @property
    def mlp(self) -> float:
        """Share of the MLP channels that the plan removes."""
        return self.plan.channels.share if self.plan.channels else 0.0


class MeasuredAnswer(NamedTuple):
    """One answer, written with and without a draft; the first pass of each model reads the prompt."""

    id: str
    task: str
    tokens: int
    plain: float  # seconds without a draft
    drafted: float
    rounds: int  # passes of the original model
    proposed: int  # steps of the draft
    is_same: bool  # both texts have the same tokens
    passes: Sequence[float] = ()  # seconds of each pass of the original model without a draft
    checks: Sequence[float] = ()  # of the original model with it
    steps: Sequence[float] = ()  # of the draft


class StepCost(NamedTuple):
    """Seconds, or bytes read, of the steps that an answer takes with one draft."""

    check: Sequence[float]  # of the original model over 1, 2, 3 ... tokens
    draft: float  # of the draft over one token
    prompt: int = 1  # tokens of the prompts that were timed
    read: float = 0.0  # to read such a prompt, without a draft
    draft_read: float = 0.0  # seconds that the draft adds to that
    per_token: float = 0.0
    per_round: float = 0.0


class DraftSteps(BaseModel, frozen=True, extra="forbid"):
    """Seconds of a model by what a plan leaves of it."""

    layers: float  # share of the layers that stay
    channels: float  # share of the MLP channels that stay in them
    step: float  # seconds of a step of one token for each request of the batch
    read: float  # seconds to read the prompts of the batch


class StepTimes(BaseModel, frozen=True, extra="forbid"):
    """Measured times of one model on one machine, in seconds."""

    where: str  # the machine
    batch: int
    prompt: int  # tokens that each request reads
    middle: int  # tokens in front of a timed step
    check: tuple[float, ...]  # of a step of the original model over 1, 2, 3 ... tokens of each request
    drafts: tuple[DraftSteps, ...]  # the original model first
    per_token: float = 0.0  # seconds that the loop of plain decoding adds to a step
    per_round: float = 0.0  # seconds that the loop of assisted decoding adds to a round

    def cost(self, draft: TriedDraft) -> StepCost:
        """Cost of a draft: as measured, or from the measured plans.

        That is a part that is always there, one of each layer and one of each channel.
        """
        shares = [(own.layers, own.channels) for own in self.drafts]
        seconds = {"step": [own.step for own in self.drafts], "read": [own.read for own in self.drafts]}
        if draft.stays in shares:
            last = len(shares) - 1 - shares[::-1].index(draft.stays)
            step, read = (of_plans[last] for of_plans in seconds.values())
        else:
            step, read = (TimeParts.fitted(shares, of_plans).seconds(*draft.stays) for of_plans in seconds.values())
        return StepCost(self.check, step, self.prompt, self.drafts[0].read, read, self.per_token, self.per_round)


class Round(NamedTuple):
    """One pass of the original model; it writes one token more than it accepts."""

    proposed: int
    accepted: int


def find_rounds(agrees: Sequence[bool], window: int, limit: int) -> list[Round]:
    """The rounds that write an answer, as transformers' assisted generation runs them.

    Args:
        agrees: for each token of the answer: the draft's likeliest one is the same.
        window: tokens that the draft proposes, fewer in front of the limit and behind its own stop token.
        limit: the most tokens that the answer may have; the last one is always the original model's.
    """
    rounds = []
    place, end = 0, len(agrees)
    while place < end:
        most = min(window, max(limit - place - 1, 0))
        accepted = 0
        while accepted < most and place + accepted < end and agrees[place + accepted]:
            accepted += 1
        has_ended = accepted > 0 and place + accepted == end and end < limit
        rounds.append(Round(accepted if has_ended else most, min(accepted, end - place - 1)))
        place += accepted + 1
    return rounds


class AnswerCost(NamedTuple):
    """Seconds of one answer without a draft and with it, as ``StepCost`` counts them."""

    plain: float
    drafted: float
    tokens: int
    rounds: int
    proposed: int
    accepted: int


def cost_answer(answer: WrittenAnswer, cost: StepCost, window: int) -> AnswerCost:
    """Seconds of one answer without a draft and with it."""
    rounds = find_rounds(answer.agrees, window, answer.limit)
    share, tokens = len(answer.prompt) / cost.prompt, len(answer.agrees)
    proposed, accepted = (sum(counts) for counts in zip(*rounds, strict=True))
    # Reading the prompt gives the first token, of the draft as well. The first round is checked in the same pass.
    plain = share * cost.read + (tokens - 1) * (cost.check[0] + cost.per_token)
    drafted = share * (cost.read + cost.draft_read) + max(proposed - 1, 0) * cost.draft
    drafted += sum(cost.check[turn.proposed] for turn in rounds) - cost.check[rounds[0].proposed]
    return AnswerCost(plain, drafted + len(rounds) * cost.per_round, tokens, len(rounds), proposed, accepted)


def best_window(answers: Sequence[WrittenAnswer], cost: StepCost, most: int) -> tuple[int, float]:
    """The window from 1 to ``most`` with the highest speed-up of all answers, and that; of equals the shorter one."""
    speedups = {}
    for window in range(1, most + 1):
        costs = [cost_answer(answer, cost, window) for answer in answers]
        speedups[window] = sum(own.plain for own in costs) / sum(own.drafted for own in costs)
    return max(speedups.items(), key=lambda item: (item[1], -item[0]))


def forecast_speedup(answers: Sequence[WrittenAnswer], cost: StepCost, window: int, seed: int) -> dict[str, Estimated]:
    """Forecast of one draft on some answers, with 95 % intervals over answers.

    Returns:
        ``speedup``: seconds of all answers without the draft over those with it; ``per_round``: tokens written in a
        round; ``accepted``: share of the proposed tokens.
    """
    costs = [cost_answer(answer, cost, window)._asdict() for answer in answers]
    return {name: estimate_ratio(costs, above, below, seed) for name, (above, below) in RATIOS.items()}


def estimate_ratio(answers: Sequence[Mapping[str, Any]], above: str, below: str, seed: int) -> Estimated:
    """Ratio of the sums of two fields over answers, with its interval."""
    numerator, denominator = (
        np.array([answer[name] for answer in answers], dtype=np.float64) for name in (above, below)
    )
    return as_estimated(sums_ratio(numerator, denominator, seed))


def part_name(part: ObjectiveTask) -> str:
    """Name of a task under a readout, in the journal."""
    return f"{part.task.name}-{part.readout}"


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
