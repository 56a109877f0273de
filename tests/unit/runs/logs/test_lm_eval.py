"""lm-eval's samples, as lm-eval itself writes them, read as runs."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.evidence.comparison import Margin
from layercut.evidence.means import overall_means
from layercut.evidence.two_runs import compare_in_full, compare_two, comparison_notes, open_run, verdict_on_row
from layercut.runs.logs import open_foreign_log
from tests.support.harness import run_of_lm_eval, scripted, with_rows, write_rows

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'layercut[lm-eval]'")
NUMBER = 30


def rows(split: str) -> list[dict[str, Any]]:
    question = f"{split}: Tom has {{0}} apples and buys {{0}}. How many?"
    return [{"question": question.format(n), "answer": f"Twice.\n#### {2 * n}"} for n in range(NUMBER)]


def write_logs(folder: Path, data: str, right: int, *, shots: int = 0) -> Path:
    """lm-eval's run of gsm8k by a model that is right on the first so many of every 30 documents; its own files."""
    from lm_eval.loggers import EvaluationTracker

    def answer(prompt: str) -> str:
        number = int(prompt.rpartition("Tom has ")[2].partition(" ")[0])
        said = 2 * number if number < right else 1
        return f" so #### {said}" if hashlib.sha256(prompt.encode()).digest()[0] % 2 else f" it is {said}."

    task = with_rows("gsm8k", data, ("train", "test"), folder / "cache")
    found = run_of_lm_eval(scripted(answer, lambda document: 0.0), [task], num_fewshot=shots)
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name_sanitized = f"model-{right}"
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for name, of_task in samples.items():
        tracker.save_results_samples(task_name=name, samples=of_task)
    return folder / f"model-{right}"


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("logs")
    data = write_rows(folder / "rows", {split: rows(split) for split in ("train", "test")})
    made = {"best": (28, 0), "worst": (10, 0), "shots": (28, 2)}
    return {name: write_logs(folder / name, data, right, shots=shots) for name, (right, shots) in made.items()}


def test_documents_are_paired_and_every_filter_is_a_readout(logs):
    both = open_run(logs["best"]), open_run(logs["worst"])
    found = {row.readout: row for row in compare_two(*both)}
    assert {*found} == {"strict-match", "flexible-extract"}
    lenient, strict = found["flexible-extract"], found["strict-match"]
    assert (lenient.n, lenient.chance, lenient.metric, lenient.task) == (NUMBER, 0.0, "exact_match", "gsm8k")
    assert lenient.values.uncut.value == pytest.approx(28 / 30) and lenient.values.cut.value == pytest.approx(10 / 30)
    assert (lenient.values.lost, lenient.values.gained) == (18, 0)
    assert lenient.kept_share is not None and lenient.kept_share.value == pytest.approx(10 / 28)
    assert strict.values.uncut.value < lenient.values.uncut.value, "strict-match wants ####"
    assert all(row.p_value < 0.05 for row in found.values())


def test_one_file_says_what_a_folder_says_and_the_newest_samples_count(logs, tmp_path):
    files = [next(logs[name].glob("samples_gsm8k_*.jsonl")) for name in ("best", "worst")]
    of_files, of_folders = (compare_two(*map(open_run, paths)) for paths in (files, (logs["best"], logs["worst"])))
    assert [row.values for row in of_files] == [row.values for row in of_folders]
    assert open_run(logs["best"].parent).metrics()["rows"] == open_run(logs["best"]).metrics()["rows"]
    new = next(logs["worst"].glob("samples_gsm8k_*.jsonl")).read_text()
    for date, text in (("2026-01-02T00-00-00.1", new), ("2026-01-01T00-00-00.1", "no JSON")):
        (tmp_path / f"samples_gsm8k_{date}.jsonl").write_text(text)
    assert open_run(tmp_path).metrics()["rows"][0]["n"] == NUMBER


def test_what_was_asked_otherwise_is_named(logs):
    said = "\n".join(comparison_notes(open_run(logs["best"]), open_run(logs["shots"])))
    assert "gsm8k: few-shot examples 0 in" in said and "2 in" in said
    assert f"gsm8k: the prompts of {NUMBER} of {NUMBER} items differ" in said
    assert comparison_notes(open_run(logs["best"]), open_run(logs["worst"])) == []


def test_the_command_compares_and_writes_a_page(logs, tmp_path, layercut):
    page = tmp_path / "page.html"
    ran = layercut("compare", logs["best"], logs["worst"], "--page", page)
    assert ran.code == 0 and "worse" in ran.out and "lm-eval's log of" in ran.out
    text = page.read_text("utf-8")
    assert "Every answer, before and after" in text and "strict-match" in text
    assert "http" not in text.replace("http-equiv", "")
    assert '"original": "model-28"' in text and "Compared with <select" in text and "<label>Plan" not in text
    assert "original model" not in text and 'side("uncut"' not in text, "nobody cut these two"
    assert layercut("compare", logs["best"], logs["worst"], "--page", page).code == 0, "layercut replaces its page"
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    for other in (weights, tmp_path, "/proc/x.html"):
        refused = layercut("compare", logs["best"], logs["worst"], "--page", other)
        assert refused.code == 1 and "error:" in refused.err and "Traceback" not in refused.err
    assert weights.read_bytes() == b"weights"
    data = json.loads(layercut("compare", logs["best"], logs["worst"], "--json").out)
    assert {row["verdict"] for row in data["rows"]} == {"worse"} and data["first"]["run"] == "model-28"


def test_equal_documents_are_paired_by_their_order(logs, tmp_path):
    text = next(logs["best"].glob("samples_gsm8k_*.jsonl")).read_text()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "samples_gsm8k.jsonl").write_text(text + text)
    found = compare_two(open_run(tmp_path / "a"), open_run(tmp_path / "b"))
    assert [row.n for row in found] == [2 * NUMBER] * 2 and not any(row.values.lost for row in found)


def test_equal_documents_are_paired_by_doc_id(tmp_path):
    lines = [{**line(number, 0, acc=float(number % 2)), "doc_hash": f"d{number // 2}"} for number in range(12)]
    first = open_run(write_samples(tmp_path / "a" / "samples_x.jsonl", lines))
    second = open_run(write_samples(tmp_path / "b" / "samples_x.jsonl", [*reversed(lines)][2:]))
    (row,) = compare_two(first, second)
    assert (row.n, row.values.lost, row.values.gained) == (10, 0, 0)
    assert row.note == "10 items of x in common (a/samples_x has 12, b/samples_x has 10)"


@pytest.mark.parametrize("results", [{}, {"higher_is_better": {"lambada": {"perplexity": False, "acc": True}}}])
def test_a_log_likelihood_is_not_the_perplexity_that_lm_eval_calls_it(tmp_path, results):
    runs = []
    for name, nats in (("a", 0.1), ("b", 0.3)):
        metrics = [{"metrics": ["perplexity", "acc"], "perplexity": -nats * (1 + n / 100)} for n in range(60)]
        lines = [line(n, 0, acc=1.0) | own for n, own in enumerate(metrics)]
        runs.append(open_run(write_samples(tmp_path / name / "samples_lambada.jsonl", lines, **results)))
    row, acc = compare_two(*runs)
    assert (row.metric, verdict_on_row(row), row.chance) == ("log_likelihood", "worse", None)
    assert not row.is_share and acc.is_share
    assert row.values.cut.value == pytest.approx(-0.3885)
    assert row.values.lost is None and row.uncut_outcomes["right"] == 0


def test_a_task_whose_metrics_need_all_items_is_named(tmp_path):
    lines = [line(n, 0) | {"metrics": ["word_perplexity"], "word_perplexity": [-9.0, 3]} for n in range(3)]
    file = write_samples(tmp_path / "samples_wikitext.jsonl", lines)
    with pytest.raises(InputError, match="holds no metric that is a number for every item of wikitext, so"):
        open_run(file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"doc_id": 0, "metrics": ["acc"], "acc": 1.0}',
            "x.jsonl: line 1: arguments is missing. Log the samples again",
        ),
        ('{"doc_id": 0, "doc": {}, "arguments": {}, "resps": 5, "metrics": []}', "line 1: resps is 5: it should be a"),
        ('{"doc_id": 0, "doc": {}, "arguments": {}, "resps": [], "metrics": []}', "holds no metric that is a number"),
        ('{"other": 1}', "is no evaluation that is known"),
        ("not JSON", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, line, message):
    (tmp_path / "samples_x.jsonl").write_text(line + "\n")
    with pytest.raises(InputError) as caught:
        open_foreign_log(tmp_path / "samples_x.jsonl")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def line(number: int, options: int, **metrics: float) -> dict[str, Any]:
    """An item with options, as lm-eval logs it; no option is one that is written."""
    texts = [{"arg_0": "Which?", "arg_1": f" {one}"} for one in range(options)]
    return {
        "doc_id": number, "doc": {"query": "Which?"}, "target": f"the {number}", "target_hash": "0" * 64,
        "arguments": {f"gen_args_{place}": one for place, one in enumerate(texts or [{"arg_0": "?", "arg_1": {}}])},
        "resps": [[["-1.0", "False"]]] * options or [["so"]], "filtered_resps": [["-1.0", "False"]] * options or ["so"],
        "metrics": [*metrics, "perplexity"], "perplexity": [1.0, 2], "doc_hash": f"d{number}", "filter": "none",
        **metrics,
    }  # fmt: skip


def write_samples(file: Path, lines: list[dict[str, Any]], **results: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, lines)))
    if results:
        (file.parent / "results_2026-01-01T00-00-00.1.json").write_text(json.dumps(results))
    return file


def test_options_with_the_question_are_guessed_at_one_in_many(tmp_path):
    lines = [line(number, 4 if number % 2 else 2, acc=float(number > 3)) for number in range(8)]
    (row,) = open_run(write_samples(tmp_path / "samples_arc_easy.jsonl", lines)).metrics()["rows"]
    assert (row["readout"], row["metric"], row["chance"], row["value"]) == ("rank", "acc", 0.375, 0.5)
    lines = [line(number, 8, acc=1.0, acc_mutual_info=1.0) for number in range(8)]
    run = open_run(write_samples(tmp_path / "samples_arc_easy.jsonl", lines))
    assert [row["chance"] for row in run.metrics()["rows"]] == [0.25, 0.25]
    assert len(run.records("arc_easy", "rank")[0]["options"]) == 4


@pytest.mark.parametrize("options", [0, 4])
def test_where_lower_is_better_more_is_worse(tmp_path, layercut, options):
    senses = {"higher_is_better": {"toxic": {"errs": False, "acc": True}}}
    for name, errs in (("a", 0.0), ("b", 1.0)):
        lines = [line(number, options, errs=errs if number % 3 else 1 - errs, acc=1 - errs) for number in range(60)]
        write_samples(tmp_path / name / "samples_toxic.jsonl", lines, **senses)
    ran = layercut("compare", tmp_path / "a", tmp_path / "b", "--json")
    negated, acc = json.loads(ran.out)["rows"]
    assert (negated["metric"], negated["verdict"], negated["chance"]) == ("neg_errs", "worse", None)
    assert (negated["first"]["value"], negated["second"]["value"]) == (pytest.approx(-1 / 3), pytest.approx(-2 / 3))
    assert (acc["metric"], acc["verdict"], json.loads(ran.out)["notes"]) == ("acc", "worse", [])
    (row, _) = compare_two(open_run(tmp_path / "a"), open_run(tmp_path / "b"))
    assert row.kept_share is None and row.values.lost is None
    assert row.uncut_outcomes["right"] == 40 and row.cut_outcomes["right"] == 20


def test_without_results_it_is_said_that_higher_is_taken_as_better(tmp_path):
    all_results = {"a": {}, "b": {"higher_is_better": {"y": {"errs": False}}, "versions": {"x": 1}}}
    files = {name: tmp_path / name / "samples_x.jsonl" for name in all_results}
    runs = [open_run(write_samples(files[name], [line(0, 0, errs=1.0)], **all_results[name])) for name in files]
    (said,) = [note for note in comparison_notes(*runs) if "higher is taken" in note]
    assert said == "x: no results_DATE.json says for which metrics lower is better; higher is taken"


def test_each_date_has_its_own_results(tmp_path):
    for task, date in (("a", "2026-01-01T00-00-00.1"), ("b", "2026-01-02T00-00-00.1")):
        write_samples(tmp_path / f"samples_{task}_{date}.jsonl", [line(0, 0, errs=1.0)])
        (tmp_path / f"results_{date}.json").write_text(json.dumps({"higher_is_better": {task: {"errs": False}}}))
    run = open_run(tmp_path)
    assert {row["metric"] for row in run.metrics()["rows"]} == {"neg_errs"}
    assert run.records("a", "written")[0]["gold"] == "the 0", "the answer and not its hash"


def test_a_folder_of_two_models_is_refused(tmp_path):
    for name in ("a", "b"):
        write_samples(tmp_path / "lm" / name / "samples_x.jsonl", [line(0, 0, acc=1.0)])
    with pytest.raises(InputError, match="holds the logs of 2 models, a, b; give the folder of one"):
        open_run(tmp_path / "lm")
    write_samples(tmp_path / "lm" / "samples_y.jsonl", [line(0, 0, acc=1.0)])
    assert open_run(tmp_path / "lm").metrics()["rows"][0]["task"] == "y"


def test_a_renamed_file_has_the_task_of_its_results_or_the_error_names_both(tmp_path):
    known = write_samples(tmp_path / "a" / "mine.jsonl", [line(0, 0, acc=1.0)], configs={"sums": {}})
    other = write_samples(tmp_path / "b" / "samples_sums_2026-01-01T00-00-00.1.jsonl", [line(0, 0, acc=1.0)])
    assert len(compare_two(open_run(known), open_run(other))) == 1
    lost = write_samples(tmp_path / "c" / "samples_sums_mine.jsonl", [line(0, 0, acc=1.0)])
    with pytest.raises(InputError, match=r"in common: sums_mine and sums\..* the file's name, samples_TASK_DATE.jsonl"):
        compare_two(open_run(lost), open_run(other))


def test_a_margin_gives_every_row_a_verdict_and_the_exit_code(logs, layercut):
    ran = layercut("compare", logs["best"], logs["worst"], "--margin", "5%")
    assert ran.code == 1 and "Is B as good as A, within 5 % of A's score above chance?" in ran.out
    assert "worse: gsm8k (strict-match), gsm8k (flexible-extract)" in ran.out.replace("\n", " ")
    assert layercut("compare", logs["best"], logs["worst"]).code == 0, "worse without a margin is no failure"
    better = layercut("compare", logs["worst"], logs["best"], "--margin", "2", "--json")
    assert better.code == 0
    rows = json.loads(better.out)["rows"]
    assert [row["verdict"] for row in rows] == ["better", "better"]
    assert rows[0]["by_margin"]["margin"] == {"size": 0.02, "is_share": False} and rows[0]["by_margin"]["low"] > 0
    refused = layercut("compare", logs["worst"], logs["best"], "--margin", "0.02")
    assert refused.code == 1 and "margin '0.02' is none: write 2 for two points of score" in refused.err


def test_markdown_for_a_pull_request(logs, layercut):
    ran = layercut("compare", logs["best"], logs["worst"], "--margin", "2", "--markdown")
    lines = ran.out.splitlines()
    assert ran.code == 1 and any(line.startswith("- worse: gsm8k") for line in lines)
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table[:4]}) == 1 and "| worse |" in table[2]


GROUPS = {
    "group_subtasks": {"exam": ["part", "third"], "part": ["first", "second"], "tag": ["first", "third"]},
    "groups": {"exam": {}, "part": {}},
}


def ranked(number: int, gold: int, best: int, **more: Any) -> dict[str, Any]:
    """An item with four options and their log-likelihoods, of which ``best`` is the likeliest."""
    values = [[f"{-1.0 if place == best else -3.0 - place}", "False"] for place in range(4)]
    own = {"target": str(gold), "resps": [[value] for value in values], "filtered_resps": values}
    return {**line(number, 4, acc=float(best == gold)), **own, "metrics": ["acc"], **more}


def write_exam(folder: Path, wrong: set[int]) -> Path:
    for task, size in (("first", 20), ("second", 40), ("third", 60)):
        lines = [ranked(number, 1, 2 if number in wrong else 1) for number in range(size)]
        write_samples(folder / f"samples_{task}_2026-01-01T00-00-00.1.jsonl", lines, **GROUPS)
    return folder


def test_groups_that_lm_eval_scores_pool_the_items_of_their_tasks(tmp_path, layercut):
    folders = write_exam(tmp_path / "a", {0}), write_exam(tmp_path / "b", set(range(20)))
    rows = {row.task: row for row in compare_in_full(*map(open_run, folders), margin=Margin.parse("5"))}
    assert {name: row.n for name, row in rows.items()} == {
        "first": 20, "second": 40, "third": 60, "exam": 120, "part": 60
    }  # fmt: skip
    assert rows["part"].group == ("first", "second") and {*rows["exam"].group} == {"first", "second", "third"}
    assert rows["part"].values.cut.value == pytest.approx(20 / 60) and rows["part"].chance == 0.25
    assert rows["exam"].values.lost == 57 and rows["exam"].by_margin.verdict == "worse"
    assert rows["exam"].p_adjusted == pytest.approx(5 * rows["exam"].values.p_value), "Holm over groups too"
    assert overall_means([*rows.values()])["ranked"].tasks == ("first", "second", "third")
    ran = layercut("compare", *folders, "--page", tmp_path / "page.html", "--json")
    assert [row.get("group") for row in json.loads(ran.out)["rows"]][-1] == ["first", "second"]
    assert '"task": "exam"' not in (tmp_path / "page.html").read_text("utf-8"), "answers are listed once"


def test_likelihoods_of_the_right_option_are_read_where_it_is_known(tmp_path):
    for name, best in (("a", 1), ("b", 2)):
        lines = [ranked(number, 1, best) for number in range(30)]
        write_samples(tmp_path / name / "samples_x.jsonl", lines)
    (row,) = compare_in_full(open_run(tmp_path / "a"), open_run(tmp_path / "b"))
    assert row.changes.log_likelihood.value == pytest.approx(-4.0 - -1.0)
    assert (row.changes.same_score, row.changes.both_wrong) == (0, 0) and row.values.lost == 30
    texts = [{"arg_0": "Which?", "arg_1": f" {text}"} for text in (2, 1, 3, 4)]
    odd = {f"gen_args_{place}": text for place, text in enumerate(texts)}
    for target, known in (("1", True), ("2", False), ("7", False)):
        # The target 1 is the option "1" by its number and as text; 2 is "3" by its number and "2" as text.
        write_samples(tmp_path / "c" / "samples_x.jsonl", [ranked(0, 1, 1, arguments=odd, target=target)])
        (record,) = open_run(tmp_path / "c").records("x", "rank")
        assert ("right_option" in record) == (known or target == "7")
        assert record["gold"] == target, "two logs are paired by what was logged"


def test_of_several_logs_of_a_task_the_newest_is_compared_and_it_is_said(tmp_path):
    for date, right in (("2026-01-01", 10.0), ("2026-01-02", 0.0)):
        lines = [line(number, 0, acc=float(number < right)) for number in range(20)]
        write_samples(tmp_path / "a" / f"samples_x_{date}T00-00-00.1.jsonl", lines)
    write_samples(tmp_path / "b" / "samples_x_2026-01-01T00-00-00.1.jsonl", lines)
    runs = open_run(tmp_path / "a"), open_run(tmp_path / "b")
    assert compare_two(*runs)[0].values.uncut.value == 0
    assert any("a holds several logs of a task; the newest is compared" in note for note in comparison_notes(*runs))
