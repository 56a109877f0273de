"""Run folders as an evaluation leaves them behind, made from chosen scores instead of a model.

Every item has a difficulty of its own that all runs share, so that the runs of a study are correlated as real ones are.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from layercut.evidence.intervals import mean_interval
from layercut.runs.atomic import write_json
from layercut.runs.directory import RunFolder
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one task and readout shall score."""

    task: str
    readout: str
    score: float
    """Expected share of right answers, or the mean of a metric that is not 0/1."""
    n: int = 64
    chance: float | None = 0.25
    metric: str = "accuracy"
    binary: bool = True
    no_answer: float = 0.0
    """Share of the wrong answers in which no answer is found."""
    cut: float = 0.0
    """Share of the wrong answers that run into the length limit."""
    more_metrics: tuple[str, ...] = ()
    """Further metrics, each a little more generous than the one before."""


def build_run(
    path: Path,
    results: Sequence[Result],
    *,
    removed: Sequence[int] = (),
    channels: Channels | None = None,
    num_layers: int = 30,
    criterion: str = "position",
    num_parameters: int | None = None,
    disk_bytes: int | None = None,
    model: str = "bundled:smollm2-135m",
    model_hash: str = "5a3c0de1f00d",
    seed: int = 0,
    limit: int | None = 64,
    settings: Mapping[str, Any] | None = None,
) -> RunFolder:
    """A finished run folder with a record for every item and a row for every metric."""
    gone = {"removed": tuple(removed), "channels": channels}
    criterion = criterion if removed or channels else "explicit"
    plan = CutPlan(num_layers=num_layers, **gone, criterion=criterion, model=model, model_hash=model_hash)
    resolved = {
        "model": {"model": plan.model, "model_hash": plan.model_hash, "dtype": "bfloat16", "batch_size": 32},
        **plan.gone,
        "decoding": {"temperature": 0.0, "top_p": 1.0, "top_k": 0},
        "seed": 0,
        **(settings or {}),
    }
    rows: list[Any] = []
    with RunFolder.begin(path, resolved) as run:
        _pin_environment(run)
        plan.save(run.path / "plan.json")
        for result in results:
            records = [_record(result, index, plan.key, seed) for index in range(result.n)]
            with run.journal(result.task, result.readout) as journal:
                journal.append(records)
            rows.extend(_rows(result, records, limit))
        size = {"num_parameters": num_parameters, "disk_bytes": disk_bytes}
        run.write_metrics(rows, plan=plan.to_dict(), size=size)
    return RunFolder.open(path)


def item_id(task: str, index: int) -> str:
    return hashlib.sha256(f"{task} {index}".encode()).hexdigest()[:16]


def _record(result: Result, index: int, plan: str, seed: int) -> dict[str, Any]:
    item = item_id(result.task, index)
    shared = np.random.default_rng(int(item, 16) % 2**32).random()
    own = np.random.default_rng([int(item, 16) % 2**32, seed, *f"{result.readout}{plan}".encode()]).random(3)
    luck = 0.7 * shared + 0.3 * own[0]
    threshold = _LUCK[round(min(max(result.score, 0.0), 1.0) * (len(_LUCK) - 1))]
    right = bool(luck < threshold) if 0 < result.score < 1 else result.score >= 1
    gold, wrong = str(10 + index), str(11 + index)
    outcome = "right"
    if not right:
        outcome = "wrong"
        if result.readout != "rank":
            outcome = "no_answer" if own[1] < result.no_answer else "cut" if own[2] < result.cut else "wrong"
    spread = 0.2 * (shared - 0.5) + 0.1 * (own[0] - 0.5)
    value = float(right) if result.binary else round(result.score + spread * min(1.0, abs(result.score)), 6)
    metrics = {result.metric: value}
    for name in result.more_metrics:
        metrics[name] = float(right or own[1] < 0.2)
    answer = {"right": gold, "wrong": wrong}.get(outcome, "")
    record: dict[str, Any] = {"id": item, "question": f"What is {index} + 10?", "gold": gold, "answer": answer}
    record |= {"outcome": outcome, "metrics": metrics}
    if result.readout == "rank":
        options = [gold, wrong, str(20 + index), str(index)]
        scores = [-1.0 if option == answer else -2.5 for option in options]
        return record | {
            "options": options, "log_likelihoods": scores, "num_tokens": [1, 1, 1, 1], "num_prompt_tokens": 40
        }  # fmt: skip
    text = f"Adding 10 to {index} gives {answer or 'the the the'}." if result.readout == "chain" else ""
    finish_reason = "length" if outcome == "cut" else "stop"
    record |= {"completion": text or answer, "finish_reason": finish_reason}
    return record | {"num_prompt_tokens": 40, "num_new_tokens": 12}


_LUCK = np.sort(0.7 * np.random.default_rng(1).random(100_000) + 0.3 * np.random.default_rng(2).random(100_000))


def _rows(result: Result, records: Sequence[Mapping[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    outcomes = dict.fromkeys(("right", "wrong", "no_answer", "cut"), 0)
    for record in records:
        outcomes[record["outcome"]] += 1
    finish = None
    if result.readout != "rank":
        finish = {reason: sum(r["finish_reason"] == reason for r in records) for reason in ("stop", "length")}
    rows = []
    for metric in (result.metric, *result.more_metrics):
        estimate = mean_interval([record["metrics"][metric] for record in records])
        row = {"task": result.task, "version": 1, "readout": result.readout, "metric": metric, **estimate._asdict()}
        rows.append(row | {"chance": result.chance, "seed": 0, "outcomes": outcomes, "finish": finish, "limit": limit})
    return rows


def _pin_environment(run: RunFolder) -> None:
    """One machine and one time for all tests, so that reports can be pinned."""
    file = run.path / "environment.json"
    data = json.loads(file.read_text())
    pinned = {
        "command": "layercut run examples/quickstart.yaml", "time": "2026-01-02T03:04:05Z", "layercut": "0.1.0",
        "python": "3.11.7", "platform": "Linux-6.1-x86_64",
        "packages": {"torch": "2.13.0", "transformers": "5.24.0"}, "cpu": "Some CPU", "cores": 2, "memory_gib": 8.0,
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False}, "accelerator": None,
    }  # fmt: skip
    write_json(file, data | pinned)


QUICKSTART = (
    Result(task="arithmetic", readout="rank", score=0.66),
    Result(task="arithmetic", readout="short", score=0.57, chance=0.08),
    Result(task="brackets", readout="rank", score=0.52),
    Result(task="brackets", readout="short", score=0.33, chance=0.11),
    Result(task="copy", readout="rank", score=0.97),
    Result(task="copy", readout="short", score=0.82, chance=0.0),
    Result(task="gsm_symbolic", readout="rank", score=0.3),
    Result(task="gsm_symbolic", readout="chain", score=0.05, chance=0.03, more_metrics=("flexible",)),
)


def build_quickstart(root: Path) -> tuple[RunFolder, list[RunFolder]]:
    """The study of examples/quickstart.yaml in miniature: uncut, and two plans of three layers."""
    uncut = build_run(root / "uncut", QUICKSTART, num_parameters=134_515_008)
    kept = {"reverse-3": (0.86, 0.05, 0.9, 0.6, 0.98, 0.2, 0.9, 0.1), "random-3": (1.0, 0.9, 1.0, 0.8, 1.0, 0.97, 1, 1)}
    removed = {"reverse-3": (29, 28, 27), "random-3": (11, 4, 20)}
    cuts = []
    for name, shares in kept.items():
        pairs = zip(QUICKSTART, shares, strict=True)
        results = [replace(one, score=one.score * share, no_answer=0.3, cut=0.3) for one, share in pairs]
        cuts.append(build_run(root / name, results, removed=removed[name], num_parameters=123_895_000))
    return uncut, cuts


EXTREME = (
    Result(task="nothing", readout="short", score=0.0, n=40, chance=0.0),
    Result(task="everything", readout="short", score=1.0, n=40, chance=0.0),
    Result(task="one_item", readout="short", score=1.0, n=1, chance=0.0),
    Result(task="guessing", readout="rank", score=0.25, n=200),
    Result(task="summary_of_news", readout="short", score=0.4, n=50, chance=0.1, metric="rouge_l", binary=False),
    Result(task="text", readout="rank", score=-3.4, n=50, chance=None, metric="log_likelihood", binary=False),
    Result(task="large", readout="rank", score=0.7, n=1000),
)


def build_extreme(root: Path) -> tuple[RunFolder, list[RunFolder]]:
    """Six plans on tasks at the edges: score 0 and 1, one item, at chance, metrics that are not 0/1 or not a share."""
    uncut = build_run(root / "uncut", EXTREME, limit=None)
    cuts = []
    for depth in range(1, 7):
        shares = [1 - 0.15 * depth if result.score >= 0 else 1 + 0.1 * depth for result in EXTREME]
        results = [replace(one, score=one.score * share) for one, share in zip(EXTREME, shares, strict=True)]
        removed = range(30 - 4 * depth, 30, 1 + depth % 2)
        cuts.append(build_run(root / f"iterative-task-accuracy-{depth}", results, removed=removed, limit=None))
    return uncut, cuts
