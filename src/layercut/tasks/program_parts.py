"""The parts of a program: the statements that given names need, and the names that are undefined."""

from __future__ import annotations

import ast
import symtable
import warnings
from collections.abc import Sequence, Set
from typing import NamedTuple

NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
"""Errors that parsing a text may raise."""


def parse(source: str) -> ast.Module:
    """Its tree, without warnings about its text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def needed(source: str, names: Sequence[str]) -> str:
    """The statements that define the names, and all that those need; imports first, the rest in order.

    Of several functions with one name the first that returns or yields counts, as in EvalPlus: the head of a problem is
    a function without a body, and models that do not stop write a function again.

    Raises:
        SyntaxError: the source does not parse.
    """
    parts = [_part(source, node) for node in parse(source).body]
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


def defined(source: str) -> set[str]:
    """Functions, variables and modules that a program defines at its top level, without its classes.

    Raises:
        SyntaxError: the source does not parse.
    """
    nodes = [node for node in parse(source).body if not isinstance(node, ast.ClassDef)]
    return {name for node in nodes for name in _part(source, node).provides} - {"", "*"}


def undefined(source: str) -> set[str]:
    """Names that a program uses and does not define, builtins among them.

    Raises:
        SyntaxError: the source cannot be compiled.
    """
    tables = _tables(source)
    own = {
        symbol.get_name()
        for symbol in tables[0].get_symbols()
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
    }
    return _global_names(tables) - own


def defines(node: ast.stmt, name: str) -> bool:
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
        text = "".join(f"@{ast.get_source_segment(source, one)}\n" for one in node.decorator_list) + text
        return _Part(text, 2, _globals(text), node.name, defines(node, node.name))
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
