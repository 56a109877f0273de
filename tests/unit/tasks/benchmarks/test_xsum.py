"""XSum: ROUGE with stemming, and chance from answers that need no model."""

import pytest

from layercut.engine.base import GenerationRequest, Message
from layercut.errors import InputError
from layercut.tasks import load_task
from layercut.tasks.benchmarks.xsum import XSum, lead_sentence, rouge_scores
from tests.support.answers import completion, write_lines

ROWS = [
    {"document": f"A man of {i} ran home. It was late.\nHe slept.", "summary": f"Runner {i} ran to his home."}
    for i in range(12)
]


@pytest.fixture
def task(tmp_path):
    write_lines(tmp_path / "validation.jsonl", ROWS[:8])
    write_lines(tmp_path / "test.jsonl", ROWS[6:])
    loaded = load_task("xsum", data=str(tmp_path))
    assert isinstance(loaded, XSum)
    return loaded


def test_splits_prompt_and_chance_which_is_the_lead(task):
    assert [one.question for one in task.samples("report", None)] == [row["document"] for row in ROWS[6:]]
    assert [one.question for one in task.samples("selection", None)] == [row["document"] for row in ROWS[:6]]
    sample = task.samples("report", 1)[0]
    instruction = "Write a concise one-sentence summary of this article, and nothing else."
    prompt = (Message("user", f"{ROWS[6]['document']}\n\n{instruction}"),)
    assert task.request(sample, "short") == GenerationRequest(id=sample.id, prompt=prompt, max_new_tokens=64)
    samples = task.samples("report", None)
    leads = [rouge_scores(lead_sentence(sample.question), sample.gold) for sample in samples]
    mean = {metric: sum(lead[metric] for lead in leads) / 6 for metric in leads[0]}
    assert task.chance(samples, "short") == pytest.approx(mean) and 0 < mean["rouge2"] < mean["rougeL"] < 1


@pytest.mark.parametrize(
    ("summary", "gold", "expected"),
    [
        ("the cat sat", "The cat sat.", (1, 1, 1)),
        ("cats sitting", "cat sits", (1, 1, 1)),  # stemming
        ("sat the cat", "the cat sat", (2 / 3, 1, 0.5)),
        ("", "the cat sat", (0, 0, 0)),
        ("dog", "the cat sat", (0, 0, 0)),
        ("the cat sat on a mat", "the cat sat", (2 / 3, 2 / 3, 4 / 7)),
    ],
)
def test_rouge(summary, gold, expected):
    scores = rouge_scores(summary, gold)
    assert list(scores) == ["rougeL", "rouge1", "rouge2"]
    assert list(rouge_scores("Cats sat.", "the cat sat").values()) == pytest.approx([0.8, 0.8, 2 / 3])
    assert tuple(scores.values()) == pytest.approx(expected)


def test_the_class_of_an_answer_is_measured_by_the_lead(task):
    sample = task.samples("report", 1)[0]
    assert task.grade(sample, "short", completion(" Runner 6 ran to his home. ")).outcome == "right"
    assert task.grade(sample, "short", completion("A man of 6 ran home.")).outcome == "right", "the lead itself"
    wrong = task.grade(sample, "short", completion("Sunny tomorrow."))
    assert wrong == ({"rougeL": 0.0, "rouge1": 0.0, "rouge2": 0.0}, "Sunny tomorrow.", "wrong", "")
    assert task.grade(sample, "short", completion("")).outcome == "no_answer"
    assert task.grade(sample, "short", completion("Sunny", "length")).outcome == "cut"


@pytest.mark.parametrize(
    ("article", "first"),
    [
        ("One. Two.", "One."),
        ("It is 3.5 miles. Far.", "It is 3.5 miles."),
        ("No mark\nat all", "No mark\nat all"),
        ("  Why? Because.", "Why?"),
        ("", ""),
    ],
)
def test_lead(article, first):
    assert lead_sentence(article) == first


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="max_new_tokens 0"):
        load_task("xsum", max_new_tokens=0)
    with pytest.raises(InputError, match="no field 'summary'"):
        load_task("xsum", data=write_lines(tmp_path / "a.jsonl", [{"document": "d"}])).samples("report", None)


def test_the_lead_of_real_articles(benchmark_data):
    task = load_task("xsum", data=str(benchmark_data / "xsum"))
    assert isinstance(task, XSum)
    assert 0.08 < task.chance(task.samples("report", 200), "short")["rougeL"] < 0.2
