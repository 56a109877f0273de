"""One search as a process of its own, to be killed: python -m tests.support.search_process MODEL RUN GOLDS."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layercut.engine.base import Completion, Decoding, GenerationRequest, Likelihoods
from layercut.engine.plain import PlainEngine
from layercut.models.loading import load_model
from layercut.runs.directory import RunFolder
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.objective import TaskObjective, search_settings
from layercut.selection.search_journal import SearchJournal
from layercut.selection.task_criteria import task_accuracy
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Readout, Sample, Score, Split, Task
from tests.support.engines import completions

DECODING = Decoding(temperature=0.7, seed=5)
"""Sampled, so that what is drawn must not depend on what was drawn before the kill."""
BATCH_SIZE = 5


@dataclass
class Agreement(Task):
    """Whether the first byte of an answer is still what the original model says."""

    golds: Mapping[str, str]  # prompt to the original model's answer
    name: str = "agreement"
    version: int = 1
    readouts: tuple[Readout, ...] = ("short",)

    def settings(self) -> Mapping[str, Any]:
        return {"version": self.version, "num_prompts": len(self.golds)}

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        return [Sample(id=prompt, question=prompt, gold=gold) for prompt, gold in self.golds.items()][:limit]

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest:
        return GenerationRequest(id=sample.id, prompt=sample.question, max_new_tokens=4)

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        assert isinstance(answer, Completion)
        right = answer.text[:1] == sample.gold[:1]
        return Score({"accuracy": float(right)}, answer.text, "right" if right else "wrong")

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        return {"accuracy": 1 / 256}


def uncut_answers(model: Path, prompts: Sequence[str]) -> dict[str, str]:
    """What the original model says under the decoding of the search."""
    engine = PlainEngine(load_model(str(model), device="cpu"), batch_size=BATCH_SIZE)
    requests = [GenerationRequest(id=prompt, prompt=prompt, max_new_tokens=4) for prompt in prompts]
    plan = CutPlan(num_layers=engine.num_layers)
    batches = completions(engine, requests, plan, DECODING)
    return {answer.id: answer.text for batch in batches for answer in batch if answer.text}


def main(model: str, run: str, golds: str) -> None:
    """Search, and leave the plan in the run folder."""
    task = Agreement(json.loads(Path(golds).read_text(encoding="utf-8")))
    tasks = [ObjectiveTask(task=task, readout="short")]
    with RunFolder.begin(Path(run), search_settings(tasks, DECODING)) as folder, SearchJournal(folder) as journal:
        engine = PlainEngine(load_model(model, device="cpu"), batch_size=BATCH_SIZE)
        objective = TaskObjective(engine, tasks, decoding=DECODING, journal=journal)
        selection = task_accuracy(Context(num_layers=engine.num_layers, num_remove=3, objective=objective))
        CutPlan(num_layers=engine.num_layers, removed=selection.removed, scores=selection.details).save(
            folder.path / "plan.json"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
