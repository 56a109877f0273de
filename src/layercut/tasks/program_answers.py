"""Extract the program from a model's text, and the parts that a function needs: the rule that the code tasks share.

The prompt ends in an answer that is begun for the model: an opened code block, with the head of the function in it
where there is one. The rule is the one of ``evalplus.sanitize`` (Liu et al., arXiv:2305.01210; release 0.3.1): take the
longest run of lines that parses, and of it the function under test with all that it needs. The model's own tests and
prose are left out. The rule differs where EvalPlus loses a right program: it keeps decorated functions, helpers without
``return``, and statements that fill a table, and takes a shorter run of lines where the longest one does not define the
function.
"""

from __future__ import annotations

import ast
import re
import symtable
import warnings
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

from layercut.engine.base import Completion
from layercut.evidence.program_classes import FENCE_LINE, ProgramClass, classify_program
from layercut.sandbox.isolation import Limits
from layercut.sandbox.runner import Program, run_programs
from layercut.tasks.base import Sample

FENCE = "```"
OPENED = f"{FENCE}python\n"  # beginning of the answer
STOP = (f"\n{FENCE}\n",)
"""End of the answer: a closing fence with its line end, as the fence that opens a block of Python ends nothing."""

NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
"""Errors that parsing a text may raise."""

_MAX_PARSED = 3 * 10**6  # Characters. Bounds the search in texts without sense, such as a thousand opened brackets.
_TOP_LEVEL = re.compile(r"^(?:(?:async\s+)?def|class|import|from|@|\w+\s*(?::[^=\n]+)?=[^=])", re.MULTILINE)
_INDENTED = re.compile(r"[ \t]+\S")
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)


def find_program(text: str, names: Sequence[str], head: str = "") -> str:
    """The program of a completion, or an empty text where there is none.

    ``head`` is what the code block was begun with: a body is put below it, and a complete function takes its place. A
    block that the model opens itself counts, whatever is said around it. Code without all of the ``names`` that the
    tests use is returned unchanged, so that running it shows the error.
    """
    text = _INDENT.sub(lambda indent: indent[0].replace("\t", "    "), text.replace("\r\n", "\n"))
    for lines in _runs(_below(head, text).split("\n")):
        code = "\n".join(lines)
        if names and all(any(defines_name(node, name) for node in parse_program(code).body) for name in names):
            both = code if head in code else f"{code}\n{head}"
            return needed_names(both if _failure(both) is None else code, names)
    pieces = (piece.rstrip() for piece in FENCE_LINE.split(text))
    code = next((piece for piece in pieces if _is_code(piece, head)), "")
    return _below(head, code) if code and head else code.strip("\n")


def judge_programs(
    samples: Sequence[Sample], answers: Sequence[Completion], limits: Limits
) -> list[tuple[str, bool, ProgramClass]]:
    """Run the program of each answer over the cores: how it fared, whether it passed, and its class.

    How it fared is ``passed``, or the failure, a colon and a line about it; empty where there is no program.
    """
    programs = []
    for sample, answer in zip(samples, answers, strict=True):
        names, head = sample.data["names"], sample.data.get("head", "")
        programs.append(Program(find_program(answer.text, names, head), sample.data["tests"], names))
    results = iter(run_programs([program for program in programs if program.source], limits=limits))
    judged: list[tuple[str, bool, ProgramClass]] = []
    for program, sample, answer in zip(programs, samples, answers, strict=True):
        if not program.source:
            was_cut = answer.finish_reason == "length" and bool(answer.text.strip())
            judged.append(("", False, "cut" if was_cut else "no_code"))
            continue
        result, head = next(results), sample.data.get("head", "")
        fate = classify_program(program.source, head=head, finish_reason=answer.finish_reason, outcome=result.failure)
        judged.append(("passed" if result.passed else f"{result.failure}: {result.detail}", result.passed, fate))
    return judged


def _below(head: str, code: str) -> str:
    return head + code if not head or code.startswith("\n") else f"{head}\n{code}"


def _runs(lines: list[str]) -> Iterator[list[str]]:
    """The longest run of lines that parses, then those of the lines before and after it."""
    pieces, budget = [lines], [_MAX_PARSED]
    for piece in pieces:
        start, end = _longest(piece, budget)
        if end > start:
            yield piece[start:end]
            pieces += [piece[:start], piece[end:]]


def _longest(lines: list[str], budget: list[int]) -> tuple[int, int]:
    """The run with most lines that are not blank; the first of several."""
    counts = [0]
    for line in lines:
        counts.append(counts[-1] + bool(line.strip()))
    best, longest = (0, 0), 0
    for start in range(len(lines)):
        end = len(lines)
        while counts[end] - counts[start] > longest and budget[0] > 0:
            run = "\n".join(lines[start:end])
            budget[0] -= len(run)
            failed = _failure(run)
            if failed is None:
                best, longest = (start, end), counts[end] - counts[start]
            else:  # no run that goes on to the line of the error parses
                end = min(end - 1, start + max(failed - 1, 0))
    return best


def _failure(source: str) -> int | None:
    """The line at which a text stops to be Python, from 1; None if it is."""
    try:
        parse_program(source)
    except NOT_PYTHON as error:
        return getattr(error, "lineno", None) or 10**9
    return None


def _is_code(code: str, head: str) -> bool:
    first = next((line for line in code.split("\n") if line.strip()), "")
    return bool(_TOP_LEVEL.search(code) or (head and _INDENTED.match(first)))


def parse_program(source: str) -> ast.Module:
    """Its tree, without warnings about its text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def needed_names(source: str, names: Sequence[str]) -> str:
    """The statements that define the names, and all that those need; imports first, the rest in order.

    Of several functions with one name the first that returns or yields counts, as in EvalPlus: the head of a problem is
    a function without a body, and models that do not stop write a function again. Raises SyntaxError.
    """
    parts = [_part(source, node) for node in parse_program(source).body]
    chosen: dict[str, _Part] = {}
    for part in sorted(parts, key=lambda part: not part.returns):
        if part.defines:
            chosen.setdefault(part.defines, part)
    parts = [part for part in parts if chosen.get(part.defines, part) is part and not part.binds & set(chosen)]
    wanted, kept = {*names, "*"}, set[int]()
    while new := {n for n, part in enumerate(parts) if part.provides & wanted} - kept:
        kept |= new
        wanted = wanted.union(*(parts[n].uses for n in new))
    return "\n".join(part.text for part in sorted((parts[n] for n in sorted(kept)), key=lambda part: part.place))


def defined_names(source: str) -> set[str]:
    """Functions, variables and modules that a program defines at its top level, but classes. Raises SyntaxError."""
    nodes = [node for node in parse_program(source).body if not isinstance(node, ast.ClassDef)]
    return {name for node in nodes for name in _part(source, node).provides} - {"", "*"}


def undefined_names(source: str) -> set[str]:
    """Names that a program uses and does not define, builtins among them. Raises SyntaxError."""
    tables = _tables(source)
    own = {
        symbol.get_name()
        for symbol in tables[0].get_symbols()
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
    }
    return _global_names(tables) - own


def defines_name(node: ast.stmt, name: str) -> bool:
    """True if a statement binds the name to something that can be called, other than a function without a result."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return node.name == name and any(
            isinstance(part, (ast.Return, ast.Yield, ast.YieldFrom)) for part in ast.walk(node)
        )
    if isinstance(node, ast.ClassDef):
        return node.name == name
    return isinstance(node, ast.Assign) and any(name in _root(target) for target in node.targets)


class _Part(NamedTuple):
    """A statement at the top level of a program."""

    text: str
    place: int  # 0 for imports from the future, 1 for other imports, 2 for the rest
    uses: set[str]  # global names
    defines: str = ""  # name of the function or class
    returns: bool = False  # True if the function has a result
    binds: Set[str] = frozenset()  # names that another statement binds; ``*`` where no list of them can be had
    changes: Set[str] = frozenset()
    """Names whose objects another statement changes, as ``table[0] = 1`` and ``table.append(1)`` do."""

    @property
    def provides(self) -> Set[str]:
        return {self.defines} | self.binds | self.changes


def _part(source: str, node: ast.stmt) -> _Part:
    text = ast.get_source_segment(source, node) or ""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        text = "".join(f"@{ast.get_source_segment(source, part)}\n" for part in node.decorator_list) + text
        return _Part(text, 2, _globals(text), node.name, defines_name(node, node.name))
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda) and isinstance(node.targets[0], ast.Name):
        return _Part(text, 2, _globals(text), node.targets[0].id, True)
    binds, changes, place = set[str](), set[str](), 2
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        place = int(getattr(node, "module", "") != "__future__")
        binds |= set() if place else {"*"}
    for part in ast.walk(node):
        if isinstance(part, ast.alias):
            binds.add((part.asname or part.name).partition(".")[0])
        elif isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
            binds.add(part.id)
        elif isinstance(part, (ast.Attribute, ast.Subscript)) and not isinstance(part.ctx, ast.Load):
            changes |= _root(part)
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
            changes |= _root(part.value.func) if isinstance(part.value.func, ast.Attribute) else set()
    return _Part(text, place, _globals(text), binds=binds, changes=changes)


def _root(node: ast.expr) -> set[str]:
    """``a`` of ``a.b[0].c``."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _globals(source: str) -> set[str]:
    """Names that a statement reads from, or writes to, the module."""
    try:
        return _global_names(_tables(source))
    except NOT_PYTHON:  # a return outside of a function, among others
        return set()


def _tables(source: str) -> list[symtable.SymbolTable]:
    """Statements of a program and of all functions and classes in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tables = [symtable.symtable(source, "program", "exec")]
    for table in tables:
        tables.extend(table.get_children())
    return tables


def _global_names(tables: list[symtable.SymbolTable]) -> set[str]:
    return {
        symbol.get_name()
        for table in tables
        for symbol in table.get_symbols()
        if table is tables[0] or symbol.is_global()
    }
