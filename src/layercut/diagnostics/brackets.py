"""Brackets and syntax: does the model still close brackets, in words of the Dyck language (arXiv:1906.03648), and in
programs (E4 and E9 of arXiv:2602.01997)? Programs are small functions that every model writes after two examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from random import Random
from typing import Any, NamedTuple

from layercut.diagnostics.arithmetic import guessing_score, place_of
from layercut.diagnostics.session import DiagnosticSession, Record, texts_of
from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.errors import InputError
from layercut.evidence.diagnosis import Diagnosis
from layercut.evidence.program_classes import ProgramClass, classify_program, measure_programs
from layercut.sandbox.isolation import Limits
from layercut.sandbox.runner import Program, describe_isolation, run_programs
from layercut.tasks.base import Sample, content_id
from layercut.tasks.builtin.lines import closing_brackets, find_brackets
from layercut.tasks.few_shot import FewShotTask, Problem
from layercut.text import count_of

NAME = "brackets"  # of the diagnostic
VERSION = 1
DEEPEST = 8
CLOSERS = (" )", " ]", " }")
_EXAMPLES = ("( [ { }", "{ ( ) [ (", "[ {", "( { [ ] { [", "( [ { ( [ ( {", "{ (")
LIMITS = Limits(wall_seconds=60.0, cpu_seconds=5, memory_mb=1024)
"""Right programs take milliseconds. The processor's time decides, so that a busy machine fails none."""
MAX_NEW_TOKENS = 80
STOP = ("\ndef ", "\nclass ", "\nprint", "\nif __name__", "\n\n\n", "\n#", "\n```")
NUM_FUNCTIONS = 200


def brackets(session: DiagnosticSession) -> Diagnosis:
    """Close nested brackets, and write small functions, with every model.

    ``next bracket``: the right one of the three is the likeliest after each part of the right sequence, mean per item.
    """
    task = nested_brackets(seed=session.seed)
    written = session.grade("brackets.closed", task)
    samples = written.samples
    likely = session.ask(
        "brackets.next",
        [_step(task, sample, place) for sample in samples for place in range(len(sample.gold.split()))],
    )

    def share_right(sample: Sample, scores: Mapping[str, Any]) -> float:
        hits = []
        for place, closer in enumerate(sample.gold.split()):
            of_closers = scores[f"{sample.id}@{place}"]["log_likelihoods"][: len(CLOSERS)]
            hits.append(place_of(CLOSERS.index(f" {closer}"), of_closers) == 1)
        return sum(hits) / len(hits)

    following = {model: [share_right(sample, scores) for sample in samples] for model, scores in likely.items()}
    gold = {
        model: [scores[f"{sample.id}@0"]["log_likelihoods"][-1] for sample in samples]
        for model, scores in likely.items()
    }
    depths = [f"depth {sample.data['depth']}" for sample in samples]
    programs = classed_programs(session)
    measured = measure_programs(NAME, programs.classes, seed=session.seed, were_run=programs.were_run)
    return {
        "rows": [
            *session.rows(NAME, "closed", written.right, chance=guessing_score(task), headline=True),
            *session.rows(NAME, "next bracket", following, chance=1 / 3, headline=True),
            *session.rows(NAME, "log-probability", gold, unit="nats"),
            *measured["rows"],
            *session.rows_by_group(NAME, "closed", written.right, depths),
            *session.rows_by_group(NAME, "next bracket", following, depths),
        ],
        "data": measured["data"],
        "notes": [programs.note],
    }


def nested_brackets(*, seed: int = 0) -> FewShotTask:
    """Sequences with one to eight open brackets at the end, in equal numbers, and closed pairs between them.

    A sample problem: ``( [ [ ( ) ->`` is answered by `` ] ] )`` and a line break. Graded as the task ``brackets``.
    """
    return FewShotTask(
        name="nested_brackets",
        version=VERSION,
        readouts=("short",),
        seed=seed,
        problems=_problems,
        num_samples=1000,
        examples="".join(f"{question} -> {closing_brackets(question)}\n" for question in _EXAMPLES),
        example_questions=frozenset(_EXAMPLES),
        prompt=lambda question: f"{question} ->",
        answer=lambda option: f" {option}\n",
        find=find_brackets,
        is_right=str.__eq__,
        max_new_tokens=24,
        stop=("\n",),
    )


def _problems(seed: int) -> Iterator[Problem]:
    for index in count():
        rng = Random(f"nested_brackets {VERSION} {seed} {index}")
        depth = index % DEEPEST + 1
        parts = []
        for _ in range(depth):
            parts.append(rng.choice("([{"))
            if rng.random() < 0.3:
                parts.append(rng.choice(("( )", "[ ]", "{ }")))
        question = " ".join(parts)
        yield Problem(question, closing_brackets(question), (), {"depth": depth})


def _step(task: FewShotTask, sample: Sample, place: int) -> LikelihoodRequest:
    """The three closing brackets after ``place`` of the right sequence; at 0, the whole sequence as well."""
    before = "".join(f" {bracket}" for bracket in sample.gold.split()[:place])
    options = (*CLOSERS, f" {sample.gold}\n") if place == 0 else CLOSERS
    prompt = f"{task.examples}{sample.question} ->{before}"
    return LikelihoodRequest(id=f"{sample.id}@{place}", prompt=prompt, continuations=options)


# Programs


class Function(NamedTuple):
    """One function to be written."""

    id: str
    head: str
    """Signature and docstring, with which the program begins, without the line break: the answer begins with it."""
    name: str
    tests: str
    body: str  # the body of a right function, with line break and margin

    @property
    def request(self) -> GenerationRequest:
        prompt = _EXAMPLE_FUNCTIONS + self.head
        return GenerationRequest(id=self.id, prompt=prompt, begins="\n", max_new_tokens=MAX_NEW_TOKENS, stop=STOP)


class ClassedPrograms(NamedTuple):
    """The functions, and what became of every model's programs."""

    functions: list[Function]
    texts: dict[str, list[str]]  # by model, the bodies
    classes: dict[str, list[ProgramClass]]  # by model
    were_run: bool
    note: str  # how they were judged


def classed_programs(session: DiagnosticSession) -> ClassedPrograms:
    """Have every model write small functions, and classify how they end. Results of runs are stored like answers.

    Where no sandbox works, programs are classed by text alone, and the note gives the reason.
    """
    functions = make_functions(session.limit, session.seed)
    session.came("functions", functions)
    answers = session.ask(f"{NAME}.programs", [function.request for function in functions])

    def run(model: str) -> Record:
        records = answers[model]
        parsed = [function for function in functions if _class_of(function, records[function.id]) == "parses"]
        programs = [Program(f.head + records[f.id]["text"], tests=f.tests, names=(f.name,)) for f in parsed]
        results = run_programs(programs, limits=LIMITS)
        return {"failures": {f.id: result.failure for f, result in zip(parsed, results, strict=True)}}

    try:
        isolation = describe_isolation()
    except InputError as error:
        runs: Mapping[str, Record] = {}
        ran = f"by text alone, so a program that parses may still be wrong: {str(error).rstrip('.')}"
    else:
        runs = session.computed(f"{NAME}.runs", answers, run)
        ran = f"those that parse were run against tests, isolation: {isolation}"
    classes = {
        model: [_class_of(f, records[f.id], runs[model]["failures"].get(f.id) if runs else None) for f in functions]
        for model, records in answers.items()
    }
    note = f"{count_of(len(functions), 'program')}; {ran}."
    return ClassedPrograms(functions, texts_of(answers, functions), classes, bool(runs), note)


def _class_of(function: Function, record: Record, outcome: str | None = None) -> ProgramClass:
    """The class of an answer; ``outcome`` says how the program ended if it was run."""
    source = function.head + record["text"]
    return classify_program(source, head=function.head, finish_reason=record["finish_reason"], outcome=outcome)


def make_functions(limit: int, seed: int) -> list[Function]:
    """The first ``limit`` functions, no two alike; a smaller limit gives a prefix of a larger one."""
    functions: dict[str, Function] = {}
    for index in count():
        if len(functions) >= min(limit, NUM_FUNCTIONS):
            break
        form = FORMS[index % len(FORMS)]
        number = Random(f"functions 1 {seed} {index}").randint(2, 60)
        name = f"{form.name}_{number}"
        head = f'def {name}({form.argument}):\n    """{form.doc.format(n=number)}"""'
        tests = f"f = {name}\n" + form.tests.format(n=number)
        body = "\n    " + form.body.format(n=number)
        functions.setdefault(head, Function(content_id("function", head), head, name, tests, body))
    return list(functions.values())


_EXAMPLE_FUNCTIONS = '''def last_word(text):
    """Return the last word of a text, in lower case."""
    words = text.split()
    return words[-1].lower() if words else ""


def pairs_below(numbers, limit):
    """Return all pairs (a, b) of the list with a + b below the limit."""
    return [(a, b) for i, a in enumerate(numbers) for b in numbers[i + 1 :] if a + b < limit]


'''


class Form(NamedTuple):
    """A kind of function; ``{n}`` stands for a number everywhere."""

    name: str
    argument: str
    doc: str
    body: str  # a right body, after the docstring
    tests: str  # tests of a function ``f``. They test only what the docstring says.


FORMS = (
    Form(
        "above", "numbers", "Return the numbers that are greater than {n}, in their order.",
        "return [x for x in numbers if x > {n}]",
        "assert list(f([])) == []\nassert list(f([{n}, {n} + 3, {n} - 1, {n} + 1, 1])) == [{n} + 3, {n} + 1]",
    ),
    Form(
        "multiples", "limit", "Return a list of all multiples of {n} up to the limit.",
        "return list(range({n}, limit + 1, {n}))",
        # Whether 0 is one of them is left open.
        "assert [x for x in f(3 * {n} + 1) if x] == [{n}, 2 * {n}, 3 * {n}]\nassert [x for x in f({n} - 1) if x] == []",
    ),
    Form(
        "chunks", "items", "Split a list into lists of {n} items each; the last one may be shorter.",
        "return [items[i : i + {n}] for i in range(0, len(items), {n})]",
        "assert [list(part) for part in f(list(range(2 * {n} + 1)))] == "
        "[list(range({n})), list(range({n}, 2 * {n})), [2 * {n}]]",
    ),
    Form(
        "count_words", "text", "Return a dictionary from each word of at least {n} letters to how often it comes.",
        "words = [word for word in text.split() if len(word) >= {n}]\n"
        "    return {{word: words.count(word) for word in words}}",
        "a, b, c = 'a' * {n}, 'b' * ({n} - 1), 'c' * ({n} + 1)\n"
        "assert dict(f(' '.join([a, b, c, a]))) == {{a: 2, c: 1}}",
    ),
    Form(
        "total_of_top", "scores", "Return the sum of the {n} largest values of a dictionary.",
        "return sum(sorted(scores.values())[-{n}:])",
        "assert f({{str(i): i * 7 % 101 for i in range({n} + 9)}}) == "
        "sum(sorted(i * 7 % 101 for i in range({n} + 9))[9:])",
    ),
    Form(
        "every_nth", "text", "Return every {n}th character of a text as a list of (position, character) pairs.",
        "return [(i, text[i]) for i in range(0, len(text), {n})]",
        # Whether counting begins at 0 or 1, and with the first or the nth character, is left open.
        "text = 'abcdefghijklmnopqrstuvwxyz' * {n}\n"
        "found = [tuple(pair) for pair in f(text)]\n"
        "assert found in [[(i + k, text[i]) for i in range(start, len(text), {n})] "
        "for start in (0, {n} - 1) for k in (0, 1)]",
    ),
    Form(
        "clip", "rows", "Return a copy of a list of lists with every number above {n} replaced by {n}.",
        "return [[min(x, {n}) for x in row] for row in rows]",
        "assert [list(row) for row in f([[1, {n}], [], [{n} + 1, {n} - 1]])] == [[1, {n}], [], [{n}, {n} - 1]]",
    ),
    Form(
        "running_mean", "values", "Return the list of means of each {n} values in a row, rounded to two digits.",
        "return [round(sum(values[i : i + {n}]) / {n}, 2) for i in range(len(values) - {n} + 1)]",
        # Windows that overlap, or one after the other.
        "values = [i * i % 17 for i in range(2 * {n})]\n"
        "means = [round(sum(values[i : i + {n}]) / {n}, 2) for i in range({n} + 1)]\n"
        "assert list(f(values)) in (means, [means[0], means[{n}]])",
    ),
    Form(
        "shortest", "names", "Return the {n} shortest names, sorted by length and then by the alphabet.",
        "return sorted(names, key=lambda name: (len(name), name))[:{n}]",
        "names = [letter * (1 + i % 3) for i, letter in enumerate('qwertyuiopasdfghjklzxcvbnm' * 3)]\n"
        "assert list(f(names)) == sorted(names, key=lambda name: (len(name), name))[:{n}]",
    ),
    Form(
        "parse_pairs", "text", "Parse lines such as 'a=1' into a dictionary; skip lines of more than {n} characters.",
        "pairs = [line.split('=') for line in text.splitlines() if len(line) <= {n}]\n"
        "    return {{key: value for key, value in pairs}}",
        # Values may stay text or become numbers.
        "lines = ['a=1', 'bb=22', 'c=' + '3' * {n}]\n"
        "assert {{key: str(value) for key, value in f('\\n'.join(lines)).items()}} == "
        "dict(line.split('=') for line in lines if len(line) <= {n})",
    ),
)  # fmt: skip
