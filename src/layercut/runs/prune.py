"""The format of result.json, which ``layercut prune`` writes and reports read: the goal, the evidence and the answer.

All shares and scores are between 0 and 1. Layers are zero-based and those of the original model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ValidationError

from layercut.errors import InputError
from layercut.runs.atomic import write_json
from layercut.runs.settings import FORMAT_VERSION, read_format
from layercut.text import Printed, Removal, amount_text, count_of, format_layers, number_text, with_interval

RESULT = "result.json"
MODEL = "model"  # the folder of the checkpoint in a folder of prune
GGUF, MODELFILE = "model.gguf", "Modelfile"  # in that folder, where a file is handed over: it, and a recipe for ollama
VERSUS = "versus"  # the folder of the run folders of other models

TestVerdict = Literal["passed", "shown to fail", "undecided"]
Verdict = Literal["passed", "undecided", "refuted"]
"""``passed``: a plan keeps the goal. ``undecided``: none passed, and the items do not show that the best plan keeps
less. ``refuted``: even the largest model that was tested is shown to keep less."""


class ResultPart(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Base of the parts of a result."""


class Estimated(ResultPart):
    """A number with its 95 % interval."""

    value: float
    low: float | None = None  # None where the items cannot say
    high: float | None = None
    n: int  # items, or timed rounds


def as_estimated(estimate: Any) -> Estimated:
    """An estimate as results hold it; an end that is not finite is left out."""
    ends = (end if end is not None and abs(end) < float("inf") else None for end in (estimate.low, estimate.high))
    low, high = ends
    return Estimated(value=estimate.value, low=low, high=high, n=estimate.n)


class GoalTask(ResultPart):
    """A task that has to be kept."""

    task: str
    readout: str
    metric: str
    data: str | None = None
    chance: float | None = None  # score of guessing
    selection_items: int  # that plans were chosen on
    report_items: int  # that plans were confirmed on; none of them was used before


class Goal(ResultPart):
    """The goal."""

    use: str | None = None
    note: str = ""  # the tasks that stand in for the use without being it, in words
    tasks: tuple[GoalTask, ...]
    keep: float  # share of the score above chance that each task must keep
    level: float = 0.95  # of the one-sided lower bound of each task
    smaller: float  # share of the weights' bytes that may be removed at most
    faster: float | None = None  # times as fast that a request should become


class SetAside(ResultPart):
    """A task that was asked for and decides nothing."""

    task: str
    readout: str
    reason: str


class TaskKept(ResultPart):
    """A plan's result on one task."""

    task: str
    readout: str
    uncut: Estimated
    cut: Estimated
    kept: Estimated | None = None  # retention above chance; None where these items give none
    bound: float | None = None
    """One-sided lower bound of the retention at the goal's level; None on selection items, and where there is none."""
    passed: bool | None = None  # True if the bound is at least ``keep``; None on selection items
    correlation: float | None = None
    """Of both models' scores over selection items, with half an item added to each of the four outcomes; None on report
    items. It tells how many report items are needed."""


class Tried(ResultPart):
    """One way of making the model of one size, judged on selection items."""

    healing: str | None = None  # method; None for the pruned model itself
    kept: tuple[TaskKept, ...]


class Gone(Removal, ResultPart):
    """Removed layers and channels of a plan."""

    depth: int  # layers
    removed: tuple[int, ...]  # the layers, in order of removal
    mlp: float = 0.0  # share of the MLP channels

    @property
    def words(self) -> str:
        """How much and what: ``2 layers (6,9) and 10 % of the MLP channels``."""
        layers = f"{amount_text(self.depth, 0)} ({format_layers(self.removed)})" if self.removed else ""
        return " and ".join(filter(None, (layers, amount_text(0, self.mlp) if self.mlp else "")))


class PathStep(Gone):
    """One size of the path of plans; a plan removes the layers of the one before. All scores are on selection items."""

    size: float  # share of the weights' bytes that is removed, about
    tried: tuple[Tried, ...]
    healing: str | None = None  # of the one that was chosen

    @property
    def chosen(self) -> Tried:
        """The way that was chosen."""
        return next(way for way in self.tried if way.healing == self.healing)

    @property
    def name(self) -> str:
        """Of the plan: ``size-20`` for one that is 20 % smaller."""
        return f"size-{round(100 * self.size)}"

    @property
    def stage(self) -> str:
        """For people: ``size -20 %``."""
        return f"size -{100 * self.size:.0f} %"

    @property
    def run(self) -> str:
        """Name of its run folder, with how it was healed."""
        return f"{self.name}+{self.healing}" if self.healing else self.name


class Chosen(Gone):
    """The plan that is recommended, or the best one where none passed."""

    name: str  # of its run folder inside the folder of prune; the original model's is ``uncut``
    healing: str | None = None


class TestedDepth(Chosen):
    """One plan, confirmed or not on report items."""

    kept: tuple[TaskKept, ...]
    passed: bool
    verdict: TestVerdict
    """``shown to fail``: a task keeps less than asked for, by its upper bound. ``undecided``: more items would tell."""
    items_needed: int | None = None
    """About how many report items in all would decide a plan that failed; None where it passed or nothing can be
    said."""
    disk_bytes: int  # of the weights as they are written


class Alternative(ResultPart):
    """Another model on the report items of the plans: a smaller sibling, quantised weights, or anything else."""

    model: str
    run: str  # its run folder inside the folder of prune
    disk_bytes: int  # of the weights as they are stored
    level: float  # of the one-sided lower bound of each task: the goal's, corrected for the number of alternatives
    kept: tuple[TaskKept, ...]
    passed: bool
    verdict: TestVerdict


class MadeFile(ResultPart):
    """A GGUF file that was made of the original model or of a plan, judged on selection items."""

    model: str  # ``original, Q4_K_M``, as in Alternative
    run: str  # of its run folder inside the folder of prune, if report items were asked
    plan: str  # name of the plan; the original model's is ``uncut``
    file: str  # relative to the folder of result.json; only the winner's is kept
    disk_bytes: int
    kept: tuple[TaskKept, ...]


class TimedSpeed(ResultPart):
    """One speed of the original and the chosen model, timed by turns on this machine."""

    name: Literal["request", "decode", "prefill", "first token"]
    """``request``: reading and writing all tokens of the serving profile."""
    unit: Literal["tokens/s", "s"]
    better: Literal["higher", "lower"]
    batch_size: int
    uncut: Estimated
    cut: Estimated
    ratio: Estimated  # cut / uncut, over rounds in which both were timed

    @property
    def times_as_fast(self) -> Estimated:
        """The inverse of the ratio."""
        low, high = (1 / end if end else None for end in (self.ratio.high, self.ratio.low))
        return Estimated(value=1 / self.ratio.value, low=low, high=high, n=self.ratio.n)


class Size(ResultPart):
    """One of the two models."""

    parameters: int
    disk_bytes: int  # of the weights
    gguf_bytes: int | None = None  # of the GGUF file, cut from GGUF to GGUF; None where the original model is none
    memory_bytes: int | None = None  # of the weights as they were timed


class Served(ResultPart):
    """One model in the serving profile."""

    run: str  # its run folder inside the folder of prune
    speed: tuple[TimedSpeed, ...]
    memory_bytes: int  # of the weights
    cache_bytes_per_token: float

    @property
    def request(self) -> TimedSpeed:
        """Seconds of a request."""
        return next(speed for speed in self.speed if speed.name == "request")


_CHECKS = {
    "endings": "stops by itself",
    "same_language": "answers in the language of the request",
    "instructions": "follows instructions about form",
    "needle_2k": "finds a number in a text of 2,000 tokens",
    "needle_8k": "finds a number in a text of 8,000 tokens",
}
"""What a checked model does, in words."""


class SideEffect(ResultPart):
    """One check of the original model and the checkpoint, on the same items; see the suite ``side_effects``."""

    task: str
    uncut: Estimated
    cut: Estimated
    difference: Estimated  # cut - uncut; negative where the checkpoint is worse
    p: float  # two-sided, adjusted over all checks (Holm)
    is_shown: bool  # True if the difference counts

    @property
    def what(self) -> str:
        """The check in plain words."""
        return _CHECKS.get(self.task, self.task)

    @property
    def is_loss(self) -> bool:
        """True if the checkpoint is shown to be worse."""
        return self.is_shown and self.difference.value < 0

    @property
    def is_unconfirmed(self) -> bool:
        """True if the difference's own 95 % interval leaves out 0, but Holm's correction over all checks does not."""
        return not self.is_shown and (self.difference.low or 0) * (self.difference.high or 0) > 0

    @property
    def words(self) -> str:
        """``stops by itself: 13 of 24, before 24 of 24 (-46 [-62, -23] points)``."""
        after, before = (f"{round(estimate.value * estimate.n)} of {estimate.n}" for estimate in (self.cut, self.uncut))
        note = f"; unconfirmed, n = {self.cut.n}" if self.is_unconfirmed else ""
        return f"{self.what}: {after}, before {before} ({with_interval(self.difference, sign=True)} points{note})"


def side_effect_words(effects: Sequence[SideEffect]) -> str:
    """Differences that the checks show, losses that they do not exclude, and differences that are unconfirmed; nothing
    where nothing was checked.
    """
    if not effects:
        return ""
    numbers = sorted({effect.cut.n for effect in effects})
    parts = [effect.words for effect in effects if effect.is_shown]
    parts = parts if any(effect.is_loss for effect in effects) else ["no loss shown", *parts]
    lows = [effect.difference.low or 0.0 for effect in effects if not effect.is_loss]
    if losses := [number_text(-low) for low in lows if low < -0.005]:
        several = " and ".join(filter(None, (", ".join(losses[:-1]), losses[-1])))
        rest = "" if len(losses) == len(effects) else " in other checks"
        parts.append(f"losses of up to {several} points{rest} are not excluded")
    parts += [effect.words for effect in effects if effect.is_unconfirmed]
    items = f"{' to '.join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))} items"
    return f"{count_of(len(effects), 'check')} of {items}: {'; '.join(parts)}"


class ResultFile(Printed, BaseModel, frozen=True, extra="forbid"):
    """All that a finished verb found, in a file of its run folder."""

    FILE: ClassVar[str]
    VERB: ClassVar[str]
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return self.model_dump(mode="json")

    def save(self, folder: Path) -> None:
        """Write the file whole, or not at all."""
        write_json(folder / self.FILE, self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the file of a folder. Raises InputError: there is none, or it is damaged or of another format."""
        file = Path(folder) / cls.FILE
        try:
            return cls.model_validate(read_format(file, f"result of layercut {cls.VERB}"))
        except ValidationError as error:
            raise InputError(f"{file} is not a result of layercut {cls.VERB}, or of another version.") from error


class PruneResult(ResultFile, frozen=True, allow_inf_nan=False):
    """All that a finished ``layercut prune`` found."""

    FILE, VERB = RESULT, "prune"
    model: str
    model_hash: str
    num_layers: int
    dtype: str
    goal: Goal
    ignored: tuple[SetAside, ...] = ()
    resolution: str  # the differences that this many report items can show, in a sentence
    tokens: str = ""  # of the vocabulary that went before layers and channels, in words; empty where none did
    unused_tokens: str = ""  # bytes of those that the goal does not need, in words; empty where they are few
    path: tuple[PathStep, ...]
    path_ended: str = ""  # reason why the path goes no further, a sentence without its full stop
    tested: tuple[TestedDepth, ...]  # in order of size; testing stops at the first that fails
    versus: tuple[Alternative, ...] = ()  # made files and other models that were named, in their order
    formats: tuple[MadeFile, ...] = ()  # files that were made; those that keep less on selection items are not tested
    not_made: tuple[str, ...] = ()  # reasons for which others were not, in words
    error: float = 0.1
    """Probability, at most, that a model which passed keeps less: 0.05 where plans and other models shared it, or where
    no model was named; twice that where models were named after the plans had been tested."""
    verdict: Verdict
    chosen: Chosen
    why: str  # the answer in one or two sentences
    fastest: str = ""
    """The model that passed with the fastest requests, in a sentence; empty where no speed or other model was asked."""
    next: int | None = None  # report items of each task with which the same command, in a new folder, would decide more
    checkpoint: str | None = None  # relative to the folder of result.json; None where none was written
    verified: str = ""  # result of reloading the checkpoint
    general: bool = False  # channels were chosen, and plans healed, on answers to general requests too
    side_effects: tuple[SideEffect, ...] = ()
    """Checks of the checkpoint outside the goal; empty where none was written or nothing could be asked."""
    speed: tuple[TimedSpeed, ...] = ()  # of the chosen plan
    serve: str  # the serving profile, in words
    serve_tokens: int = 0  # tokens of all requests at once, read and written, in the serving profile
    served: tuple[Served, ...] = ()  # every tested plan and other model, timed
    size: dict[Literal["uncut", "cut"], Size] = {}
    where: str  # the machine
    seed: int
    command: str
    seconds: dict[str, float]  # time used, by stage

    @property
    def original_bytes(self) -> int:
        """Bytes of the original model; of its own file where it is a GGUF file and others were made."""
        size = self.size["uncut"]
        return (size.gguf_bytes if self.formats else None) or size.disk_bytes

    @property
    def smallest(self) -> TestedDepth | Alternative | None:
        """The model with the fewest bytes that passed; None where none did."""
        return smallest_of([*self.tested, *self.versus])

    @property
    def better(self) -> Alternative | None:
        """The other model that a user should take: it passed, and has fewer bytes than the plan that did."""
        return better_of(self.versus, self.size["cut"].disk_bytes if self.verdict == "passed" else None)


def better_of(versus: Sequence[Alternative], disk_bytes: int | None) -> Alternative | None:
    """The smallest that passed, where it has fewer bytes than the plan that passed (None: no plan did)."""
    passed = [other for other in versus if other.passed and (disk_bytes is None or other.disk_bytes < disk_bytes)]
    return min(passed, key=lambda other: other.disk_bytes, default=None)


def smallest_of(models: Iterable[TestedDepth | Alternative]) -> TestedDepth | Alternative | None:
    """The model with the fewest bytes that passed; None where none did."""
    return min((model for model in models if model.passed), key=lambda model: model.disk_bytes, default=None)


def serving_commands(checkpoint: str) -> dict[str, str]:
    """By engine, the command that serves what was handed over."""
    if not checkpoint.endswith(GGUF):
        return {"vLLM": f"vllm serve {checkpoint}"}
    recipe = f"{checkpoint.removesuffix(GGUF)}{MODELFILE}"
    return {"llama.cpp": f"llama-server -m {checkpoint}", "ollama": f"ollama create mine -f {recipe}"}


def least_kept(kept: Sequence[TaskKept]) -> float:
    """The share that the worst task of a plan keeps; minus infinity where none has a retention."""
    return min((task.kept.value for task in kept if task.kept is not None), default=float("-inf"))
