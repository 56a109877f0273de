"""Traces: the uncut model's own right answers to several tasks, word for word, as text to be gone through again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from layercut.diagnostics.arithmetic import as_completion
from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.errors import InputError
from layercut.tasks import load_task
from layercut.tasks.base import Readout, Sample, Task

if TYPE_CHECKING:
    from layercut.diagnostics.bench import Bench

TASKS: tuple[tuple[str, Readout], ...] = (
    ("arithmetic", "short"), ("brackets", "short"), ("copy", "short"), ("gsm_symbolic", "chain"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One right answer."""

    task: Task
    readout: Readout
    sample: Sample
    request: GenerationRequest
    text: str

    @property
    def id(self) -> str:
        """Of the item."""
        return self.sample.id

    @property
    def cluster(self) -> str:
        """The context that it shares with other items, or itself."""
        return str(self.sample.data.get("cluster", self.id))

    @property
    def forced(self) -> LikelihoodRequest:
        """The prompt with the answer given."""
        return LikelihoodRequest(id=self.id, prompt=self.request.prompt, continuations=(self.text,))

    @property
    def answer(self) -> tuple[int, int] | None:
        """The characters of the final answer in a chain of steps. A short answer is nothing else, so its tokens go by
        their own kinds."""
        if self.readout != "chain":
            return None
        start = self.text.rfind(self.sample.gold)
        return None if start < 0 else (start, start + len(self.sample.gold))

    def is_right(self, text: str, finish_reason: str = "stop") -> bool:
        """Whether a text answers the item."""
        record = {"text": text, "finish_reason": finish_reason, "num_new_tokens": 0}
        return self.task.grade(self.sample, self.readout, as_completion(self.id, record)).outcome == "right"


def right_traces(bench: Bench) -> tuple[list[Trace], list[str]]:
    """Ask the uncut model; gives its right answers, and how many of how many it had right in each task, in words.

    A task that the model cannot be asked, such as one with prompts beyond its context, is left out and named.
    """
    traces: list[Trace] = []
    said: list[str] = []
    for name, readout in TASKS:
        task = load_task(name, seed=bench.seed)
        samples = task.samples("report", bench.limit)
        requests = [cast("GenerationRequest", task.request(sample, readout)) for sample in samples]
        try:
            answers = bench.completions(f"propagation.{name}", requests, [bench.uncut])[bench.uncut.name]
        except InputError as error:
            said.append(f"{name} left out ({str(error).rstrip('.')})")
            continue
        found = [
            Trace(task=task, readout=readout, sample=sample, request=request, text=answers[sample.id]["text"])
            for sample, request in zip(samples, requests, strict=True)
        ]
        right = [
            trace
            for trace in found
            if trace.text.strip() and trace.is_right(trace.text, answers[trace.id]["finish_reason"])
        ]
        traces += right
        said.append(f"{name} {len(right)} of {len(found)}")
    return traces, said
