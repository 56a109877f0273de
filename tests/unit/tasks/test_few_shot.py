"""The generated tasks: what they ask is fixed by name, version and seed alone, and its options can be told apart."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import islice, pairwise
from random import Random

import pytest

from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.errors import InputError
from layercut.tasks import load_task
from layercut.tasks.base import Sample
from layercut.tasks.few_shot import NUM_NEAR_MISSES, FewShotTask, near_numbers
from tests.support.answers import completion, likelihoods
from tests.support.items import problems_are_made_once  # noqa: F401 - used by every test here

GENERATED = {"arithmetic": "short", "brackets": "short", "copy": "short", "chain_sum": "chain", "gsm_symbolic": "chain"}
BUILTIN = tuple(GENERATED)
FIRST_IDS = {
    "arithmetic": ["arithmetic-05d8bfbd177c", "arithmetic-22e808f8b047"],
    "brackets": ["brackets-bf932a99aa7a", "brackets-e4ec366812a7"],
    "copy": ["copy-71835062f5ed", "copy-85019d73159f"],
    "chain_sum": ["chain_sum-8a53685f25c3", "chain_sum-865995ad8dd5"],
    "gsm_symbolic": ["gsm_symbolic-b728340760ca", "gsm_symbolic-d7f3737590e5"],
}


def built_in(name: str, seed: int = 0) -> FewShotTask:
    task = load_task(name, seed=seed)
    assert isinstance(task, FewShotTask)
    return task


def all_options(name: str) -> list[Sample]:
    task = built_in(name)
    return [*task.samples("report", None), *task.samples("selection", None)]


def test_another_process_with_another_hash_seed_makes_the_same_samples():
    code = (
        "import json; from layercut.tasks import load_task\n"
        f"tasks = [load_task(name, seed=3) for name in {BUILTIN}]\n"
        "print(json.dumps([[s.id, s.question, s.gold, s.options] for t in tasks for s in t.samples('report', 40)]))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    here = [[s.id, s.question, s.gold, list(s.options)] for n in BUILTIN for s in built_in(n, 3).samples("report", 40)]
    assert json.loads(run.stdout) == here


@pytest.mark.parametrize("name", BUILTIN)
def test_an_item_is_never_in_both_splits_whatever_the_seeds(name):
    report, selection = set(), set()
    for seed in (0, 77):
        task = built_in(name, seed)
        report |= {sample.question for sample in task.samples("report", None)}
        selection |= {sample.question for sample in task.samples("selection", None)}
        assert not task.example_questions & (report | selection)
    assert len(report) > built_in(name).num_samples, "another seed makes other items"
    assert not report & selection


@pytest.mark.parametrize("name", BUILTIN)
def test_items_are_pinned_and_differ_and_a_smaller_limit_gives_a_prefix(name):
    """If the first line fails, scores move: raise the task's VERSION, and then change the ids here."""
    task = built_in(name)
    whole = task.samples("report", None)
    assert [sample.id for sample in whole[:2]] == FIRST_IDS[name]
    assert len({sample.id for sample in whole}) == len(whole) == task.num_samples
    assert task.samples("report", 16) == whole[:16] and task.samples("report", 10**9) == whole
    # Questions of arithmetic come up again under other seeds, so this looks at real twins there.
    by_question = {sample.question: sample for sample in whole}
    assert all(by_question.get(twin.question, twin) == twin for twin in built_in(name, 1).samples("report", None))
    for sample in all_options(name):
        assert len(set(sample.options)) == len(sample.options) == NUM_NEAR_MISSES + 1
        assert all(option and option == option.strip() for option in sample.options)
    places = [sample.gold_index for sample in all_options(name)]
    shares = [places.count(place) / len(places) for place in range(4)]
    assert all(0.19 < share < 0.31 for share in shares), shares


@pytest.mark.parametrize("name", ["arithmetic", "chain_sum", "gsm_symbolic"])
def test_the_size_of_a_number_does_not_give_the_answer_away(name):
    samples = [sample for sample in all_options(name) if int(sample.gold) >= 10]
    ranks = [sorted(map(int, sample.options)).index(int(sample.gold)) for sample in samples]
    shares = [ranks.count(rank) / len(ranks) for rank in range(4)]
    assert all(0.15 < share < 0.37 for share in shares), shares


@pytest.mark.parametrize("name", BUILTIN)
def test_the_sample_problem_in_the_docs_is_a_real_one(name):
    recorded = " ".join(str(sys.modules[built_in(name).problems.__module__].__doc__).split())
    shown = [sample for sample in built_in(name).samples("report", 400) if sample.question in recorded]
    longest = max(shown, key=lambda sample: len(sample.question))  # "8 + 6" stands in "28 + 6"
    assert len(longest.question) > 5
    assert all(option in recorded for option in longest.options)


@pytest.mark.parametrize("name", BUILTIN)
def test_all_readouts_ask_the_same_text_after_the_same_examples(name):
    task = built_in(name)
    for sample in task.samples("report", 20):
        generate = task.request(sample, GENERATED[name])  # type: ignore[arg-type]
        rank = task.request(sample, "rank")
        assert isinstance(generate, GenerationRequest) and isinstance(rank, LikelihoodRequest)
        assert generate.prompt == rank.prompt and generate.id == rank.id == sample.id
        assert isinstance(rank.prompt, str) and rank.prompt.startswith(task.examples) and sample.question in rank.prompt
        assert not rank.prompt[-1].isspace(), "the space belongs to the answer"


@pytest.mark.parametrize("name", BUILTIN)
def test_the_examples_answer_as_the_options_do(name):
    """What follows the prompt in the examples is read by the task's own grader as a right answer."""
    task = built_in(name)
    for question in task.example_questions:
        _, _, rest = task.examples.partition(task.prompt(question))
        assert rest, question
        answer = rest.partition("\n")[0]
        found = task.find(answer)
        assert found
        assert f"{answer}\n".endswith(task.answer(found)), "a chain ends as an option does, a short answer is one"


@pytest.mark.parametrize("name", BUILTIN)
def test_only_the_right_option_is_graded_right_in_every_readout(name):
    task = built_in(name)
    for sample in task.samples("report", 50):
        for index, option in enumerate(sample.options):
            right = float(option == sample.gold)
            spoken = task.grade(sample, GENERATED[name], completion(task.answer(option)))  # type: ignore[arg-type]
            scores = (-1.0 if i == index else -2.0 for i in range(4))
            ranked = task.grade(sample, "rank", likelihoods(*scores, num_tokens=2))
            assert spoken.metrics == ranked.metrics == {"accuracy": right}
            assert spoken.answer == ranked.answer == option
            assert spoken.outcome == ranked.outcome == ("right" if right else "wrong")


@pytest.mark.parametrize(
    ("name", "text", "finish_reason", "outcome"),
    [
        ("arithmetic", " {gold}.", "stop", "right"),
        ("arithmetic", " {gold}\n3 + 3 = 6", "length", "right"),
        ("arithmetic", " {gold}%", "stop", "no_answer"),
        ("arithmetic", " about {gold}", "stop", "no_answer"),
        ("arithmetic", "\n{gold}", "stop", "no_answer"),
        ("arithmetic", " {gold} = {gold} = {gold}", "length", "cut"),
        ("arithmetic", " 100000", "stop", "wrong"),
        ("brackets", "{gold}", "stop", "right"),
        ("brackets", " {gold} done", "stop", "no_answer"),
        ("brackets", " {gold} ) ) ) ) ) )", "length", "cut"),
        ("copy", "  {gold}", "stop", "right"),
        ("copy", " {gold} apple", "stop", "wrong"),
        ("copy", "", "stop", "no_answer"),
        ("gsm_symbolic", " 2 * 3 = 6. The answer is ${gold}.00 dollars.", "stop", "right"),
        ("gsm_symbolic", " The answer is {gold}%.", "stop", "right"),
        ("gsm_symbolic", " The answer is {gold}. The answer is 1000000.", "length", "right"),
        ("gsm_symbolic", " The answer is 1000000 + {gold}.", "stop", "wrong"),
        ("gsm_symbolic", " So {gold} are left.", "stop", "no_answer"),
        ("gsm_symbolic", " The answer is {gold}.5", "stop", "wrong"),
    ],
)
def test_what_counts_as_an_answer(name, text, finish_reason, outcome):
    task = built_in(name)
    for sample in task.samples("report", 10):
        answer = completion(text.replace("{gold}", sample.gold), finish_reason)
        assert task.grade(sample, GENERATED[name], answer).outcome == outcome  # type: ignore[arg-type]


def test_arithmetic_is_right_and_keeps_its_mixture_to_the_end():
    samples = built_in("arithmetic").samples("report", None)
    for sample in samples:
        assert int(sample.gold) == eval(sample.question) >= 0
    small = [max(int(part) for part in sample.question.split()[::2]) <= 12 for sample in samples]
    for part in (small[:125], small[125:]):
        assert 0.5 < sum(part) / 125 < 0.7, "small problems must not grow rarer"
    for seed in range(6):
        for split in ("report", "selection"):
            assert len(built_in("arithmetic", seed).samples(split, None)) == 250  # type: ignore[arg-type]


def test_brackets_close_what_is_open():
    pairs = {"( )", "[ ]", "{ }"}
    for sample in built_in("brackets").samples("report", 300):
        text = f"{sample.question} {sample.gold}"
        while any(pair in text for pair in pairs):
            for pair in pairs:
                text = " ".join(text.replace(pair, "").split())
        assert text == ""
        assert 2 <= len(sample.gold.split()) <= 4
        lengths = {len(option.split()) - len(sample.gold.split()) for option in sample.options}
        assert lengths <= {-1, 0, 1}


def test_gsm_symbolic_has_whole_answers_and_options_that_do_not_stand_in_the_problem():
    task = built_in("gsm_symbolic")
    templates = set()
    for sample in task.samples("report", 400):
        assert int(sample.gold) >= 0
        assert "Give the result" not in sample.question
        words = {word.strip("$£€.,?!%") for word in sample.question.split()}
        assert not words & (set(sample.options) - {sample.gold})
        templates.add(sample.data["cluster"])
    assert len(templates) > 50
    assert task.settings()["reasoning_gym"]


def test_gsm_symbolic_does_not_depend_on_how_many_problems_are_drawn_at_once(monkeypatch):
    import layercut.tasks.builtin.steps as module

    whole = list(islice(module._word_problems(5), 40))
    monkeypatch.setattr(module, "_PART", 64)
    assert list(islice(module._word_problems(5), 40)) == whole


def test_the_length_of_a_chain_can_be_fixed():
    long = load_task("gsm_symbolic", max_new_tokens=300)
    sample = long.samples("report", 1)[0]
    asked = long.request(sample, "chain")
    assert isinstance(asked, GenerationRequest) and asked.max_new_tokens == 300
    assert long.settings()["max_new_tokens"] == "300" and "max_new_tokens" not in built_in("gsm_symbolic").settings()


SAMPLES = built_in("chain_sum").samples("report", 200)


def test_answers_of_chain_sum_are_right_and_every_step_begins_where_the_last_one_ended():
    for sample in SAMPLES:
        expression = sample.question.removesuffix(" = ?")
        assert re.fullmatch(r"\d{1,2}( [+-] \d{1,2}){4,6}", expression)
        assert int(sample.gold) == eval(expression) >= 0
        steps = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", sample.data["solution"])
        assert all(eval(f"{left} {sign} {right}") == int(total) for left, sign, right, total in steps)
        assert all(one[3] == other[0] for one, other in pairwise(steps))
        terms = sample.question.split()[:-2]
        assert [steps[0][0], *(part for step in steps for part in step[1:3])] == terms, "the steps read the question"
        assert sample.data["solution"].endswith(f" {steps[-1][3]}. The answer is {sample.gold}.\n")


def test_examples_are_shown_as_many_as_are_wanted():
    none, one, both = (load_task(name) for name in ("chain_sum:0", "chain_sum:1", "chain_sum"))
    prompts = [task.request(SAMPLES[0], "chain").prompt for task in (none, one, both)]
    assert prompts[0] == f"Q: {SAMPLES[0].question}\nA:"
    assert [prompt.count("Q: ") for prompt in prompts] == [1, 2, 3]
    assert len({str(task.settings()) for task in (none, one, both)}) == 3
    with pytest.raises(InputError, match="not 3; use 0 to 2"):
        load_task("chain_sum:3")


@pytest.mark.parametrize("gold", [0, 1, 2, 7, 10, 99, 123, 78000, -3])
def test_near_numbers_are_three_others_close_by(gold):
    for seed in range(50):
        near = near_numbers(gold, Random(seed), also=(gold, gold + 7), never=(gold + 1,))
        assert len(set(near)) == 3
        assert not {str(gold), str(gold + 1)} & set(near)
        assert gold < 0 or all(int(number) >= 0 for number in near)
        assert near == near_numbers(gold, Random(seed), also=(gold + 7, gold), never=(gold + 1,))
