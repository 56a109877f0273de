"""evaluate: records, metrics, and work that is stopped and goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Completion, Decoding, GenerationRequest, LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError, RunMismatch
from layercut.evidence.intervals import pass_at_k, proportion_interval
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Sample, Task
from layercut.tasks.evaluate import Questions, TaskResult, ask_under_plans, evaluate_items, share_prompt
from layercut.tasks.few_shot import FewShotTask
from tests.support.fake_engine import FakeEngine, Killed
from tests.support.loaded import tiny_loaded

PLAN = CutPlan(num_layers=6, removed=(2,))
LIMIT = 22


@pytest.fixture
def task():
    task = load_task("copy")
    assert isinstance(task, FewShotTask)
    return task


def engine(task: FewShotTask, kill_after: int | None = None) -> FakeEngine:
    """Copies every list of four to six words, drops the last of seven, and repeats without end on eight."""
    by_id: Mapping[str, Sample] = {sample.id: sample for sample in task.samples("report", None)}

    def text(request: GenerationRequest, plan: CutPlan) -> str:
        assert plan is PLAN
        words = by_id[request.id].gold.split()
        return " ".join({7: words[:6], 8: words * 9}.get(len(words), words)) + ("" if len(words) == 8 else "\nand")

    def scores(request: LikelihoodRequest, plan: CutPlan) -> list[float]:
        return [-float(len(continuation)) / 3 for continuation in request.continuations]

    return FakeEngine(texts=text, scores=scores, kill_after=kill_after)


def test_records_hold_what_was_asked_and_graded_and_a_row_says_how_far_it_can_be_trusted(task):
    result = evaluate_items(task, engine(task), PLAN, limit=LIMIT, decoding=Decoding(seed=5))
    samples = task.samples("report", LIMIT)
    assert [record["id"] for record in result.records] == [sample.id for sample in samples]
    lengths = [len(sample.gold.split()) for sample in samples]
    for sample, num_words, record in zip(samples, lengths, result.records, strict=True):
        outcome = {7: "wrong", 8: "cut"}.get(num_words, "right")
        assert record.keys() == {
            *("id", "version", "question", "gold", "answer", "outcome", "metrics"),
            *("completion", "finish_reason", "num_prompt_tokens", "num_new_tokens"),
        }
        assert record["outcome"] == outcome
        assert record["metrics"] == {"accuracy": float(outcome == "right")}
        assert record["finish_reason"] == ("length" if outcome == "cut" else "stop")
        assert record["question"] == sample.question and record["gold"] == sample.gold
        assert record["answer"] == " ".join(record["completion"].split())
    num_right, num_cut = sum(length <= 6 for length in lengths), lengths.count(8)
    interval = proportion_interval(num_right, LIMIT)
    row = {"task": "copy", "version": task.version, "readout": "short", "metric": "accuracy", **interval._asdict()}
    row |= {"chance": 1 / 1000, "seed": 5, "limit": LIMIT}  # chance of the whole split
    row["outcomes"] = {"right": num_right, "wrong": lengths.count(7), "no_answer": 0, "cut": num_cut}
    row["finish"] = {"stop": LIMIT - num_cut, "length": num_cut}
    assert result.metrics == [row] and (row["n"], row["value"]) == (LIMIT, num_right / LIMIT)
    assert num_cut > 0 and 0 < num_right < LIMIT


def test_rank_records_the_likelihoods(task):
    result = evaluate_items(task, engine(task), PLAN, readout="rank", limit=LIMIT)
    for record in result.records:
        assert record.keys() == {
            *("id", "version", "question", "gold", "answer", "outcome", "metrics"),
            *("options", "log_likelihoods", "num_tokens", "num_prompt_tokens"),
        }
        best = max(range(4), key=lambda i: record["log_likelihoods"][i])
        assert record["answer"] == record["options"][best]
        assert record["gold"] in record["options"]
    row = result.metrics[0]
    assert (row["chance"], row["finish"], row["readout"]) == (0.25, None, "rank")


@pytest.mark.parametrize("readout", ["short", "rank"])
@pytest.mark.parametrize("kill_after", [0, 3])
def test_stopped_and_resumed_is_run_through(task, tmp_path, readout, kill_after):
    def run(kill_after: int | None, **more: Any) -> TaskResult:
        return evaluate_items(task, engine(task, kill_after), PLAN, readout=readout, limit=LIMIT, **more)

    whole = run(None)
    path = tmp_path / "samples" / "copy.jsonl"
    with Journal(path) as journal, pytest.raises(Killed):
        run(kill_after, journal=journal)
    seen: list[tuple[int, int]] = []
    with Journal(path) as journal:
        assert len(journal.records) == kill_after * 4
        assert run(None, journal=journal, on_progress=lambda *done: seen.append(done)) == whole
        ids = [record["id"] for record in journal.records]
        assert len(ids) == len(set(ids)) == LIMIT
    assert seen == [(done, LIMIT) for done in (*range(kill_after * 4, LIMIT, 4), LIMIT)]


def test_a_batch_that_was_half_written_is_not_written_twice(task, tmp_path):
    path = tmp_path / "copy.jsonl"
    whole = evaluate_items(task, engine(task), PLAN, limit=LIMIT)
    with Journal(path) as journal:
        journal.append(whole.records[:6])
    with path.open("ab") as file:
        file.write(b'{"id": "torn by a ki')
    fake = engine(task)
    with Journal(path) as journal:
        assert evaluate_items(task, fake, PLAN, limit=LIMIT, journal=journal) == whole
        ids = [record["id"] for record in journal.records]
    assert sorted(ids) == sorted(record["id"] for record in whole.records)
    assert len(fake.batches[0]) == 4, "the half-done batch is asked again as a whole"


def test_a_longer_limit_goes_on_and_a_journal_of_other_items_or_another_version_is_refused(task, tmp_path):
    whole, fake = evaluate_items(task, engine(task), PLAN, limit=LIMIT), engine(task)
    with Journal(tmp_path / "copy.jsonl") as journal:
        evaluate_items(task, engine(task), PLAN, limit=8, journal=journal)
        assert evaluate_items(task, fake, PLAN, limit=LIMIT, journal=journal) == whole
        assert sum(map(len, fake.batches)) == LIMIT - 8
        with pytest.raises(RunMismatch, match="among the 5 items"):
            evaluate_items(task, engine(task), PLAN, limit=5, journal=journal)
        newer = replace(task, version=task.version + 1)
        with pytest.raises(RunMismatch, match="version 1 .*version 2"):
            evaluate_items(newer, engine(task), PLAN, limit=LIMIT, journal=journal)


def test_selection_items_can_be_asked(task):
    golds = {sample.id: sample.gold for sample in task.samples("selection", 5)}
    result = evaluate_items(task, FakeEngine(texts=golds), PLAN, split="selection", limit=5)
    assert {record["id"] for record in result.records} == set(golds)
    assert result.metrics[0]["value"] == 1.0


def test_wrong_calls_are_refused(task):
    with pytest.raises(InputError, match="Known: rank, short"):
        evaluate_items(task, engine(task), PLAN, readout="chain")
    empty = replace(task, num_samples=0)
    with pytest.raises(InputError, match="within a limit of 3"):
        evaluate_items(empty, engine(task), PLAN, limit=3)
    wrong = (("set a temperature", {"num_samples": 2}), ("use 1", {"num_samples": 0, "decoding": SAMPLED}))
    for message, more in wrong:
        with pytest.raises(InputError, match=message):
            evaluate_items(ARITHMETIC, drawing(), UNCUT, readout="short", limit=2, **more)  # type: ignore[arg-type]


def test_an_answer_that_is_missing_is_our_fault(task):
    class Lazy(FakeEngine):
        def completions(self, requests, plan, decoding, done=()):  # type: ignore[no-untyped-def]
            yield [Completion(id=requests[0].id, text="", finish_reason="stop", num_prompt_tokens=1, num_new_tokens=1)]

    with pytest.raises(AssertionError, match="left 3 requests"):
        evaluate_items(task, Lazy(), PLAN, limit=4)


def as_kind(kind: type[FewShotTask], task: FewShotTask) -> FewShotTask:
    """The task with methods of a subclass."""
    return kind(**{field.name: getattr(task, field.name) for field in fields(task) if field.init})


PLANS = [CutPlan(num_layers=6, removed=(layer,)) for layer in (1, 4)]


class Kept:
    path = Path("memory")

    def __init__(self) -> None:
        self.records: list[dict[str, object]] = []

    def append(self, records: Sequence[Mapping[str, object]]) -> None:
        self.records += [dict(record) for record in records]


def ask(task: FewShotTask, fake: FakeEngine, journals: list[Kept], **how: Any) -> None:
    questions = Questions(task, task.samples("report", 10), {"short": journals}, lambda *_: None)
    ask_under_plans(fake, PLANS, [questions], **({"decoding": Decoding(), "early": False} | how))


def test_tasks_and_readouts_are_asked_in_one_call_and_give_the_records_of_each_alone(task):
    brackets = load_task("brackets")
    asked = [(task, "short", 10), (task, "rank", 10), (brackets, "short", 5)]

    def answering() -> FakeEngine:
        texts, scores = (lambda request, plan: f"{plan.key} {request.id}"), [-1.0, -2.0, -3.0, -4.0]
        return FakeEngine(texts=texts, scores=lambda request, plan: scores, batch_size=7)

    alone = [
        [evaluate_items(one, answering(), plan, readout=readout, limit=limit).records for plan in PLANS]  # type: ignore[arg-type]
        for one, readout, limit in asked
    ]
    short, rank, other = journals = [[Kept(), Kept()] for _ in asked]
    rank[0].records, other[0].records = list(alone[1][0][:6]), list(alone[2][0][:2])
    recorded: Counter[tuple[str, str]] = Counter()

    def questions(one: Task, limit: int, kept: dict[str, list[Kept]]) -> Questions:
        def on_answers(plan: CutPlan, readout: str, fresh: Sequence[Mapping[str, Any]]) -> None:
            recorded[f"{one.name} {readout}", plan.key] += len(fresh)

        return Questions(one, one.samples("report", limit), kept, on_answers)  # type: ignore[arg-type]

    both = [questions(task, 10, {"short": short, "rank": rank}), questions(brackets, 5, {"short": other})]
    ask_under_plans(answering(), PLANS, both, decoding=Decoding(), early=False)
    assert [[journal.records for journal in kept] for kept in journals] == alone
    first, second = (plan.key for plan in PLANS)
    keys = [(name, plan) for plan in (first, second) for name in ("copy short", "copy rank", "brackets short")]
    assert recorded == dict(zip(keys, (10, 4, 3, 10, 10, 5), strict=True))
    again = FakeEngine(kill_after=0)
    ask_under_plans(again, PLANS, both, decoding=Decoding(), early=False)
    assert not again.calls, "each is asked only what its journal lacks"


def test_which_readouts_share_their_prompt(task):
    sample = task.samples("report", 1)[0]
    assert share_prompt(task, sample, ("short", "rank"))

    class Apart(FewShotTask):
        def request(self, sample: Sample, readout: str) -> GenerationRequest | LikelihoodRequest:  # type: ignore[override]
            request = super().request(sample, readout)  # type: ignore[arg-type]
            return replace(request, prompt=f"{readout}: {request.prompt}")

    assert not share_prompt(as_kind(Apart, task), sample, ("short", "rank"))


def test_what_is_not_wanted_any_more_is_not_asked(task):
    fake = FakeEngine(texts=lambda request, plan: "no", batch_size=2)
    journals = [Kept(), Kept()]
    ask(task, fake, journals, wanted=lambda plan, item: plan is PLANS[1] or len(journals[0].records) < 4)
    assert [len(journal.records) for journal in journals] == [4, 10]


def test_answers_get_a_draft_and_early_ones_a_verdict_and_tasks_need_not_have_one(task):
    class Knowing(FewShotTask):
        def draft(self, sample: Sample, readout: str) -> str:
            return f"{readout}: {sample.gold}"

        def settled(self, sample: Sample, readout: str, text: str) -> bool:
            return readout == "short" and bool(text)

    asked: list[GenerationRequest] = []
    fake = FakeEngine(texts=lambda request, plan: (asked.append(request), "a b c")[1])
    knowing = as_kind(Knowing, task)
    journals = [Kept(), Kept()]
    ask(knowing, fake, journals, early=True)
    golds = {sample.id: sample.gold for sample in task.samples("report", 10)}
    assert {(request.id, request.draft) for request in asked} == {(k, f"short: {gold}") for k, gold in golds.items()}
    assert {record["finish_reason"] for journal in journals for record in journal.records} == {"settled"}
    asked.clear()
    ask(knowing, fake, [Kept(), Kept()])
    assert {request.draft for request in asked} == {f"short: {gold}" for gold in golds.values()}
    assert {request.settled for request in asked} == {None}


def test_records_carry_the_context_that_items_share(task):
    """Two items a context: the interval is that of the contexts."""
    plain = evaluate_items(task, engine(task), PLAN, readout="short", limit=LIMIT)
    assert not any("cluster" in record for record in plain.records)
    order = [record["id"] for record in plain.records]

    class Shared(FewShotTask):
        def _sample(self, problem):  # type: ignore[no-untyped-def]
            sample = super()._sample(problem)
            place = order.index(sample.id) if sample.id in order else len(order)
            return replace(sample, data={**sample.data, "cluster": f"pair {place // 2}"})

    result = evaluate_items(as_kind(Shared, task), engine(task), PLAN, readout="short", limit=LIMIT)
    assert [record["cluster"] for record in result.records] == [f"pair {i // 2}" for i in range(LIMIT)]
    assert result.metrics[0]["method"] == "clustered wilson"
    assert result.metrics[0]["value"] == plain.metrics[0]["value"]


UNCUT = CutPlan(num_layers=6)
SAMPLED = Decoding(temperature=0.8, seed=3)


def drawing(**more: Any) -> FakeEngine:
    """Of item i's answers, the first i are right."""
    golds = {sample.id: (place, sample.gold) for place, sample in enumerate(ARITHMETIC.samples("report", 6))}

    def says(request: GenerationRequest, plan: CutPlan) -> str:
        item, _, draw = request.id.partition(" draw ")
        place, gold = golds[item]
        return f" {gold}\n" if int(draw or 0) < place else " none\n"

    return FakeEngine(texts=says, **more)


ARITHMETIC = load_task("arithmetic")


def test_an_item_has_the_mean_of_its_answers_and_pass_at_k():
    result = evaluate_items(ARITHMETIC, drawing(), UNCUT, readout="short", limit=6, decoding=SAMPLED, num_samples=5)
    for right, record in enumerate(result.records):
        assert record["metrics"]["accuracy"] == pytest.approx(right / 5)
        assert record["metrics"]["pass@2"] == pytest.approx(pass_at_k(5, right, 2))
        assert record["metrics"]["pass@4"] == pytest.approx(pass_at_k(5, right, 4))
        assert len(record["further"]) == 4
        assert [one["outcome"] == "right" for one in record["further"]] == [draw < right for draw in range(1, 5)]
        assert (record["outcome"] == "right") == (right > 0)
    rows = {row["metric"]: row for row in result.metrics}
    assert list(rows) == ["accuracy", "pass@2", "pass@4"]
    assert rows["accuracy"]["value"] == pytest.approx(0.5)
    assert rows["accuracy"]["n"] == 6 and rows["accuracy"]["chance"] is not None
    assert rows["pass@4"]["chance"] is None


def test_several_answers_that_are_stopped_and_resumed_are_run_through(tmp_path):
    wish = {"readout": "short", "limit": 6, "decoding": SAMPLED, "num_samples": 3}
    whole = evaluate_items(ARITHMETIC, drawing(), UNCUT, **wish).records
    for kill_after in (2, 1, 2):
        with Journal(tmp_path / "answers.jsonl") as journal, pytest.raises(Killed):
            evaluate_items(ARITHMETIC, drawing(kill_after=kill_after), UNCUT, journal=journal, **wish)
    with Journal(tmp_path / "answers.jsonl") as journal:
        assert evaluate_items(ARITHMETIC, drawing(), UNCUT, journal=journal, **wish).records == whole


@pytest.mark.parametrize("kind", [PlainEngine, SharedEngine])
def test_answers_differ_and_the_first_is_that_of_a_single_one(kind):
    assert isinstance(ARITHMETIC, FewShotTask)
    task, real = replace(ARITHMETIC, examples=""), kind(tiny_loaded("llama"))
    wish = {"readout": "short", "limit": 4, "decoding": SAMPLED}
    several = evaluate_items(task, real, UNCUT, num_samples=3, **wish).records
    single = evaluate_items(task, real, UNCUT, **wish).records
    assert [record["completion"] for record in several] == [record["completion"] for record in single]
    texts = [{one["completion"] for one in [record, *record["further"]]} for record in several]
    assert max(map(len, texts)) > 1


def test_what_is_ranked_is_asked_once():
    ranking = FakeEngine(scores=lambda request, plan: [0.0] * len(request.continuations))
    records = evaluate_items(ARITHMETIC, ranking, UNCUT, readout="rank", limit=2, num_samples=9).records
    assert [list(record["metrics"]) for record in records] == [["accuracy"]] * 2


@pytest.mark.parametrize("limit", [2, None])
@pytest.mark.parametrize("readout", ["short", "rank"])
def test_a_limit_does_not_move_the_chance_of_a_built_in_task(limit, readout):
    samples = ARITHMETIC.samples("report", None)
    constant = Counter(sample.gold for sample in samples).most_common(1)[0][1] / len(samples)
    same = [-1.0] * 4
    engine = FakeEngine(texts=lambda request, plan: " 7\n", scores=lambda request, plan: same)
    (row,) = evaluate_items(ARITHMETIC, engine, UNCUT, readout=readout, limit=limit).metrics
    assert row["chance"] == (constant if readout == "short" else 0.25) and row["version"] == ARITHMETIC.version
    assert constant < 0.04
