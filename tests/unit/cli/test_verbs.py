"""``cut`` to GGUF, ``generate``, ``sweep`` and ``diagnose`` on a tiny model: what lies in the folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.models.gguf_file import read_gguf_head
from layercut.models.sources import describe_source, resolve_source
from layercut.surgery.plan import CutPlan
from tests.support.answers import write_lines
from tests.unit.models.gguf_maker import write_gguf


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERCUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_file_is_cut_to_a_gguf_file_and_to_a_folder(layercut, gguf_file, tmp_path):
    out = tmp_path / "new" / "cut.gguf"
    ran = layercut.done("cut", gguf_file, "--remove", "reverse:2", "--out", out, "--device", "cpu")
    assert "removes 2 of 6 decoder layers (33.3 %): 4, 5" in ran.err
    assert "reads from it the config of the original with 4 layers" in ran.out and f"checkpoint: {out}" in ran.out
    assert read_gguf_head(out).num_layers == 4
    again = layercut("cut", gguf_file, "--remove", "reverse:2", "--out", out)
    assert again.code == 1 and "choose another --out" in again.err
    dry = layercut("cut", gguf_file, "--remove", "1", "--out", tmp_path / "other.gguf", "--dry-run")
    assert dry.code == 0 and "nothing was written" in dry.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]
    assert [path.name for path in out.parent.iterdir()] == ["cut.gguf"]
    layercut.done("cut", gguf_file, "--remove", "1", "--out", tmp_path / "folder", "--device", "cpu")
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["num_hidden_layers"] == 5


def test_plan_json_and_hashes(layercut, gguf_file, tmp_path):
    digest = describe_source(resolve_source(str(gguf_file))).model_hash
    plan = CutPlan(num_layers=6, removed=(2,), criterion="block_influence", model=str(gguf_file), model_hash=digest)
    plan.save(tmp_path / "plan.json")
    layercut.done("cut", gguf_file, "--remove", tmp_path / "plan.json", "--out", tmp_path / "a.gguf", "--device", "cpu")
    recorded = json.loads(read_gguf_head(tmp_path / "a.gguf").metadata["layercut.plan"])
    assert (recorded["criterion"], recorded["model_hash"]) == ("block_influence", digest)
    CutPlan(num_layers=6, removed=(2,), model="another", model_hash="0" * 16).save(tmp_path / "other.json")
    for verify in ("--verify", "--no-verify"):
        out = tmp_path / "b.gguf"
        ran = layercut("cut", gguf_file, "--remove", tmp_path / "other.json", "--out", out, verify, "--device", "cpu")
        assert ran.code == 1 and "made for another" in ran.err.replace(f"{tmp_path}/other.json", "the plan")


def test_a_folder_is_not_cut_to_a_gguf_file(layercut, tiny, tmp_path):
    ran = layercut("cut", tiny, "--remove", "1", "--out", tmp_path / "x.gguf")
    assert ran.code == 1 and "convert_hf_to_gguf.py" in ran.err
    assert not any(tmp_path.iterdir())


def test_a_configuration_for_mergekit_is_no_dry_run_and_a_gguf_file_has_its_own_share(layercut, gguf_file, tmp_path):
    ran = layercut("cut", gguf_file, "--remove", "1", "--mergekit", tmp_path / "merge.yaml")
    assert ran.code == 0 and (tmp_path / "merge.yaml").is_file()
    assert "no checkpoint was written" in ran.out and "dry run" not in ran.out
    dry = layercut("cut", gguf_file, "--remove", "1", "--dry-run", "--json")
    whole, cut = json.loads(dry.out)["gguf_bytes"]
    layercut("cut", gguf_file, "--remove", "1", "--out", tmp_path / "cut.gguf", "--no-verify")
    assert whole == gguf_file.stat().st_size and abs(cut / (tmp_path / "cut.gguf").stat().st_size - 1) < 0.05


SHORT = ("--max-new-tokens", 6, "--seed", 3)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path) -> Path:
    file = tmp_path / "prompts.csv"
    file.write_text("question,answer\n" + "".join(f"say {number},fine\n" for number in range(5)))
    return file


def test_a_record_says_how_it_was_made_and_the_same_command_changes_nothing(layercut, tiny, prompts, tmp_path):
    out = tmp_path / "run"
    command = ("generate", tiny, "--prompts", prompts, "--out", out, "--temperature", 1.0, *SHORT)
    layercut.done(*command)
    records = lines(out / "samples" / "responses.jsonl")
    assert len({record["id"] for record in records}) == 5
    for record in records:
        assert record["model_hash"] == describe_source(resolve_source(str(tiny))).model_hash
        assert record["seed"] == 3 and record["removed"] == [] and record["source"] == str(prompts)
        assert record["finish_reason"] in ("stop", "length") and 1 <= record["num_new_tokens"] <= 6
        assert record["num_prompt_tokens"] > 5
    before = (out / "samples" / "responses.jsonl").read_bytes()
    layercut.done(*command)
    assert (out / "samples" / "responses.jsonl").read_bytes() == before
    alone = layercut("generate", tiny, "--prompt", "abc", "--max-new-tokens", 4, "--plain", "--json")
    assert 1 <= json.loads(alone.out)[0]["num_new_tokens"] <= 4
    assert layercut("generate", tiny).code == 1, "no prompt"


def test_a_tasks_answers_are_graded(layercut, tiny, tmp_path):
    layercut.done(
        *("generate", tiny, "--prompts", "task:copy", "--limit", 2, "--temperature", 1.0),
        *("--out", tmp_path / "run", *SHORT),
    )
    records = lines(tmp_path / "run" / "samples" / "responses.jsonl")
    assert [record["right"] for record in records] == [False] * 2
    assert {record["task"] for record in records} == {"copy"}


def test_a_dry_run_counts_what_is_left(layercut, tiny, tmp_path):
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    prompts = ("--prompts", tmp_path / "prompts.txt", "--max-new-tokens", 4, "--out", tmp_path / "run")
    command = ("generate", tiny, *prompts)
    ran = layercut.done(*command, "--dry-run")
    assert "answers: 3 answers" in ran.out and "at most 4 tokens an answer" in ran.out
    assert "memory: " in ran.out and not (tmp_path / "run").exists()
    layercut.done(*command)
    assert json.loads(layercut(*command, "--dry-run", "--json").out)["steps"][0]["items"] == 0


@pytest.mark.parametrize(("source", "says"), [("hub:a:b:c:d", "names no data set"), ("x.xlsx", "is not supported")])
def test_prompts_that_cannot_be_read_are_refused(layercut, tiny, tmp_path, source, says):
    ran = layercut("generate", tiny, "--out", tmp_path / "run", *SHORT, "--prompts", source)
    assert ran.code == 1 and says in ran.said


SWEPT = ("--objective", "brackets", "--readouts", "rank", "--limit", "3")


def test_sweep_end_to_end_and_again_without_the_model(layercut, tiny, tmp_path, monkeypatch):
    done = layercut.done("sweep", tiny, *SWEPT, "--layers", "0-1", "--out", tmp_path / "run")
    assert "2 decoder layers of" in done.out and "3 items per task (--limit 3)" in done.words
    assert f"report: {tmp_path}" in done.out.replace("\n", "")
    folder = tmp_path / "run"
    # A random model is not above chance, so there is no retention to draw.
    before = {name: (folder / name).read_bytes() for name in ("sweep.json", "sweep.md")}
    lines = (folder / "samples" / "brackets.rank.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 3

    monkeypatch.setattr("layercut.models.loading.load_model", None)  # nothing has to be computed
    again = layercut.done("sweep", tiny, *SWEPT, "--layers", "0-1", "--out", folder, "--json")
    data = json.loads(again.out)
    assert [row["layer"] for row in data["rows"]] == [0, 1]
    assert data == json.loads(before["sweep.json"])
    assert before == {name: (folder / name).read_bytes() for name in before}
    other = layercut("sweep", tiny, *SWEPT[:-1], "4", "--out", folder)
    assert other.code == 1 and "rank.limit 3, and now" in other.err


def test_shares_the_folder_of_a_search(layercut, tiny, tmp_path):
    # The tiny model guesses, so the search itself is refused, but only after it has scored the original model.
    search = ("--criterion", "task_accuracy", "--remove", "1 layer", "--out", tmp_path / "run")
    chosen = layercut("select", tiny, *SWEPT, *search)
    journal = tmp_path / "run" / "samples" / "brackets.rank.jsonl"
    before = journal.read_text()
    assert before.count("\n") >= 3, chosen.err
    layercut.done("sweep", tiny, *SWEPT, "--layers", "1", "--out", tmp_path / "run")
    assert journal.read_text().startswith(before)
    keys = [json.dumps([line["key"], line["id"]]) for line in map(json.loads, journal.read_text().splitlines())]
    assert len(set(keys)) == len(keys)
    listed = json.loads(layercut("ls", tmp_path, "--json").out)
    assert [run["status"] for run in listed] == ["finished"]
    assert listed[0]["command"].startswith("layercut select "), "the command that began it"


def test_suites_and_tasks_of_lm_eval_are_objectives(layercut, tiny, tmp_path):
    pytest.importorskip("lm_eval", reason="asks a task of lm-eval: pip install 'layercut[lm-eval]'")
    row = {"choices": {"text": ["a b", "c", "d"], "label": ["A", "B", "C"]}, "answerKey": "A"}
    data = write_lines(tmp_path / "arc_easy.jsonl", [row | {"question": f"{i} or so?"} for i in range(24)])
    quick = ("--objective", "suite:quick", "--limit", "3", "--data", f"arc_easy={data}", "--layers", "1")
    shown = layercut.done("sweep", tiny, *quick, "--out", tmp_path / "quick", "--dry-run")
    for task in ("arithmetic (short)", "copy (short)", "arc_easy (rank)"):
        assert f"{task}, 2 plans: 6 items" in shown.out
    options = ("--objective", "lm-eval:arc_easy", "--data", f"arc_easy={data}", "--limit", "3")
    done = layercut.done("sweep", tiny, *options, "--layers", "1", "--out", tmp_path / "run", "--json")
    (row,) = json.loads(done.out)["rows"]
    assert (row["task"], row["readout"], row["n"]) == ("arc_easy", "rank", 3)
    # The tiny model guesses, so the search is refused, but only after the task was asked.
    search = ("--criterion", "task_accuracy", "--remove", "1 layer", "--out", tmp_path / "run")
    chosen = layercut("select", tiny, *options, *search)
    assert "arc_easy (rank), not above" in chosen.said


DIAGNOSED = ("--only", "arithmetic,degeneration", "--limit", "2")


def test_diagnose_end_to_end_and_again_without_the_model(layercut, tiny, tmp_path, monkeypatch):
    layercut.done("cut", tiny, "--remove", "1,2", "--out", tmp_path / "short")
    done = layercut.done("diagnose", tiny, "reverse:2", tmp_path / "short", *DIAGNOSED, "--out", tmp_path / "run")
    assert "arithmetic: " in done.err  # progress of each diagnostic
    folder = tmp_path / "run"
    page = (folder / "diagnose.md").read_text()
    assert "What broke first in reverse-2:" in page
    assert "What broke first in short:" in page
    assert "without 2 of 6" in page
    before = {name: (folder / name).read_bytes() for name in ("diagnose.json", "diagnose.md", "report.html")}

    monkeypatch.setattr("layercut.models.loading.load_model", None)  # nothing has to be computed
    again = layercut.done("diagnose", tiny, "reverse:2", tmp_path / "short", *DIAGNOSED, "--out", folder, "--json")
    assert json.loads(again.out) == json.loads(before["diagnose.json"])
    assert before == {name: (folder / name).read_bytes() for name in before}
    layercut.done("report", folder)
    assert before == {name: (folder / name).read_bytes() for name in before}
    (listed,) = json.loads(layercut("ls", tmp_path, "--json").out)
    assert listed["status"] == "finished" and listed["command"].startswith("layercut diagnose ")
    other = layercut("diagnose", tiny, "reverse:2", tmp_path / "short", *DIAGNOSED[:-1], "3", "--out", folder)
    assert other.code == 1
    assert "limit 2, and now" in other.err


def test_a_checkpoint_is_walked_beside_the_uncut_model(layercut, tiny, tmp_path):
    """All diagnostics on a model that guesses: nothing fails, whatever is missing."""
    layercut.done("cut", tiny, "--remove", "1", "--out", tmp_path / "short")
    words = ("--limit", "1", "--out", tmp_path / "run", "--only", "brackets,propagation")
    layercut.done("diagnose", tiny, tmp_path / "short", *words)
    found = json.loads((tmp_path / "run" / "diagnose.json").read_text())["diagnostics"]
    assert list(found) == ["brackets", "propagation"]
    # The tiny model's context is too short for word problems; that is said, and costs nothing else.
    assert any("gsm_symbolic left out" in note for note in found["propagation"]["notes"])
    layercut.done("diagnose", tiny, tmp_path / "short", *words[:-1], "arithmetic")
    found = json.loads((tmp_path / "run" / "diagnose.json").read_text())["diagnostics"]
    assert list(found) == ["arithmetic", "brackets", "propagation"]


def test_a_model_without_its_plan_is_measured_as_with_it(layercut, tiny, tmp_path):
    layercut.done("cut", tiny, "--remove", "1", "--out", tmp_path / "short")
    (tmp_path / "short" / "plan.json").unlink()
    layercut.done("diagnose", tiny, tmp_path / "short", *DIAGNOSED, "--out", tmp_path / "run")
    as_plan = layercut("diagnose", tiny, "1", *DIAGNOSED, "--out", tmp_path / "plan")
    found, wanted = (json.loads((tmp_path / name / "diagnose.json").read_text()) for name in ("run", "plan"))
    assert (found["arms"][1]["layers"], wanted["arms"][1]["layers"]) == ([], [0, 2, 3, 4, 5])
    rows = [
        [{key: value for key, value in row.items() if key != "cut"} for row in one["diagnostics"][name]["rows"]]
        for name in ("arithmetic", "degeneration")
        for one in (found, wanted)
    ]
    assert as_plan.code == 0 and len(rows[0]) > 3
    assert json.loads(json.dumps(rows[:2]).replace('"short"', '"1"')) == [rows[1], rows[1]]


def test_one_plan_twice_and_two_models_of_one_name_are_refused(layercut, tiny, tmp_path):
    done = layercut("diagnose", tiny, "0,1", "1,0", "--out", tmp_path / "run")
    assert done.code == 1 and "0,1 and 1,0 are the same model" in done.said
    for layer in ("1", "2"):
        layercut.done("cut", tiny, "--remove", layer, "--out", tmp_path / layer / "short")
    done = layercut("diagnose", tiny, tmp_path / "1" / "short", tmp_path / "2" / "short", "--out", tmp_path / "run")
    assert done.code == 1 and "two models are called 'short'" in done.said
    assert not (tmp_path / "run").exists()


def test_each_layer_alone_is_a_cut_named_by_its_layer(layercut, tiny, tmp_path):
    layercut.done("diagnose", tiny, "each:1,3-4", "reverse:2", *DIAGNOSED, "--out", tmp_path / "run")
    data = json.loads((tmp_path / "run" / "diagnose.json").read_text())
    left = {arm["name"]: arm["layers"] for arm in data["arms"]}
    assert left == {
        "uncut": [0, 1, 2, 3, 4, 5], "1": [0, 2, 3, 4, 5], "3": [0, 1, 2, 4, 5], "4": [0, 1, 2, 3, 5],
        "reverse-2": [0, 1, 2, 3],
    }  # fmt: skip
    alone = layercut("diagnose", tiny, "3", *DIAGNOSED, "--out", tmp_path / "alone", "--json")
    for name, diagnosis in json.loads(alone.out)["diagnostics"].items():
        assert diagnosis["rows"] == [row for row in data["diagnostics"][name]["rows"] if row["arm"] == "3"]
