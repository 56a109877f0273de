"""Multiple-choice items score as in the LM Evaluation Harness's own Hugging Face run, item by item.

lm-eval reads the same files with its own loader, draws its own worked examples and grades by itself; only the rows of
HellaSwag are given to it prepared, because its preparation wants fields that such files no longer have.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model
from layercut.models.loading import load_model
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.evaluate import evaluate_items
from layercut.tasks.lm_eval.loading import prepare_hellaswag
from tests.support.harness import Rows, loaded_with_words, run_of_lm_eval, with_rows, write_rows

pytest.importorskip("lm_eval", reason="compares with lm-eval: pip install 'layercut[lm-eval]'")

SINGLE = ("arc_easy", "arc_challenge", "hellaswag", "winogrande", "piqa", "openbookqa")


NAME = "bundled:smollm2-135m"
WORDS = ["seven", "eleven", "other", "these", "larger", "answer", "question", "the", "then", "another"]


def invented(name: str, number: int, seed: int) -> Rows:
    """Rows with the fields of a benchmark and random words."""
    rng = Random(f"{name} {seed}")

    def words(count: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(count))

    rows: Rows = []
    for index in range(number):
        many = 4 if index % 3 else 3
        choices = {"text": [words(1 + i) for i in range(many)], "label": list("ABCD"[:many])}
        label = rng.randrange(many)
        question = f"{index} {words(5)}"
        rows.append(
            {
                "arc_easy": {"question": question, "choices": choices, "answerKey": "ABCD"[label]},
                "arc_challenge": {"question": question, "choices": choices, "answerKey": "ABCD"[label]},
                "openbookqa": {"question_stem": question, "choices": choices, "answerKey": "ABCD"[label]},
                "piqa": {"goal": question, "sol1": words(3), "sol2": words(4), "label": label % 2},
                "winogrande": {"sentence": f"{question} the _ {words(3)}.", "option1": words(1), "option2": words(2)}
                | {"answer": str(1 + label % 2)},
                "hellaswag": {"activity_label": words(1), "ctx": f"{question}. the other", "label": label}
                | {"endings": [words(2 + i) for i in range(4)]},
            }[name]
        )
    return rows


def read(path: Path) -> Rows:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        return [json.loads(line) for line in lines]


def their_run(model: Any, tokenizer: Any, tasks: list[dict[str, Any]], shots: int, **which: Any) -> dict[str, Rows]:
    """lm-eval's own run: what it logs of every item, by task."""
    from lm_eval.models.huggingface import HFLM

    longest = model.config.max_position_embeddings
    reference = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, max_length=longest)
    return dict(run_of_lm_eval(reference, tasks, num_fewshot=shots, **which)["samples"])


def changed(task: str, rows: Mapping[str, Rows], folder: Path) -> dict[str, Any]:
    """lm-eval's task with its own JSON loader in place of the hub."""
    prepared = task == "hellaswag"
    own = {split: prepare_hellaswag(part) if prepared else part for split, part in rows.items()}
    more = {"process_docs": None} if prepared else {}
    return with_rows(task, write_rows(folder / task, own), tuple(rows), folder / "cache", training_split=None, **more)


def assert_same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    found = [float(response[0][0]) for response in theirs["resps"]]
    mine = ours["log_likelihoods"]
    assert mine == pytest.approx(found, abs=1e-3)
    assert mine.index(max(mine)) == found.index(max(found)), "another choice"
    assert ours["metrics"] == {metric: float(theirs[metric]) for metric in ours["metrics"]}


def compare(engine, model, tokenizer, name, rows, folder, shots, number):
    """Our first report items against lm-eval's run over as many rows as they lie in."""
    task = load_task(f"{name}:{shots}" if shots else name, data=write_rows(folder / "ours", rows))
    plan = CutPlan(num_layers=engine.num_layers)
    ours = evaluate_items(task, engine, plan, readout="rank", limit=number).records
    docs = [sample.data["item"].doc for sample in task.samples("report", number)]
    reported = rows["test" if "test" in rows else "validation"]
    as_asked = prepare_hellaswag(reported) if name == "hellaswag" else reported
    places: list[int] = []
    for doc in docs:
        begin = places[-1] + 1 if places else 0
        places.append(next(i for i in range(begin, len(as_asked)) if as_asked[i].items() <= doc.items()))
    theirs = their_run(model, tokenizer, [changed(name, rows, folder)], shots, limit=places[-1] + 1)[name]
    by_place = {one["doc_id"]: one for one in theirs}
    for record, place in zip(ours, places, strict=True):
        assert_same(record, by_place[place])
    return len(ours)


@pytest.mark.parametrize(("shots", "kind"), [(0, PlainEngine), (2, SharedEngine)])
@pytest.mark.parametrize("name", SINGLE)
def test_a_tiny_model_scores_as_in_lm_evals_run(name, shots, kind, tmp_path):
    loaded = loaded_with_words("llama")
    rows = {"validation": invented(name, 14, 1)}
    if name in ("arc_easy", "arc_challenge", "openbookqa"):
        rows["test"] = invented(name, 6, 2)
    count = compare(kind(loaded, batch_size=8), loaded.model, loaded.tokenizer, name, rows, tmp_path, shots, 3)
    assert count == 3


def benchmark(folder: Path) -> dict[str, Rows]:
    return {split: read(path) for split in ("validation", "test") for path in folder.glob(f"{split}.jsonl*")}


@pytest.fixture(scope="module")
def real():
    try:
        bundled_file(bundled_model(NAME))
    except InputError as error:
        pytest.skip(str(error))
    return load_model(NAME, dtype="float32", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("shots", "number"), [(0, 50), (5, 10)])
@pytest.mark.parametrize("name", SINGLE)
def test_a_real_model_scores_as_in_lm_evals_run(name, shots, number, real, benchmark_data, tmp_path):
    rows = benchmark(benchmark_data / name)
    engine = SharedEngine(real, batch_size=16)
    assert compare(engine, real.model, real.tokenizer, name, rows, tmp_path, shots, number) == number


@pytest.mark.slow
@pytest.mark.parametrize(("shots", "number"), [(0, 50), (5, 10)])
def test_mmlu_scores_as_in_lm_evals_run(shots, number, real, benchmark_data, tmp_path):
    task = load_task(f"mmlu:{shots}" if shots else "mmlu", data=str(benchmark_data / "mmlu"))
    samples = task.samples("report", number)
    engine = SharedEngine(real, batch_size=16)
    ours = evaluate_items(task, engine, CutPlan(num_layers=real.num_layers), readout="rank", limit=number).records
    rows = {"test": read(benchmark_data / "mmlu" / "test.jsonl.gz"), "dev": read(benchmark_data / "mmlu" / "dev.jsonl")}
    subjects = {sample.data["item"].doc["subject"] for sample in samples}
    own = {
        subject: {split: [row for row in part if row["subject"] == subject] for split, part in rows.items()}
        for subject in subjects
    }
    places: dict[str, list[int]] = {}
    for sample in samples:
        doc = sample.data["item"].doc
        places.setdefault(f"mmlu_{doc['subject']}", []).append(own[doc["subject"]]["test"].index(dict(doc)))
    tasks = [changed(f"mmlu_{subject}", parts, tmp_path) for subject, parts in own.items()]
    which = {name: sorted(found) for name, found in places.items()}
    theirs = their_run(real.model, real.tokenizer, tasks, shots, samples=which)
    assert len({record["cluster"] for record in ours}) == len(subjects) > 5
    for sample, record in zip(samples, ours, strict=True):
        doc = sample.data["item"].doc
        assert_same(record, next(one for one in theirs[f"mmlu_{doc['subject']}"] if one["doc"] == doc))
