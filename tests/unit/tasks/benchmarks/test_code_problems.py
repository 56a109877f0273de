"""HumanEval and MBPP: the prompt, the splits, every reference solution, and what must never pass."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from layercut.engine.base import GenerationRequest
from layercut.errors import InputError
from layercut.sandbox import runner as sandbox
from layercut.sandbox.judge import _free_names
from layercut.sandbox.runner import Program, run_programs
from layercut.tasks import load_task
from layercut.tasks.base import Sample, Score, Split
from layercut.tasks.benchmarks.code_problems import CodeTask
from layercut.tasks.cells import announce_isolation
from layercut.tasks.program_answers import OPENED, STOP
from tests.support.answers import completion, write_lines
from tests.support.sandbox import without_bubblewrap

HEAD = 'def double(x):\n    """Twice x."""'
FILES = {
    "humaneval": "humaneval/HumanEval.jsonl",
    "humaneval_plus": "humaneval_plus/HumanEvalPlus-OriginFmt.jsonl.gz",
    "mbpp": "mbpp/sanitized-mbpp.jsonl",
    "mbpp_plus": "mbpp_plus/MbppPlus-OriginFmt.jsonl.gz",
}
SETS = {**FILES, "whole mbpp": "mbpp/mbpp.jsonl"}
CONSTANTS = (None, True, 0, "", [], (), {}, [[]], float("nan"))
CLOSE_TO_EMPTY = {
    "humaneval_plus": "2 4 45",
    "mbpp_plus": "14 80 82 85 98 120 124 137 139 233 267 276 287 293 300 312 422 432 606 622 721 731 742 767",
}
"""Problems in whose published tests ``np.allclose`` takes an empty list for any number."""
needs_sandbox = pytest.mark.skipif(bool(sandbox._why_not("bubblewrap")), reason="no sandbox works here")
pytestmark = needs_sandbox


def task(name: str, folder: Path) -> CodeTask:
    found = load_task(name.split()[-1], data=str(folder / SETS[name]))
    assert isinstance(found, CodeTask)
    return found


def items(code_task: CodeTask) -> list[Sample]:
    splits: tuple[Split, Split] = ("selection", "report")
    return [sample for split in splits for sample in code_task.samples(split, None)]


def every(code_task: CodeTask) -> list[Sample]:
    """Also those that are not asked."""
    return [code_task.sample(row) for rows in code_task._rows.splits.values() for row in rows]


def reference(sample: Sample) -> str:
    head = sample.data["head"]
    return f"\n{sample.gold}" if head else str(sample.gold)


def empty(sample: Sample) -> str:
    if sample.data["head"]:
        return "\n    pass"
    return "\n".join(f"def {name}(*args): pass" for name in sample.data["names"])


@pytest.mark.parametrize("name", list(FILES))
def test_a_folder_may_hold_the_file_that_the_benchmark_is_published_as(name, benchmark_data):
    from_file, from_folder = (
        load_task(name, data=str(benchmark_data / place)) for place in (FILES[name], Path(FILES[name]).parent)
    )
    assert from_folder.settings() == from_file.settings()
    assert from_folder.samples("report", 5) == from_file.samples("report", 5)


@pytest.fixture
def small(tmp_path):
    rows = [
        {
            "task_id": f"HumanEval/{n}",
            "prompt": HEAD.replace("Twice", f"{n}: twice") + "\n",
            "entry_point": "double",
            "canonical_solution": "    return 2 * x\n",
            "test": "def check(candidate):\n    assert candidate(4) == 8\n",
        }
        for n in range(12)
    ]
    found = load_task("humaneval", data=write_lines(tmp_path / "rows.jsonl", rows))
    assert isinstance(found, CodeTask)
    return found


def test_the_answer_is_begun_in_a_code_block(small):
    sample = small.samples("report", 1)[0]
    asked = small.request(sample, "chain")
    assert isinstance(asked, GenerationRequest) and not isinstance(asked.prompt, str)
    user, assistant = asked.prompt
    assert user.role == "user" and sample.question.rstrip() in user.content
    assert (assistant.role, assistant.content) == ("assistant", OPENED + sample.data["head"])
    assert asked.stop == STOP and asked.max_new_tokens == 512 and asked.id == sample.id


def test_programs_are_graded_alone_and_together(small):
    answers = {
        "\n    return 2 * x": ("passed", "right", "passed"),
        "\n    return 3 * x": ("AssertionError", "wrong", "wrong_answer"),
        "\n    return (2 * x": ("SyntaxError: '(' was never closed (program, line 3)", "wrong", "never_closed"),
        "\n    return y": ("NameError: name 'y' is not defined", "wrong", "name"),
        "I would rather not.": ("", "no_answer", "no_code"),
    }
    sample = small.samples("report", 1)[0]
    together = small.grade_all([sample] * len(answers), "chain", [completion(text) for text in answers])
    for (text, (said, kind, ended)), score in zip(answers.items(), together, strict=True):
        assert score == Score({"pass": float(kind == "right")}, said, kind, ended)
        assert small.grade(sample, "chain", completion(text)) == score
    cut = small.grade(sample, "chain", completion("\n    return (2", "length"))
    assert (cut.outcome, cut.program) == ("cut", "cut")
    assert small.grade(sample, "chain", completion("I think", "length")).program == "cut"
    assert small.grade(sample, "chain", completion("\n    return 2 * x", "length")).outcome == "right"
    assert small.chance([sample], "chain") == {"pass": 0.0}
    assert not small.settled(sample, "chain", "x") and small.draft(sample, "chain") == ""


def test_splits_do_not_overlap_and_agree_between_a_benchmark_and_its_plus(benchmark_data):
    for base, plus, sizes in (("humaneval", "humaneval_plus", (164, 164)), ("mbpp", "mbpp_plus", (420, 371))):
        sides = []
        for name, size in zip((base, plus), sizes, strict=True):
            report = {sample.id for sample in task(name, benchmark_data).samples("report", None)}
            selection = {sample.id for sample in task(name, benchmark_data).samples("selection", None)}
            assert report and selection and not report & selection and len(report | selection) == size
            sides.append((report, selection))
        assert not sides[0][0] & sides[1][1] and not sides[0][1] & sides[1][0]


some_or_all = pytest.mark.parametrize("is_whole", [False, pytest.param(True, marks=pytest.mark.slow)])


@some_or_all
@pytest.mark.parametrize(("name", "size"), zip(SETS, (164, 164, 427, 378, 974), strict=True))
def test_reference_solutions_pass_and_empty_bodies_fail(name, size, is_whole, benchmark_data):
    code_task = task(name, benchmark_data)
    samples = every(code_task)
    assert len(samples) == size
    if not is_whole:
        samples = items(code_task)[:: 1 + len(items(code_task)) // (6 if name.endswith("_plus") else 20)]
    right = code_task.grade_all(samples, "chain", [completion(reference(sample)) for sample in samples])
    failed = {s.id: score.answer for s, score in zip(samples, right, strict=True) if score.outcome != "right"}
    assert not failed
    wrong = code_task.grade_all(samples, "chain", [completion(empty(sample)) for sample in samples])
    assert not [s.id for s, score in zip(samples, wrong, strict=True) if score.outcome != "wrong"]


@some_or_all
@pytest.mark.parametrize("name", SETS)
def test_a_constant_passes_no_problem(name, is_whole, benchmark_data):
    code_task = task(name, benchmark_data)
    samples = items(code_task)
    suspects = {f"{name.split('_')[0]}-{number}" for number in CLOSE_TO_EMPTY.get(name, "").split()}
    suspected = [sample for sample in samples if sample.id in suspects]
    assert len(suspected) == len(suspects)
    few = samples[:: 10 if name.endswith("_plus") else 1] + suspected
    assert not list(passing_constants(samples if is_whole else few))
    answers = [completion(f"\ndef {sample.data['names'][0]}(*x):\n    return []") for sample in suspected]
    assert {score.outcome for score in code_task.grade_all(suspected, "chain", answers)} <= {"wrong"}


def passing_constants(samples: list[Sample]) -> Iterator[tuple[str, object]]:
    """Run as the judge runs them, without a program: 19 000 sandboxes would take an hour."""
    for sample in samples:
        tests = compile(sample.data["tests"], sample.id, "exec")
        for constant in CONSTANTS:
            names = dict.fromkeys(sample.data["names"], lambda *_, constant=constant: constant)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    exec(tests, {"__name__": "tests", **names})
            except Exception:
                continue
            yield sample.id, constant


@pytest.mark.parametrize(
    ("name", "problem", "program"),
    [
        ("humaneval", "humaneval-32", "def poly(xs, x): return 0\ndef find_zero(xs): return 0"),
        ("humaneval", "humaneval-38", "def encode_cyclic(s): return s\ndef decode_cyclic(s): return s"),
        ("humaneval", "humaneval-50", "def encode_shift(s): return s\ndef decode_shift(s): return s"),
        ("mbpp", "mbpp-596", "class sys: getsizeof = staticmethod(len)\ntuple_size = len"),
    ],
)
def test_a_program_cannot_redefine_what_its_tests_use(name, problem, program, benchmark_data):
    (sample,) = (sample for sample in items(task(name, benchmark_data)) if sample.id == problem)
    (result,) = run_programs([Program(program, tests=sample.data["tests"], names=sample.data["names"])])
    assert result.failure == "AssertionError"


@pytest.mark.parametrize("name", [name for name in SETS if not name.endswith("_plus")])
def test_tests_take_from_the_program_only_what_it_is_asked_for(name, benchmark_data):
    data = {sample.id: sample.data for sample in every(task(name, benchmark_data))}
    more = {id: set(_free_names(ast.parse(one["tests"]))) - set(one["names"]) for id, one in data.items()}
    assert {problem: names for problem, names in more.items() if names} == {}


@pytest.mark.parametrize("number", [367, 601, 927])
def test_a_class_whose_objects_the_tests_make_is_kept(number, benchmark_data):
    code_task = task("whole mbpp", benchmark_data)
    (sample,) = (sample for sample in every(code_task) if sample.id == f"mbpp-{number}")
    assert code_task.grade(sample, "chain", completion(reference(sample))).answer == "passed"


def test_tests_that_are_no_python_are_refused(tmp_path):
    row = {"task_id": "HumanEval/0", "prompt": HEAD, "entry_point": "double", "canonical_solution": "\n  return ("}
    data = write_lines(tmp_path / "rows.jsonl", [{**row, "test": "def check(candidate): pass"}])
    with pytest.raises(InputError, match="line 1: .*not Python"):
        load_task("humaneval", data=data).samples("selection", None)


def test_inputs_without_results_are_refused(benchmark_data):
    for name, file in (("humaneval_plus", "HumanEvalPlus.jsonl.gz"), ("mbpp_plus", "MbppPlus.jsonl.gz")):
        with pytest.raises(InputError, match=r"line \d+: .*OriginFmt"):
            load_task(name, data=str(benchmark_data / name / file)).samples("report", 1)


def test_without_a_sandbox_no_sample_is_asked(small, monkeypatch):
    without_bubblewrap(monkeypatch)
    with pytest.raises(InputError, match="--unsafe-exec"):
        small.samples("report", None)


def test_walls_are_named_for_tasks_that_run_programs_alone(small, monkeypatch):
    assert announce_isolation([load_task("copy"), small], print) == sandbox.describe_isolation()
    without_bubblewrap(monkeypatch)
    assert announce_isolation([load_task("copy")], print) is None
    with pytest.raises(InputError, match="cannot be run safely"):
        announce_isolation([small], print)
    sandbox.allow_unsafe()
    if sandbox._why_not("none"):
        pytest.skip(f"programs cannot run as another user here: {sandbox._why_not('none')}")
    assert announce_isolation([small], print) == "limits only, no isolation (--unsafe-exec)"
