"""``layercut heal`` on a tiny model: from prompts to a checkpoint that plain transformers loads."""

import json
import shutil
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.engine.base import Completion
from layercut.healing.checkpoint import judge_of_rounding
from layercut.healing.prompt_sources import PromptGroup
from layercut.models.loading import load_model
from layercut.runs.healing import is_graded
from tests.unit.cli.conftest import write_prompts
from tests.unit.conftest import Run

SMALL: tuple[object, ...] = ("--max-new-tokens", 6, "--rank", 2, "--max-steps", 3, "--train-batch", 4)
SMALL += ("--micro-batch", 4, "--save-every", 2, "--temperature", 0.8)
SMALL += ("--keep-unfinished",)  # a random model never ends an answer


@pytest.fixture
def prompts(tmp_path) -> Path:
    return write_prompts(tmp_path / "prompts.jsonl", 12)


@pytest.fixture
def cut(layercut: Run, tiny: Path, tmp_path) -> Path:
    layercut.done("cut", tiny, "--remove", "2,4", "--out", tmp_path / "cut")
    return tmp_path / "cut"


def answers(layercut: Any, model: Path, prompts: Path, out: Path) -> Path:
    layercut.done("generate", model, "--prompts", prompts, "--max-new-tokens", 8, "--out", out)
    return out


@pytest.mark.parametrize("objective", ["sft", "reverse-kl"])
def test_a_healed_model_loads_and_says_how_it_was_made(objective, layercut, tiny, cut, prompts, tmp_path):
    given = answers(layercut, tiny, prompts, tmp_path / "answers")
    command = ("heal", cut, "--teacher", tiny, "--prompts", given, "--out", tmp_path / "run", "--objective", objective)
    ran = layercut.done(*command, *SMALL)
    assert "contain report items" in ran.err
    folder = tmp_path / "run" / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.num_hidden_layers == 4
    plan = json.loads((folder / "plan.json").read_text())
    healing = plan["healing"][0]
    assert plan["removed"] == [2, 4]
    assert (
        not healing["graded"]
        and healing["objective"] == objective
        and healing["steps"] == 3
        and healing["num_held_out"] == 1
    )
    assert healing["settings"]["rank"] == 2 and len(healing["data_hash"]) == 16 and healing["seconds"] > 0
    curve = [json.loads(line) for line in (tmp_path / "run" / "training" / "loss.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve if "loss" in line] == [1, 2, 3]
    card = (folder / "README.md").read_text()
    assert "## Healing" in card and "Nothing was trained" not in card and card.startswith("---")
    # What only continues a training is gone, and the same command trains nothing again.
    assert (tmp_path / "run" / "training" / "loss.jsonl").is_file()
    assert not [one for one in (tmp_path / "run" / "training").iterdir() if one.is_dir()]
    weights = (folder / "model.safetensors").stat()
    again = layercut(*command, *SMALL)
    assert again.code == 0 and "trained on" in again.out
    assert (folder / "model.safetensors").stat() == weights
    other = layercut(*command, *SMALL, "--seed", 7)
    assert other.code == 1 and "was begun with" in other.err


def test_graded_answers_need_no_answers_of_the_teacher(layercut, tiny, cut, tmp_path, monkeypatch):
    def are_right(self: PromptGroup, answers: Sequence[Completion]) -> list[bool]:
        return [bool(answer.tokens[0] % 2) for answer in answers]

    monkeypatch.setattr(PromptGroup, "are_right", are_right)
    command = ("heal", cut, "--teacher", tiny, "--prompts", "task:copy", "--limit", 10, "--held-out", 0.2)
    command = (*command, "--objective", "grpo", "--group", 3, "--rollout-max", 4, *SMALL, "--out", tmp_path / "run")
    dry = layercut(*command, "--dry-run", "--json")
    steps = {step["name"]: step for step in json.loads(dry.out)["steps"]}
    assert list(steps) == ["training on 8 examples", "held-out examples, 3 times"]
    assert "teacher" not in json.loads(dry.out)["memory_parts"] or not json.loads(dry.out)["memory_parts"]["teacher"]
    ran = layercut.done(*command)
    assert "8 prompts, 3 to each" in ran.out
    assert "held-out questions answered wrong: " in ran.out and "held-out loss" not in ran.out
    assert not (tmp_path / "run" / "samples" / "responses.jsonl").exists()
    folder = tmp_path / "run" / "checkpoint"
    entry = json.loads((folder / "plan.json").read_text())["healing"][0]
    assert (entry["objective"], entry["responses"], entry["settings"]["group"]) == ("grpo", "own", 3)
    assert entry["graded"] and is_graded({name: value for name, value in entry.items() if name != "graded"})
    assert "loss_tokens" not in entry and entry["tokens"] > 0 and entry["written"]["dtype"] == "float32"
    assert set(entry["held_out_loss"].values()) <= {0.0, 0.5, 1.0}, "shares of two questions"
    curve = [json.loads(line) for line in (tmp_path / "run" / "training" / "loss.jsonl").read_text().splitlines()]
    assert all(line["rollout_tokens"] <= 4 and 0 <= line["reward"] <= 1 for line in curve if "loss" in line)
    assert entry["selection_items"]["copy"]["num_items"] == 10
    AutoModelForCausalLM.from_pretrained(folder)
    layercut.done(*command)


@pytest.mark.parametrize(
    ("settings", "loads"),
    [
        (("--method", "full", "--max-steps", 1), ["uncut", "cut"]),
        (("--objective", "forward-kl", *SMALL), ["uncut", "cut", "cut uncut"]),
        (("--method", "seam"), ["uncut", "cut", "cut uncut"]),
    ],
)
def test_both_models_are_in_memory_only_where_both_are_needed(
    settings, loads, layercut, tiny, cut, tmp_path, monkeypatch
):
    """The teacher answers and goes before the pruned model comes, which is judged before the teacher comes again."""
    models: list[tuple[str, Any]] = []
    seen: list[str] = []

    def load(source: Any, **options: Any) -> Any:
        loaded = load_model(source, **options)
        models.append(("cut" if loaded.num_layers == 4 else "uncut", weakref.ref(loaded.model)))
        seen.append(" ".join(sorted(which for which, model in models if model() is not None)))
        return loaded

    def judge(model: Any, data: Any) -> Any:
        seen.append(f"judged {seen[-1]}")
        return judge_of_rounding(model, data)

    monkeypatch.setattr("layercut.models.loading.load_model", load)
    monkeypatch.setattr("layercut.healing.trainable.load_model", load)
    monkeypatch.setattr("layercut.healing.heal.judge_of_rounding", judge)
    layercut.done(
        *("heal", cut, "--teacher", tiny, "--prompts", "task:arithmetic", "--limit", 40, "--max-new-tokens", 4),
        *("--keep-unfinished", *settings, "--out", tmp_path / "run"),
    )
    judged = ["judged cut"] if "seam" in settings else []
    assert seen == [*loads[:2], *judged, *loads[2:]]


@pytest.mark.parametrize(("kind", "what"), [("linear", "the linear map"), ("projection", "the last matrix")])
def test_seams_are_repaired_without_training(kind, what, layercut, tiny, cut, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "layercut.healing.sft", None)  # as without the training extras
    ran = layercut.done(
        *("heal", cut, "--teacher", tiny, "--prompts", "task:arithmetic", "--limit", 40, "--responses", "original"),
        *("--method", "seam", "--seam", kind, "--out", tmp_path / "run"),
    )
    healing = json.loads((tmp_path / "run" / "checkpoint" / "plan.json").read_text())["healing"][0]
    assert [text.split(":")[0] for text in healing["seams"]] == [
        "seam of layers 2-2", "seam of layers 4-4", *["layer 5"] * (kind == "projection")
    ]  # fmt: skip
    assert healing["method"] == "seam" and healing["seam_map"] == kind
    assert healing["tokens"] > healing["loss_tokens"] and healing["seconds"] > 0 and healing["settings"]["seed"] == 42
    assert f"{what} (ridge " in ran.out
    assert "of the gap" in ran.out


def test_what_is_dropped_is_counted(layercut, tiny, cut, tmp_path):
    repeated, long = ({"instruction": text, "output": "one"} for text in ("count  to 3", "word " * 30))
    prompts = write_prompts(tmp_path / "p.jsonl", 12, repeated, long)
    command = ("heal", cut, "--teacher", tiny, "--prompts", prompts, "--json", *SMALL, "--out")
    ran = layercut.done(*command, tmp_path / "run")
    assert "13 of 14 answers" in ran.err
    healing = json.loads(ran.out)
    assert healing["answers"] == 14 and healing["dropped"] == {"with a repeated prompt": 1}
    assert healing["num_examples"] + healing["num_held_out"] == 13
    assert (tmp_path / "run" / "samples" / "responses.jsonl").read_text().count("\n") == 14
    original = layercut.done(*command, tmp_path / "other", "--responses", "original", "--max-length", 60)
    healing = json.loads(original.out)
    assert (healing["dropped"], healing["too_long_with_prompt"]) == ({"with a repeated prompt": 1}, 1)


def test_items_of_every_task_whose_data_is_given_are_not_learnt(layercut, tiny, cut, tmp_path):
    question = "Natalia sold {} clips in April, and half as many in May; how many clips is that?"
    items = [{"question": question.format(n), "answer": f"#### {n}"} for n in range(2, 9)]
    data = tmp_path / "data" / "gsm8k"
    data.mkdir(parents=True)
    (data / "test.jsonl").write_text("\n".join(map(json.dumps, items)))
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, items[:1])))
    asked = {"instruction": items[-1]["question"], "output": "12"}
    prompts = write_prompts(tmp_path / "p.jsonl", 12, asked, {"instruction": "Say.", "output": items[-2]["question"]})
    ran = layercut.done(
        *("heal", cut, "--teacher", tiny, "--prompts", prompts, "--responses", "original"),
        *("--data-dir", tmp_path / "data", "--out", tmp_path / "run", "--json", *SMALL),
    )
    assert "report items (2 gsm8k)" in ran.err
    assert json.loads(ran.out)["contaminated"] == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--optimizer", "adamw-torch"), "Did you mean adamw_torch"),
        (("--train-batch", 6, "--micro-batch", 4), "no multiple"),
        (("--right-only",), "none of these prompts is graded"),
        (("--objective", "grpo"), "grpo needs prompts whose answers are graded, and some of these are not; take task:"),
        ((), "0 of 12 answers kept (12 unfinished)"),
    ],
)
def test_what_cannot_be_done_is_refused(more, says, layercut, tiny, cut, prompts, tmp_path):
    given = ("--teacher", tiny, "--prompts", prompts, "--out", tmp_path / "run", "--max-new-tokens", 2)
    ran = layercut("heal", cut, *given, *more)
    assert ran.code == 1
    assert says in ran.said
    helps = ("--max-new-tokens", "--keep-unfinished", "no examples")
    assert more or all(words in ran.said for words in helps)


def test_a_model_that_is_its_own_teacher_is_refused(layercut, tiny, cut, prompts, tmp_path):
    shutil.copytree(tiny, tmp_path / "copy")  # whatever its name
    for model in (tiny, tmp_path / "copy"):
        ran = layercut("heal", model, "--teacher", tiny, "--prompts", prompts, "--out", tmp_path / "run", *SMALL)
        assert ran.code == 1 and "is its own teacher" in ran.err and len(ran.err.strip().splitlines()) == 1
    same = layercut("heal", cut, "--teacher", cut, "--prompts", prompts, "--out", tmp_path / "run", *SMALL)
    assert same.code == 1 and not (tmp_path / "run").exists()


def test_a_dry_run_says_what_healing_takes_and_writes_nothing(layercut, tiny, cut, prompts, tmp_path):
    given = ("--teacher", tiny, "--prompts", prompts, "--out", tmp_path / "run", "--dry-run")
    ran = layercut.done("heal", cut, *given, *SMALL)
    assert "answers of the original model: 12 answers" in ran.out
    assert "examples: 3 steps" in ran.out and "nothing was written" in ran.out
    assert ran.out.startswith("heal:\n  model: "), "the request comes first"
    assert not (tmp_path / "run").exists()
    data = json.loads(layercut("heal", cut, *given, *SMALL, "--json").out)
    parts = data["memory_parts"]
    assert sum(parts.values()) == data["memory_bytes"] and "of that memory: " in ran.out
    assert data["stays_bytes"] < data["disk_bytes"] and data["memory_bytes"] > 0 and data["checkpoints"] == 1
    seam = layercut("heal", cut, *given, "--method", "seam", "--responses", "original")
    assert seam.code == 0 and "reading both models: 12 texts" in seam.out and "training" not in seam.out
    refused = layercut("heal", tiny, *given, *SMALL)
    assert refused.code == 1 and "its own teacher" in refused.err, "what the run refuses, the dry run does"
    # What is written is within what was said.
    layercut.done("heal", cut, *given[:-1], *SMALL)
    written = sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert written < 1.5 * data["stays_bytes"] + 100_000, "the tokenizer comes on top"


@pytest.mark.parametrize("objective", ["sft", "reverse-kl", "on-policy"])
def test_models_of_the_training_are_freed_before_the_checkpoint_is_written(
    objective, layercut, tiny, cut, prompts, tmp_path, monkeypatch
):
    from layercut.healing import checkpoint, heal

    made: list[weakref.ref[Any]] = []
    left: list[Any] = []

    def noted(cut: Any, uncut: Any, *args: Any) -> Any:
        made.extend(weakref.ref(loaded.model) for loaded in (cut, uncut) if loaded is not None)
        return options_of(cut, uncut, *args)

    def written(*args: Any, **more: Any) -> Any:
        left.extend(one() for one in made if one() is not None)
        return write_trained(*args, **more)

    options_of, write_trained = heal.objective_of, checkpoint.write_trained
    monkeypatch.setattr(heal, "objective_of", noted)
    monkeypatch.setattr(checkpoint, "write_trained", written)
    given = ("--teacher", tiny, "--prompts", prompts, "--dtype", "float32", *SMALL)
    ran = layercut("heal", cut, *given, "--objective", objective, "--out", tmp_path / "run")
    assert ran.code == 0 and len(made) == (1 if objective == "sft" else 2) and not left


def test_answers_of_another_model_are_not_the_teachers(layercut, tiny, cut, prompts, tmp_path):
    given = answers(layercut, cut, prompts, tmp_path / "answers")
    ran = layercut("heal", cut, "--teacher", tiny, "--prompts", given, "--out", tmp_path / "run", *SMALL)
    assert ran.code == 1
    assert "not from the original" in ran.err
