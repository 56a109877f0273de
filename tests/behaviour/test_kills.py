"""kill -9 of a command, as a process of its own: the same command again ends with the same result."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from layercut.runs.study import failures_in, variants_in_study
from tests.support.commands import MODEL
from tests.support.process import started
from tests.support.pruning import choice_file, spare_model
from tests.support.search_process import uncut_answers
from tests.support.tiny import save_tiny

pytestmark = pytest.mark.slow


def kill_when(seen: Callable[[], object], process: subprocess.Popen[bytes], late: float = 0) -> bool:
    """Kill a process so many seconds after something is seen; True if it was still running."""
    while process.poll() is None and not seen():
        time.sleep(0.002)
    time.sleep(late)
    process.kill()
    return process.wait() == -9


def kill_at_random(command: tuple[object, ...], seed: int, seconds: tuple[int, int]) -> None:
    """Kill a command three times, each time so many seconds after its start."""
    draw = random.Random(seed)
    killed = [kill_when(lambda: True, started(*command), draw.uniform(*seconds)) for _ in range(3)]
    assert any(killed), "every attempt ended before it was killed; nothing was tested"


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []


def answers_in(folder: Path, pattern: str = "**/samples/*.jsonl") -> dict[str, list[str]]:
    """Sorted lines of the files of answers, by file."""
    return {str(file.relative_to(folder)): sorted(lines(file)) for file in sorted(folder.glob(pattern))}


def test_generate_ends_with_the_same_answers(tmp_path):
    model = save_tiny("llama", tmp_path / "tiny")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("question\n" + "\n".join(f"say {number}" for number in range(60)))

    def generate(name: str) -> subprocess.Popen[bytes]:
        how = ("--temperature", 0.9, "--max-new-tokens", 24, "--batch-size", 4, "--seed", 5)
        return started("generate", model, "--prompts", prompts, "--out", tmp_path / name, *how)

    assert generate("whole").wait() == 0
    whole, killed = (tmp_path / name / "samples" / "responses.jsonl" for name in ("whole", "killed"))
    before: list[str] = []
    for count in (1, 20, 45):
        was_running = kill_when(lambda c=count: len(lines(killed)) >= c, generate("killed"))
        assert was_running, f"all was done before {count} were seen"
        now = lines(killed)
        assert now[: len(before)] == before, "an answer that was there has changed"
        before = [line for line in now if line.endswith("\n")]
        assert not (tmp_path / "killed" / "metrics.json").exists()
    assert generate("killed").wait() == 0
    assert sorted(lines(killed)) == sorted(lines(whole))
    records = [json.loads(line) for line in lines(killed)]
    assert len({record["id"] for record in records}) == len(records) == 60
    assert {record["seed"] for record in records} == {5}


@pytest.mark.parametrize("objective", ["sft", "forward-kl"])
def test_heal_ends_with_the_same_weights(objective, tmp_path):
    pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
    pytest.importorskip("peft", reason="healing by training needs layercut[heal]")
    model = save_tiny("llama", tmp_path / "tiny")
    assert started("cut", model, "--remove", "2,4", "--out", tmp_path / "cut").wait() == 0
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"say {number}" for number in range(40)))

    def heal(name: str) -> subprocess.Popen[bytes]:
        return started(
            *("heal", tmp_path / "cut", "--teacher", model, "--prompts", prompts, "--out", tmp_path / name),
            *("--max-new-tokens", 6, "--keep-unfinished", "--rank", 2, "--max-steps", 60, "--epochs", 20),
            *("--train-batch", 4, "--save-every", 10, "--warmup-steps", 2, "--patience", 0, "--objective", objective),
        )

    assert heal("whole").wait() == 0
    for step in (10, 30):
        checkpoint = tmp_path / "killed" / "training" / f"checkpoint-{step}"
        assert kill_when(checkpoint.is_dir, heal("killed")), "the healing ended before it was killed"
    assert heal("killed").wait() == 0

    def result(name: str) -> tuple[bytes, list[object], str]:
        folder = tmp_path / name / "checkpoint"
        curve = [json.loads(line) for line in lines(tmp_path / name / "training" / "loss.jsonl")]
        recorded = json.loads((folder / "plan.json").read_text())["healing"][0]["data_hash"]
        weights = (folder / "model.safetensors").read_bytes()
        return weights, [{k: v for k, v in line.items() if k != "seconds"} for line in curve], recorded

    assert result("killed") == result("whole")
    assert len(lines(tmp_path / "killed" / "samples" / "responses.jsonl")) == 40


def test_prune_killed_again_and_again_ends_like_a_run_that_was_not(tmp_path):
    moments = (
        "searches/path/samples/mine.jsonl.rank.jsonl",  # the original model's first answers
        "healing/plan-*/seam/config.yaml",  # while a plan is healed
        "healing/plan-*/seam/checkpoint/plan.json",  # healed, and not judged yet
        "uncut/samples/mine.jsonl.rank.jsonl",  # the first report items
        "size-2*/metrics.json",  # between two sizes
        ".model.*",  # while the checkpoint is written
        "model/plan.json",  # written, and not timed yet
    )
    model = spare_model(tmp_path / "spare")
    goal = ("--keep", 0.6, "--units", "layer", "--smaller", "43%", "--heal", "seam", "--device", "cpu")
    command = ("prune", model, "--tasks", choice_file(tmp_path / "mine.jsonl", model), "--items", 40, *goal)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert started(*command, "--out", whole).wait() == 0
    num_killed = 0
    for moment in moments:
        num_killed += kill_when(lambda m=moment: list(killed.glob(m)), started(*command, "--out", killed))
        assert not (killed / "result.json").exists() or moment in moments[-2:]
    assert num_killed >= len(moments) - 2, "a step as quick as writing a tiny checkpoint may be over before it is seen"
    assert started(*command, "--out", killed).wait() == 0

    def result(folder: Path) -> dict[str, Any]:
        """All that was found, without times."""
        data = json.loads((folder / "result.json").read_text())
        found = {name: data[name] for name in ("goal", "tested", "verdict", "chosen", "why", "checkpoint")}
        found["path"] = [(step["removed"], [one["kept"] for one in step["tried"]]) for step in data["path"]]
        return found | answers_in(folder) | {"weights": (folder / "model" / "model.safetensors").read_bytes()}

    assert result(killed) == result(whole)


def test_a_study_killed_again_and_again_ends_like_one_that_was_not(tmp_path):
    moments = (
        "uncut/samples/arithmetic.short.jsonl",  # while the first answers are written
        "searches/block_influence/samples",  # while layers are chosen
        "block_influence-1/notes.jsonl",  # between two cells
        "last/.checkpoint.*",  # while a checkpoint is written
        "last/heal-seam/config.yaml",  # while it is healed
        "last+seam/samples/arithmetic.short.jsonl",
    )
    healing = {"name": "seam", "method": "seam", "prompts": "task:copy", "limit": 40, "responses": "original"}
    data = {
        "model": str(save_tiny("llama", tmp_path / "tiny")),
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 4,
        "out": "unused",
        "plans": {"last": "reverse:2"},
        "criteria": [{"criterion": "block_influence", "calibration": {"num_texts": 8, "max_tokens": 64}}],
        "depths": [1],
        "healing": [{**healing, "plans": ["last"]}],
        "tasks": [{"task": "arithmetic", "limit": 24}],
    }
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(data))
    whole, killed = tmp_path / "one" / "whole", tmp_path / "two" / "killed"
    assert started("run", study, "--out", whole).wait() == 0
    num_killed = 0
    for moment in moments:
        num_killed += kill_when(lambda m=moment: list(killed.glob(m)), started("run", study, "--out", killed))
    assert num_killed >= len(moments) - 1, "a step as quick as writing a tiny checkpoint may be over before it is seen"
    assert started("run", study, "--out", killed).wait() == 0

    def results(folder: Path) -> dict[str, Any]:
        """All that a study found, without times."""
        found: dict[str, Any] = {}
        for arm in variants_in_study(folder):
            metrics = json.loads((folder / arm["name"] / "metrics.json").read_text())
            found[arm["name"]] = (metrics["plan"], metrics["rows"])
            found |= answers_in(folder, f"{arm['name']}/samples/*.jsonl")
        for file in folder.glob("**/checkpoint/model.safetensors"):
            found[str(file.relative_to(folder))] = file.read_bytes()
        return found

    assert results(killed) == results(whole) and len(results(whole)) > 12
    assert failures_in(killed) == []


def test_a_study_of_smollm2_killed_at_random_moments_ends_as_one_that_ran_through(bundled, tmp_path):
    data = {
        "model": MODEL,
        "out": "unused",
        "plans": ["reverse:3"],
        "tasks": [{"task": "arithmetic", "limit": 24}, {"task": "copy", "limit": 24, "readouts": ["short"]}],
        "batch_size": 8,
    }
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(data))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert started("run", study, "--out", whole).wait() == 0
    draw = random.Random(0)
    num_killed = sum(
        kill_when(lambda: True, started("run", study, "--out", killed), draw.uniform(4, 20)) for _ in range(3)
    )
    assert num_killed, "every attempt ended before it was killed; nothing was tested"
    assert started("run", study, "--out", killed).wait() == 0
    assert answers_in(killed, "**/*.jsonl") == answers_in(whole, "**/*.jsonl")
    metrics = [
        {str(file.relative_to(folder)): json.loads(file.read_text()) for file in folder.rglob("metrics.json")}
        for folder in (killed, whole)
    ]
    assert metrics[0] == metrics[1]


def test_a_search_by_smollm2_killed_at_random_moments_finds_the_same_plan(bundled, tmp_path):
    search = ("select", MODEL, "--criterion", "task_accuracy", "--objective", "arithmetic,brackets,copy")
    search = (*search, "--remove", "2 layers", "--limit", 12, "--protect", "first:12,last:12", "--out")
    assert started(*search, tmp_path / "whole").wait() == 0
    draw = random.Random(1)
    num_killed = sum(
        kill_when(lambda: True, started(*search, tmp_path / "killed"), draw.uniform(6, 25)) for _ in range(3)
    )
    assert num_killed, "every attempt ended before it was killed; nothing was tested"
    assert started(*search, tmp_path / "killed").wait() == 0
    assert (tmp_path / "killed" / "plan.json").read_text() == (tmp_path / "whole" / "plan.json").read_text()


def test_a_search_of_a_tiny_model_killed_at_random_answers_finds_the_same_plan(tmp_path):
    prompts = [f"{word} {number}" for word in ("the cat", "a plan", "x =", "so", "why") for number in range(8)]
    model, golds = save_tiny("llama", tmp_path / "model"), tmp_path / "golds.json"
    golds.write_text(json.dumps(uncut_answers(model, prompts)), encoding="utf-8")

    def search(run: Path) -> subprocess.Popen[bytes]:
        return started(model, run, golds, module="tests.support.search_process")

    assert search(tmp_path / "whole").wait() == 0
    whole = lines(tmp_path / "whole" / "samples" / "agreement.short.jsonl")
    plan = (tmp_path / "whole" / "plan.json").read_bytes()
    values = [value for found in json.loads(plan)["scores"]["rounds"] for value in found["values"]]
    assert len(set(values)) > 3  # else any plan would do

    run, rng = tmp_path / "killed", random.Random(7)
    answers = run / "samples" / "agreement.short.jsonl"
    for moment in sorted(rng.sample(range(1, len(whole) - 20), 3)):
        late = rng.random() * 0.02
        was_running = kill_when(lambda m=moment: len(lines(answers)) >= m, search(run), late)
        assert was_running, "the search ended before it was killed"
        assert not (run / "plan.json").exists()
    assert search(run).wait() == 0
    assert (run / "plan.json").read_bytes() == plan
    assert Counter(lines(answers)) == Counter(whole)
