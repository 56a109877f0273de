"""Runs inside the sandbox: one process tests, another holds the program; only plain values pass between them.

A program that shares an interpreter with its tests can always pass them: it can return objects that equal everything,
replace ``builtins``, reach the tests through the stack frames, or write the mark of success. So the two are separate:

- The *judge* reads the tests, runs them, and alone holds the pipe of the verdict. It never runs, imports or unpickles
  anything of the program. It is not dumpable, so no process may trace it or read its memory, and where it is process 1
  of a process namespace the program cannot kill it either (which would only fail the program).
- The *worker*, forked before the tests are read, holds the program. The judge asks it to call a function with given
  arguments; it answers with plain values in JSON, or with the number of an object that stays in the worker.

So a program passes only if it answers every call with values that the tests accept, memorised ones among them. This
file imports only the standard library: it runs under another interpreter start, without layercut.
"""

from __future__ import annotations

import ast
import builtins
import collections
import contextlib
import ctypes
import decimal
import fractions
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

MAX_MESSAGE = 2**30  # bytes in one message of the program; a longer one fails it
_MAX_DETAIL = 500
_MAX_TEXT = 10 * _MAX_DETAIL
_PR_SET_DUMPABLE = 4
_POLL_SECONDS = 0.05
_BIG = 4096  # bits from which integers travel in hex: decimal digits take time that grows with the square
_MAX_ITEMS = 10**6


class ProgramError(Exception):
    """An error in the program of a class that the judge does not have."""


class ProgramEnded(BaseException):
    """The worker is gone: the program left, or was killed."""


def judge_program(verdict: int, alive: int, folder: str | None, max_files: int) -> NoReturn:
    """Fork the worker, read the job from standard input, run it and write one line of JSON to ``verdict``.

    When the other end of the pipe ``alive`` is closed, this process ends at once, and as process 1 ends all others; so
    it does when the file system of ``folder``, which is the program's alone, holds more than ``max_files``.
    """
    ours, theirs = socket.socketpair()
    worker = os.fork()
    if worker == 0:
        ours.close()
        os.close(verdict)
        os.close(alive)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        _work(theirs)
    theirs.close()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(alive, folder, max_files), daemon=True).start()
    sys.set_int_max_str_digits(0)
    with open(0, "rb", closefd=False) as file:
        job = json.load(file)
    answer: dict[str, Any] = {"passed": False, "failure": "", "detail": "", "exit_code": None}
    try:
        program = _Program(ours)
        program.ask("start", job["source"])
        _run_tests(job["tests"], job["names"], program)
        answer["passed"] = True
    except ProgramEnded:
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        detail = f"ended with exit code {code}" if code >= 0 else f"killed by signal {-code}"
        answer |= {"exit_code": code, "failure": "exit", "detail": detail}
    except BaseException as error:
        name = getattr(error, "program_class", type(error).__name__)
        detail = " ".join(str(error)[:_MAX_TEXT].split())[:_MAX_DETAIL]
        # Without what a terminal obeys and no file takes, such as half of a surrogate pair.
        detail = "".join(symbol if symbol.isprintable() else "\ufffd" for symbol in detail)
        answer |= {"failure": name, "detail": detail}
    os.write(verdict, json.dumps(answer | {"token": job["token"]}).encode())
    os._exit(0)


def _leave_with(alive: int, folder: str | None, max_files: int) -> NoReturn:
    while not select.select([alive], [], [], _POLL_SECONDS if folder else None)[0]:
        files = os.statvfs(folder or "/")
        if files.f_files - files.f_ffree > max_files:
            break
    os._exit(1)


def _run_tests(tests: str, names: list[str], program: _Program) -> None:
    tree = ast.parse(tests)
    module = types.ModuleType("tests")
    for name in dict.fromkeys([*names, *_free_names(tree)]):
        module.__dict__[name] = program.ask("get", name)
    exec(compile(tree, "tests", "exec"), module.__dict__)


def _free_names(tree: ast.AST) -> list[str]:
    """Names that the tests use and only the program can define. Never a builtin: a program that could bring its own
    ``set`` or ``all`` would write its own tests.
    """
    used: dict[str, None] = {}
    bound = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                used[node.id] = None
            else:
                bound.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    return [name for name in used if name not in bound]


class _Program:
    """The judge's end: ask the worker, and decode its answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def ask(self, verb: str, *arguments: Any) -> Any:
        try:
            self._connection.sendall(
                _packed([verb, *(encode_message(argument, self._number) for argument in arguments)])
            )
            answer = _receive(self._connection)
        except (OSError, EOFError) as error:
            raise ProgramEnded from error
        if "error" in answer:
            raise _as_exception(str(answer["error"]), str(answer.get("text", ""))[:_MAX_TEXT])
        return decode_message(answer["value"], lambda number: Remote(self, number))

    @staticmethod
    def _number(value: Any) -> int:
        if isinstance(value, Remote):
            return int(object.__getattribute__(value, "_number"))
        raise TypeError(f"a {type(value).__name__} cannot be given to a program under test")


class Remote:
    """An object of the program, in the judge: it can be called, inspected and passed back.

    It has no ``==`` of its own, so it equals only itself, whatever the program's class says.
    """

    def __init__(self, program: _Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._program.ask("call", self, list(arguments), named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("setattr", self, name, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._program.ask("list", self))

    def __bool__(self) -> bool:
        return self._program.ask("truth", self) is True


def _as_exception(name: str, text: str) -> Exception:
    """The same error in the judge, so that tests that expect one find it.

    StopIteration becomes RuntimeError, as in a generator: ``all(map(double, values))`` would pass.
    """
    kind = getattr(builtins, name, None)
    error: Any = ProgramError(text)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):  # UnicodeDecodeError wants five arguments
            error = (RuntimeError if issubclass(kind, StopIteration | StopAsyncIteration) else kind)(text)
    error.program_class = name if name.isidentifier() and len(name) <= _MAX_DETAIL else "ProgramError"
    assert isinstance(error, Exception)
    return error


def _work(connection: socket.socket) -> NoReturn:
    """The worker's loop: load the program, then obey the judge until it is gone."""
    sys.set_int_max_str_digits(0)
    module = types.ModuleType("program")
    objects: list[Any] = []

    def look_up(name: str) -> Any:
        if name not in module.__dict__:
            raise NameError(f"name {name!r} is not defined")
        return module.__dict__[name]

    def kept(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    verbs: dict[str, Callable[..., Any]] = {
        "start": lambda source: _start(module, source),
        "get": look_up,
        "call": lambda function, arguments, named: function(*arguments, **named),
        "getattr": getattr,
        "setattr": setattr,
        "truth": bool,
        "list": lambda values: [value for value, _ in zip(values, range(_MAX_ITEMS), strict=False)],
    }
    while True:
        try:
            verb, *arguments = (decode_message(part, objects.__getitem__) for part in _receive(connection))
        except (OSError, EOFError):
            os._exit(0)
        try:
            answer = _packed({"value": encode_message(verbs[verb](*arguments), kept)})
        except SystemExit as error:
            os._exit(error.code & 255 if isinstance(error.code, int) else bool(error.code))
        except BaseException as error:
            answer = _packed({"error": type(error).__name__, "text": _text(error)})
        connection.sendall(answer)


def _start(module: types.ModuleType, source: str) -> None:
    os.environ.clear()
    os.environ.update(HOME="/tmp/home", TMPDIR="/tmp", PATH="/usr/bin:/bin", LANG="C.UTF-8")
    sys.argv = ["program"]
    sys.modules[module.__name__] = module  # dataclasses look there
    exec(compile(source, "program", "exec", dont_inherit=True), module.__dict__)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_DETAIL]
    except BaseException:
        return ""


def _packed(message: Any) -> bytes:
    data = json.dumps(message).encode()
    return struct.pack("!Q", len(data)) + data


def _receive(connection: socket.socket) -> Any:
    (length,) = struct.unpack("!Q", _exactly(connection, 8))
    if length > MAX_MESSAGE:
        raise ValueError(f"a message of {length} bytes; at most {MAX_MESSAGE} are read")
    return json.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(min(length - len(parts), 2**20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def encode_message(value: Any, number: Callable[[Any], int]) -> Any:
    """A value as JSON: itself where JSON has it, else a list of a tag and its parts; ``number`` names other objects.

    Subclasses are encoded as their base (a Counter as a dict, a named tuple as a tuple), numpy's scalars as Python's.
    """
    kind = type(value)
    if kind in _SCALARS and (kind is not int or value.bit_length() < _BIG):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return ["int", hex(value)]
    if isinstance(value, float):
        return float(value)
    for tag, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            if _SCALARS.issuperset(map(type, value)):  # most are, and this is ten times as fast
                return [tag, list(value), True]
            return [tag, [encode_message(part, number) for part in value]]
    if isinstance(value, dict):
        return ["dict", [[encode_message(key, number), encode_message(part, number)] for key, part in value.items()]]
    if isinstance(value, complex):
        return ["complex", repr(value.real), repr(value.imag)]
    if isinstance(value, (bytes, bytearray)):
        return [type(value).__name__, value.hex()]
    if isinstance(value, range):
        return ["range", str(value.start), str(value.stop), str(value.step)]
    if isinstance(value, decimal.Decimal):
        return ["Decimal", str(value)]
    if isinstance(value, fractions.Fraction):
        return ["Fraction", hex(value.numerator), hex(value.denominator)]
    if isinstance(value, type) and _TYPES.get(value.__name__) is value:
        return ["type", value.__name__]
    if type(value).__module__ == "numpy" and callable(getattr(value, "item", None)) and not getattr(value, "ndim", 1):
        return encode_message(value.item(), number)
    return ["object", number(value)]


_SCALARS = {type(None), bool, int, float, str}
_KINDS = (list, tuple, set, frozenset, collections.deque)
_SEQUENCES: dict[str, type] = {kind.__name__: kind for kind in _KINDS}
_TYPES = {name: kind for name, kind in vars(builtins).items() if isinstance(kind, type) and not name.startswith("_")}
_PARTS: dict[str, Callable[..., Any]] = {
    "int": lambda digits: int(digits, 16),
    "complex": lambda real, imaginary: complex(float(real), float(imaginary)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": lambda *ends: range(*map(int, ends)),
    "Decimal": decimal.Decimal,
    "type": _TYPES.__getitem__,
    "Fraction": lambda above, below: fractions.Fraction(int(above, 16), int(below, 16)),
}


def decode_message(value: Any, thing: Callable[[int], Any]) -> Any:
    """The value that ``encode_message`` was given; ``thing`` returns the object of a number."""
    if not isinstance(value, list):
        return value
    tag, *parts = value
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](parts[0] if len(parts) > 1 else (decode_message(part, thing) for part in parts[0]))
    if tag == "dict":
        return {decode_message(key, thing): decode_message(part, thing) for key, part in parts[0]}
    return thing(parts[0]) if tag == "object" else _PARTS[tag](*parts)
