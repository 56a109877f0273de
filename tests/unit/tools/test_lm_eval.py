"""``--model layercut`` of lm-eval gives what lm-eval's own ``hf`` gives for the checkpoint that ``cut`` writes."""

from __future__ import annotations

import json
import tomllib
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'layercut[lm-eval]'")

import lm_eval
from lm_eval.tasks import TaskManager

from layercut.errors import InputError
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan
from layercut.tools.lm_eval import LayercutLM, main
from tests.support.tiny import save_tiny

ROOT = Path(__file__).parents[3]
WORDS = ("red", "seven", "over the hill", "a b c d", "Paris", "1 + 1", "no", "the end")
TASKS = {
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "Which word? {{text}}\nAnswer:",
        "doc_to_choice": ["yes", "no", "perhaps", "{{text}}"],
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "tiny_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{long}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "tiny_answer": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{text}}\nAnswer:",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"text": word, "label": i % 4, "long": f"{word}, " * (20 + 5 * i)} for i, word in enumerate(WORDS)]
    (folder / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        data = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "rows.json")}},
            "test_split": "test",
            **task,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(data))  # JSON is YAML
    return folder


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def uncut(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(request.param, tmp_path_factory.mktemp("model") / "uncut")


def run(model: str, arguments: dict[str, Any], tasks: Path) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        model,
        {**arguments, "max_length": 64, "batch_size": 3},
        tasks=list(TASKS),
        device="cpu",
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        log_samples=True,
    )
    assert found is not None
    return found


def answers(found: dict[str, Any]) -> dict[str, list[Any]]:
    """What the model said of each item of each task."""
    return {
        name: [item["resps"] for item in sorted(items, key=lambda item: item["doc_id"])]
        for name, items in found["samples"].items()
    }


def test_all_answers_are_those_of_hf_on_the_cut_checkpoint(uncut: Path, tasks: Path, tmp_path: Path) -> None:
    plan = CutPlan(num_layers=6, removed=(1, 3, 4))
    cut_checkpoint(uncut, plan, tmp_path / "cut")
    expected = run("hf", {"pretrained": str(tmp_path / "cut")}, tasks)
    found = run("layercut", {"pretrained": str(uncut), "remove": "1,3-4"}, tasks)
    assert set(answers(found)) == set(TASKS)
    assert answers(found) == answers(expected)
    assert found["results"] == expected["results"]
    assert found["config"]["layercut_removed"] == [1, 3, 4]
    assert found["config"]["model_num_parameters"] == expected["config"]["model_num_parameters"]
    # Not trivially so: the original model says other things, and items differ.
    whole = answers(run("layercut", {"pretrained": str(uncut)}, tasks))
    assert all(whole[name] != answers(found)[name] for name in TASKS)
    assert len({str(said) for said in answers(found)["tiny_answer"]}) > 1


def test_layers_are_named_in_every_way_that_lm_eval_passes_on(uncut: Path, tmp_path: Path) -> None:
    CutPlan(num_layers=6, removed=(5,)).save(tmp_path / "plan.json")
    for remove, expected in {
        5: (5,),
        "5": (5,),
        (1, 5): (1, 5),
        "2-3": (2, 3),
        "reverse:2": (5, 4),
        str(tmp_path / "plan.json"): (5,),
    }.items():
        model = LayercutLM(str(uncut), remove, device="cpu")
        assert model.plan.removed == expected
        assert model.config.num_hidden_layers == len(model.model.model.layers) == 6 - len(expected)


def test_what_cannot_be_cut_is_said_before_anything_is_loaded(uncut: Path) -> None:
    with pytest.raises(InputError, match="layer 6 is not in"):
        LayercutLM(str(uncut), 6)
    with pytest.raises(InputError, match="peft and remove"):
        LayercutLM(str(uncut), 5, peft="some/adapter")
    with pytest.raises(InputError, match="does not exist"):
        LayercutLM("./nowhere")


def test_the_entry_point_leads_to_the_model() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]
    assert list(declared) == ["layercut"]
    assert EntryPoint("layercut", declared["layercut"], "lm_eval.models").load() is LayercutLM


def test_the_command_line_is_lm_evals_with_one_more_model(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny("llama", tmp_path / "uncut")
    own_alone = partial(TaskManager, include_defaults=False)  # a look through all of lm-eval's takes half a minute
    monkeypatch.setattr("lm_eval.tasks.TaskManager", own_alone)

    def command(remove: str, *more: str) -> None:
        given = f"pretrained={model},remove={remove},max_length=64"
        words = ["--tasks", "tiny_choice", "--include_path", str(tasks), "--device", "cpu", *more]
        monkeypatch.setattr("sys.argv", ["lm_eval", "--model", "layercut", "--model_args", given, *words])
        main()

    command("'1,3-4'", "--output_path", str(tmp_path / "results.json"))
    (written,) = tmp_path.glob("results*.json")
    data = json.loads(written.read_text())
    assert data["config"]["model"] == "layercut" and data["config"]["layercut_removed"] == [1, 3, 4]
    assert data["results"]["tiny_choice"]["sample_len"] == len(WORDS)
    with pytest.raises(SystemExit) as ended:
        command("9")
    assert ended.value.code == 1 and "layercut: layer 9" in capsys.readouterr().err.splitlines()[-1]
