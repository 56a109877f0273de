"""Traces: the original model's own right answers to several tasks, as text to score token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from layercut.diagnostics.arithmetic import as_completion
from layercut.diagnostics.functions import functions
from layercut.diagnostics.written_programs import is_right_program
from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.errors import InputError
from layercut.tasks import load_task

if TYPE_CHECKING:
    from layercut.diagnostics.session import DiagnosticSession
    from layercut.tasks.base import Readout, Sample, Task

TASKS: tuple[tuple[str, Readout], ...] = (
    ("arithmetic", "short"), ("brackets", "short"), ("copy", "short"), ("gsm_symbolic", "chain"),
)  # fmt: skip
PROGRAMS = "programs"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One right answer."""

    task: str
    id: str
    """Of the item."""
    question: str
    gold: str
    """Empty where more than one answer is right."""
    cluster: str
    """The context that it shares with other items, or itself."""
    request: GenerationRequest
    text: str
    judge: Callable[[str, str], bool]
    """Whether a text that ended for a reason answers the item."""
    is_chain: bool = False
    is_code: bool = False

    @property
    def forced(self) -> LikelihoodRequest:
        """The prompt with the answer given."""
        return LikelihoodRequest(id=self.id, prompt=self.request.prompt, continuations=(self.text,))

    @property
    def answer(self) -> tuple[int, int] | None:
        """The characters of the final answer in a chain of steps. A short answer is nothing else, so its tokens use
        their own kinds."""
        if not self.is_chain:
            return None
        start = self.text.rfind(self.gold)
        return None if start < 0 else (start, start + len(self.gold))

    def is_right(self, text: str, finish_reason: str = "stop") -> bool:
        """Whether a text answers the item."""
        return text == self.text or self.judge(text, finish_reason)


def right_traces(session: DiagnosticSession) -> tuple[list[Trace], list[str]]:
    """Ask the original model; gives its right answers, and how many of how many it had right in each task, in words.

    A task that the model cannot be asked, such as one with prompts beyond its context, is left out and named. Programs
    are those of the bracket diagnostic, as far as they pass their tests.
    """
    traces: list[Trace] = []
    said: list[str] = []
    for name, readout in TASKS:
        task = load_task(name, seed=session.seed)
        samples = task.samples("report", session.limit)
        session.came(name, samples)
        requests = [cast("GenerationRequest", task.request(sample, readout)) for sample in samples]
        try:
            answers = session.completions(f"propagation.{name}", requests, [session.uncut])[session.uncut.name]
        except InputError as error:
            said.append(f"{name} left out ({str(error).rstrip('.')})")
            continue
        found = [
            Trace(
                task=name,
                id=sample.id,
                question=sample.question,
                gold=sample.gold,
                cluster=str(sample.data.get("cluster", sample.id)),
                request=request,
                text=answers[sample.id]["text"],
                judge=partial(_is_right, task, readout, sample),
                is_chain=readout == "chain",
            )
            for sample, request in zip(samples, requests, strict=True)
        ]
        right = _right(found, answers)
        traces += right
        said.append(f"{name} {len(right)} of {len(found)}")
    wanted = functions(session.limit, session.seed)
    session.came("functions", wanted)
    # The question of the bracket diagnostic, so that its answers are used again.
    answers = session.completions("brackets.programs", [one.request for one in wanted], [session.uncut])[
        session.uncut.name
    ]
    found = [
        Trace(
            task=PROGRAMS,
            id=one.id,
            question=one.head,
            gold="",
            cluster=one.name.rpartition("_")[0],
            request=one.request,
            text=answers[one.id]["text"],
            judge=partial(is_right_program, one),
            is_code=True,
        )
        for one in wanted
    ]
    right = _right(found, answers)
    return [*traces, *right], [*said, f"{PROGRAMS} {len(right)} of {len(found)}"]


def _right(found: list[Trace], answers: dict[str, Any]) -> list[Trace]:
    return [
        trace for trace in found if trace.text.strip() and trace.judge(trace.text, answers[trace.id]["finish_reason"])
    ]


def _is_right(task: Task, readout: Readout, sample: Sample, text: str, finish_reason: str) -> bool:
    record = {"text": text, "finish_reason": finish_reason, "num_new_tokens": 0}
    return task.grade(sample, readout, as_completion(sample.id, record)).outcome == "right"
