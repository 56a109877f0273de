"""Tasks of lm-eval whose answers are written ask and grade as in lm-eval's own run, item by item.

One half has a scripted model that answers a prompt by a function, so that right, wrong and empty answers come through
every filter; the other has a real (tiny) model, whose texts must be the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest

from layercut.engine.base import GenerationRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.rows import render_prompt
from layercut.engine.shared import SharedEngine
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from layercut.tasks import load_task
from layercut.tasks.evaluate import evaluate_items
from tests.invariants.test_choice_lm_eval import invented
from tests.support.fake_engine import FakeEngine
from tests.support.harness import Rows, loaded_with_words, run_of_lm_eval, scripted, with_rows, write_rows

pytest.importorskip("lm_eval", reason="compares with lm-eval: pip install 'layercut[lm-eval]'")

PLAN = CutPlan(num_layers=6)


def gsm(split: str, number: int) -> Rows:
    return [
        {
            "question": f"{split} {i}: what is {i} plus {n}?",
            "answer": f"It is <<{i}+{n}={i + n}>>{i + n}.\n#### {i + n}",
        }
        for i, n in ((i, i % 3) for i in range(number))
    ]


def drop(split: str, number: int) -> Rows:
    def answer(i: int) -> dict[str, Any]:
        none = {"day": "", "month": "", "year": ""}
        if i % 3 == 0:
            return {"number": str(i), "date": none, "spans": []}
        if i % 3 == 1:
            return {"number": "", "date": none, "spans": ["the red dog", "the cat"]}
        return {"number": "", "date": {"day": "2", "month": "May", "year": "1999"}, "spans": []}

    return [
        {
            "query_id": f"{split}{i}",
            "passage": f"{split}: a red dog and {i} cats.",
            "question": "how many cats?",
            "answer": answer(i),
            "validated_answers": {key: [answer(i + 1)[key]] for key in ("number", "date", "spans")},
        }
        for i in range(number)
    ]


def trivia(split: str, number: int) -> Rows:
    return [
        {"question": f"{split} capital {i}", "answer": {"aliases": [f"Paris {i}", "the City"], "value": f"Paris {i}"}}
        for i in range(number)
    ]


def nq(split: str, number: int) -> Rows:
    return [{"question": f"{split} who is {i}", "answer": [f"Person {i}", "the City"]} for i in range(number)]


def truthful(split: str, number: int) -> Rows:
    return [
        {"question": f"{split} is {i} true?", "correct_answers": [f"Yes, {i} is true", "It is true"]}
        | {"incorrect_answers": [f"No, {i} is false.", "Nobody knows"]}
        for i in range(number)
    ]


def bbh(split: str, number: int) -> Rows:
    return [{"input": f"not True and {i} is", "target": str(i % 2 == 0)} for i in range(number)]


def ifeval(split: str, number: int) -> Rows:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("punctuation:no_comma", {}),
        ("length_constraints:number_words", {"num_words": 4, "relation": "at least"}),
        ("startend:end_checker", {"end_phrase": "that is all."}),
    ]
    rows = []
    for i in range(number):
        names, kwargs = zip(*(asked[i % 3 :] if i % 2 else asked[i % 3 : i % 3 + 1]), strict=True)
        row = {"key": i, "prompt": f"{split} {i}: write.", "instruction_id_list": list(names), "kwargs": list(kwargs)}
        rows.append(row)
    return rows


TASKS: dict[str, tuple[Any, tuple[str, ...], list[str]]] = {
    "gsm8k": (gsm, ("train", "test"), [" It is 4.\n#### 4", " 4", "#### 7,000", ""]),
    "gsm8k_cot": (gsm, ("test",), [" So the answer is 4.", " The answer is 4.", " The answer is $3.", "7"]),
    "drop": (drop, ("train", "validation"), [" 3", " the red dog", " 2 May 1999", ""]),
    "triviaqa": (trivia, ("train", "validation"), [" the city", " Paris 2", "Rome"]),
    "nq_open": (nq, ("train", "validation"), [" Person 1", " The City", ""]),
    "truthfulqa_gen": (truthful, ("validation",), [" It is true", " Nobody knows at all", ""]),
    "bbh_cot_fewshot_boolean_expressions": (bbh, ("test",), [" so the answer is True.", " the answer is False.", "?"]),
    "ifeval": (ifeval, ("train",), ["one, two", "these are four words", "so, I said: that is all.", ""]),
}
WITHOUT_EXAMPLES = ("truthfulqa_gen", "ifeval")
NUMBER = 16
"""Rows of each split."""


def our_name(name: str) -> str:
    return "lm-eval:gsm8k" if name == "gsm8k" else name


@pytest.fixture
def nltk_data(tmp_path, monkeypatch):
    """A place for what IFEval fetches; no instruction here needs what is in it."""
    nltk = pytest.importorskip("nltk", reason="lm-eval's ifeval needs it")
    (tmp_path / "nltk_data" / "tokenizers" / "punkt_tab").mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])


def compare_metrics(record: Mapping[str, Any], logged: Rows, several: bool) -> int:
    """Compare a record with what lm-eval logged of its item, and return how many metrics both have."""
    checked = 0
    for theirs in logged:
        assert theirs["resps"][0][0] == record["completion"]
        for metric in theirs["metrics"]:
            ours = record["metrics"].get(theirs["filter"] if several else metric)
            checked += ours is not None
            assert ours is None or ours == pytest.approx(float(theirs[metric]), abs=1e-12)
    return checked


def check_packages(name: str) -> None:
    for package in ("langdetect", "immutabledict") if name == "ifeval" else ():
        pytest.importorskip(package, reason=f"lm-eval's {name} needs it")


@pytest.mark.usefixtures("nltk_data")
@pytest.mark.parametrize("shots", [None, 2])
@pytest.mark.parametrize("name", TASKS)
def test_prompts_stops_filters_and_metrics_are_lm_evals(name, shots, tmp_path):
    make, splits, texts = TASKS[name]
    check_packages(name)
    if shots and name in WITHOUT_EXAMPLES:
        pytest.skip("its data has no split for examples")
    rows = {split: make(split, NUMBER) for split in splits}
    data = write_rows(tmp_path / "rows", rows)

    def answer(prompt: str) -> str:
        return texts[hashlib.sha256(prompt.encode()).digest()[0] % len(texts)]

    model = scripted(answer, lambda document: 0.0)
    changed = with_rows(name, data, splits, tmp_path / "cache")
    theirs = run_of_lm_eval(model, [changed], **({} if shots is None else {"num_fewshot": shots}))
    task = load_task(our_name(name) if shots is None else f"{our_name(name)}:{shots}", data=data)
    samples = task.samples("report", None)
    requests = {sample.id: task.request(sample, "chain") for sample in samples}
    result = evaluate_items(task, FakeEngine(texts=lambda request, plan: answer(str(request.prompt))), PLAN)
    several = len({logged["filter"] for logged in theirs["samples"][name]}) > 1
    checked, outcomes = 0, set()
    for record in result.records:
        request = requests[record["id"]]
        assert isinstance(request, GenerationRequest) and request.prompt in model.asked
        until = model.asked[request.prompt]["until"]
        assert set(request.stop) == set([until] if isinstance(until, str) else until)
        assert request.max_new_tokens == model.asked[request.prompt].get("max_gen_toks", 256)
        logged = [one for one in theirs["samples"][name] if one["arguments"][0][0] == request.prompt]
        checked += compare_metrics(record, logged, several)
        outcomes.add(record["outcome"])
    assert checked >= len(result.records)
    assert len(outcomes) > 1, "right and wrong answers, or none"
    if len(samples) == NUMBER:  # not halved: lm-eval's table, number by number
        table = theirs["results"][name]
        ours = {row["metric"]: row["value"] for row in result.metrics}
        for key, value in table.items():
            if "," in key and "stderr" not in key and not key.startswith("inst_level"):  # that is no mean over items
                metric = key.partition(",")[2 if several else 0]
                assert ours[metric] == pytest.approx(value, abs=1e-9), key
    else:
        assert len(splits) == 1


@pytest.mark.parametrize("kind", [PlainEngine, SharedEngine])
@pytest.mark.usefixtures("nltk_data")
@pytest.mark.parametrize("name", TASKS)
def test_a_tiny_model_writes_what_it_writes_in_lm_evals_run(name, kind, tmp_path):
    from lm_eval.models.huggingface import HFLM

    loaded = loaded_with_words("llama")
    make, splits, _ = TASKS[name]
    check_packages(name)
    data = write_rows(tmp_path / "rows", {split: make(split, 9) for split in splits})
    longest, shots = 24, int(name not in WITHOUT_EXAMPLES)
    plan = CutPlan(num_layers=loaded.num_layers, removed=(1,))
    with bypass(loaded.model, plan):
        reference = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=4, max_length=512)
        until = ["Q:", "\n\n", "e"]
        written = {"until": until, "max_gen_toks": longest, "do_sample": False}
        changed = with_rows(name, data, splits, tmp_path / "cache", generation_kwargs=written)
        theirs = run_of_lm_eval(reference, [changed], num_fewshot=shots)["samples"][name]
    task = load_task(f"{our_name(name)}:{shots}", data=data, max_new_tokens=longest)
    for subject in task._subjects:  # type: ignore[attr-defined]  # the file's own would hardly end a random text
        subject.stop = tuple(until)
    result = evaluate_items(task, kind(loaded, batch_size=4), plan)
    several = len({one["filter"] for one in theirs}) > 1
    checked = 0
    for sample, record in zip(task.samples("report", None), result.records, strict=True):
        request = task.request(sample, "chain")
        assert isinstance(request, GenerationRequest)
        logged = [one for one in theirs if one["arguments"][0][0] == str(request.prompt)]
        assert logged
        checked += compare_metrics(record, logged, several)
    assert checked >= len(result.records)
    assert {record["finish_reason"] for record in result.records} & {"stop"}, "some answers ended at a stop string"


@pytest.mark.parametrize("name", ["triviaqa", "arc_easy", "winogrande"])
def test_a_conversation_is_that_of_lm_evals_run(name, tmp_path):
    from lm_eval.models.huggingface import HFLM

    loaded = loaded_with_words("llama")
    splits = ("train", "validation")
    parts = [trivia(split, 9) if name == "triviaqa" else invented(name, 9, n) for n, split in enumerate(splits)]
    data = write_rows(tmp_path / "rows", dict(zip(splits, parts, strict=True)))
    longest = {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False}
    written = {"generation_kwargs": longest} if name == "triviaqa" else {"test_split": None}
    theirs = run_of_lm_eval(
        HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=4, max_length=512),
        [with_rows(name, data, splits, tmp_path / "cache", **written)],
        num_fewshot=2,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )["samples"][name]
    task = load_task(f"{name}:2+chat", data=data)
    for subject in task._subjects:  # type: ignore[attr-defined]
        subject.stop, subject.max_new_tokens = ("\n", "e"), 12
    result = evaluate_items(task, SharedEngine(loaded, batch_size=4), CutPlan(num_layers=loaded.num_layers))
    assert len(result.records) == len(theirs) == 9
    for sample, record, one in zip(task.samples("report", None), result.records, theirs, strict=True):
        request = task.request(sample, task.readouts[0])
        texts = [
            render_prompt(loaded.tokenizer, prompt).text
            for prompt in getattr(request, "prompts", ()) or [request.prompt]
        ]
        assert list(dict.fromkeys(texts)) == list(dict.fromkeys(asked[0] for asked in one["arguments"]))
        if name == "triviaqa":
            assert record["completion"] == one["resps"][0][0]
        else:
            found = [float(response[0][0]) for response in one["resps"]]
            assert record["log_likelihoods"] == pytest.approx(found, abs=1e-3)
            assert record["metrics"]["acc"] == one["acc"]
