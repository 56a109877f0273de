"""The command line as a user meets it, on a tiny model: output, exit codes, one-line errors, what lies on disk."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from layercut.sandbox import runner as sandbox
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.selected_items import record_items

VERBS = ("select", "cut", "eval", "generate", "run", "plan-size", "report", "ls", "env")


def test_help_answers_without_torch():
    code = "import sys; sys.argv = ['layercut', '--help']\nfrom layercut.cli.main import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'transformers', 'matplotlib', 'scipy') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(verb in said for verb in VERBS) and said.strip().endswith("[]")


def test_cut_echoes_the_expanded_list_and_writes_a_verified_checkpoint(layercut, tiny, tmp_path):
    out = tmp_path / "cut"
    dry = layercut("cut", tiny, "--remove", "reverse:2", "--out", out, "--dry-run")
    assert dry.code == 0 and "nothing was written" in dry.out and not out.exists()
    ran = layercut.done("cut", tiny, "--remove", "4,1-2", "--out", out)
    assert "removes 3 of 6 decoder layers (50.0 %): 1, 2, 4" in ran.err
    assert "by at most 0 " in ran.out
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 3
    assert json.loads((out / "plan.json").read_text())["removed"] == [4, 1, 2]
    assert "layercut" in (out / "README.md").read_text()
    before = sorted(path.name for path in out.iterdir())
    assert layercut("cut", tiny, "--remove", "5", "--out", out).code == 1, "it holds something"
    assert sorted(path.name for path in out.iterdir()) == before
    data = json.loads(layercut("cut", tiny, "--remove", "5", "--out", tmp_path / "other", "--json").out)
    assert data["plan"]["removed"] == [5] and data["parameters"][1] < data["parameters"][0]


def test_eval_scores_and_resumes_and_refuses_another_run(layercut, tiny, tmp_path):
    command = ("eval", tiny, "--tasks", "arithmetic", "--limit", "4", "--out", tmp_path / "run", "--remove", "5")
    first = layercut.done(*command)
    assert "arithmetic" in first.out
    samples = tmp_path / "run" / "samples" / "arithmetic.short.jsonl"
    before = samples.read_bytes()
    assert len(before.splitlines()) == 4
    again = layercut(*command, "--json")
    assert samples.read_bytes() == before
    assert {row["n"] for row in json.loads(again.out)["rows"]} == {4}
    other = layercut(*command[:-1], "4")
    assert other.code == 1
    assert "was begun with" in other.err


def test_eval_against_the_uncut_run_says_what_each_readout_keeps(layercut, tiny, tmp_path):
    asked = (tiny, "--tasks", "copy", "--readouts", "rank,short", "--limit", 8)
    layercut.done("eval", *asked, "--out", tmp_path / "uncut")
    cut = (*asked, "--remove", "2", "--out", tmp_path / "cut")
    early = layercut("eval", *cut, "--against", tmp_path / "nowhere")
    assert (early.code, early.err.count("\n")) == (1, 1) and not (tmp_path / "cut").exists()
    ran = layercut("eval", *cut, "--against", tmp_path / "uncut")
    assert ran.code == 0 and "above chance" in ran.words and "McNemar" in ran.words
    rows = json.loads(layercut("eval", *cut, "--against", tmp_path / "uncut", "--json").out)["against"]["rows"]
    assert [(row["task"], row["readout"], row["n"]) for row in rows] == [("copy", "rank", 8), ("copy", "short", 8)]
    layercut.done("eval", *asked, "--out", tmp_path / "uncut", "--against", tmp_path / "cut")


def test_eval_says_which_walls_generated_programs_run_behind(layercut, tiny, tmp_path):
    if sandbox._why_not("bubblewrap") and sandbox._why_not("none"):
        pytest.skip(f"programs cannot run here: {sandbox._why_not('none')}")
    row = {"prompt": "def one():\n", "entry_point": "one", "canonical_solution": "    return 1\n"}
    row["test"] = "def check(candidate):\n    pass\n"
    rows = [{**row, "task_id": f"HumanEval/{n}"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    command = ("eval", tiny, "--tasks", "humaneval", "--data", f"humaneval={tmp_path / 'rows.jsonl'}", "--limit", "1")
    ran = layercut.done(*command, "--max-new-tokens", "4", "--out", tmp_path / "run", "--unsafe-exec")
    assert f"isolation of generated programs: {sandbox.describe_isolation()}" in ran.said
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["sandbox"] == sandbox.describe_isolation()
    other = layercut("eval", tiny, "--tasks", "copy", "--limit", "1", "--out", tmp_path / "other", "--dry-run")
    assert "programs" not in other.err


def test_a_study_runs_resumes_reports_and_is_listed(layercut, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = {"model": str(tiny), "out": "runs/s", "plans": {"last": "reverse:2", "some": "1,3"}}
    study["tasks"] = [{"task": "arithmetic", "limit": 4}]
    Path("study.yaml").write_text(yaml.safe_dump(study))
    dry = layercut("run", "study.yaml", "--dry-run")
    assert "with 2 checkpoints" in dry.out and "would write to runs/s" in dry.out and not Path("runs").exists()
    ran = layercut.done("run", "study.yaml")
    assert "report: runs/s/report.md" in ran.out
    assert Path("runs/s/some/checkpoint/model.safetensors").is_file()
    report = Path("runs/s/report.md").read_bytes()
    monkeypatch.setattr("layercut.models.loading.load_model", None)  # a finished study loads no model
    layercut.done("run", "study.yaml")
    assert Path("runs/s/report.md").read_bytes() == report
    Path("runs/s/report.md").unlink()
    layercut.done("report", "runs/s")
    assert Path("runs/s/report.md").read_bytes() == report
    listed = layercut("ls")
    assert "runs/s/last" in listed.out and "finished" in listed.out
    assert len(json.loads(layercut("ls", "--json").out)) >= 3


def test_select_writes_a_plan_that_cut_takes(layercut, tiny, tmp_path):
    ran = layercut(
        "select", tiny, "--criterion", "block_influence", "--remove", "2 layers", "--out", tmp_path / "s",
        "--protect", "0,5", "--calibration-texts", 2, "--calibration-tokens", 16,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    plan = json.loads((tmp_path / "s" / "plan.json").read_text())
    assert len(plan["removed"]) == 2
    assert not {0, 5} & set(plan["removed"])
    layercut.done("cut", tiny, "--remove", tmp_path / "s" / "plan.json", "--out", tmp_path / "cut")


def test_items_that_chose_a_plan_do_not_judge_it(layercut, tiny, tmp_path):
    plan, ids = tmp_path / "plan.json", [sample.id for sample in load_task("arithmetic").samples("report", 2)]
    scores = {"selection_items": record_items({"arithmetic": ids})}
    CutPlan(num_layers=6, removed=(5,), criterion="task_accuracy", scores=scores).save(plan)
    asked = ("eval", tiny, "--remove", plan, "--tasks", "arithmetic", "--readouts", "rank", "--limit", "4")
    refused = layercut(*asked, "--out", tmp_path / "run")
    assert refused.code == 1 and "2 of these 4" in refused.err


def test_plan_size_says_its_items_and_assumptions_and_env_versions_and_no_secrets(layercut, monkeypatch):
    ran = layercut("plan-size", "--retention", "0.9", "--baseline", "0.6")
    assert ran.code == 0 and ran.out.startswith("566 items show the") and "9.39 % gained (assumed)" in ran.out
    recorded = json.loads(layercut("plan-size", "--retention", "0.9", "--baseline", "0.6", "--json").out)
    assert recorded["items"] == 566 and recorded["cut"] == pytest.approx(0.54)
    wrong = layercut("plan-size", "--retention", "1", "--baseline", "0.6")
    assert wrong.code == 1 and "more than 5,000,000 items" in wrong.err
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    ran = layercut("env")
    assert "torch" in ran.out
    assert "hf_very_secret" not in ran.out


@pytest.mark.parametrize("verb", VERBS)
def test_paragraphs_of_help_are_wrapped_once(layercut, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = layercut(verb, "--help")
    assert ran.code == 0 and "Usage" in ran.out
    text = re.split(r"\n(?:Arguments|Options):", ran.out)[0]
    assert max(map(len, text.splitlines())) <= 80
    stripped = [line.strip() for line in text.splitlines()]
    for line, following in itertools.pairwise(stripped):
        if line and following:
            assert len(line) + 1 + len(following.split(" ")[0]) > 76, f"broken early: {line!r}"
