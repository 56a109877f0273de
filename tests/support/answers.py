"""Runs with written answers, made from chosen texts and ends of programs instead of a model."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layercut.engine.base import Completion, Likelihoods
from layercut.runs.directory import RunFolder
from layercut.surgery.plan import CutPlan


def completion(text: str, finish: Any = "stop", id: str = "a") -> Completion:
    """An answer as an engine gives it."""
    return Completion(id=id, text=text, finish_reason=finish, num_prompt_tokens=9, num_new_tokens=len(text.split()))


def likelihoods(*scores: float, num_tokens: int = 1, id: str = "a") -> Likelihoods:
    """Scores of continuations as an engine gives them; the best one is the greedy answer."""
    greedy = tuple(score == max(scores) for score in scores)
    tokens = (num_tokens,) * len(scores)
    return Likelihoods(id=id, log_likelihoods=scores, num_tokens=tokens, is_greedy=greedy, num_prompt_tokens=9)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """A JSON Lines file; gives its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def record(id: str, text: str, finish_reason: str = "stop", answer: str = "", **more: Any) -> dict[str, Any]:
    """A record as evaluations write it."""
    about = {"id": id, "version": 1, "question": "", "gold": "", "answer": answer, "outcome": "wrong"}
    tokens = {"num_prompt_tokens": 9, "num_new_tokens": 9}
    return {**about, "metrics": {"accuracy": 0.0}, "completion": text, "finish_reason": finish_reason, **tokens, **more}


def build_answers(
    folder: Path, tasks: Mapping[str, Sequence[Mapping[str, Any]]], *, removed: Sequence[int] = ()
) -> RunFolder:
    """A finished run of chains; ``tasks`` gives the records of each."""
    plan = CutPlan(num_layers=30, removed=tuple(removed), model="m", model_hash="5a3c0de1f00d")
    rows: list[Any] = []
    with RunFolder.begin(folder, {"model": "m", "decoding": {"temperature": 0.0}, "seed": 0}) as run:
        for task, records in tasks.items():
            with run.journal(task, "chain") as journal:
                journal.append(records)
            metric = next(iter(records[0]["metrics"]))
            value = sum(one["metrics"][metric] for one in records) / len(records)
            ends = {"low": None, "high": None, "n": len(records), "chance": None, "method": "none", "seed": 0}
            about = {"task": task, "version": 1, "readout": "chain", "metric": metric, "value": value, **ends}
            rows.append({**about, "outcomes": {"wrong": len(records)}, "finish": {"stop": len(records)}, "limit": None})
        run.write_metrics(rows, plan=plan.to_dict())
    return RunFolder.open(folder)
