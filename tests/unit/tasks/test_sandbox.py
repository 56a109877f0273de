"""Programs that mean harm are shut in and fail; honest ones pass. Each test runs behind every sandbox that works."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.tasks import sandbox
from layercut.tasks.sandbox import Program, ProgramResult, run_program, run_programs
from layercut.tasks.sandbox_walls import Limits, Mode

SMALL = Limits(wall_seconds=10, cpu_seconds=2, memory_mb=256, processes=12, disk_mb=4, output_kb=64)
TESTS = "assert double(4) == 8\nassert double('a') == 'aa'\nassert double([1, (2, {3: 4.5})]) == [1, (2, {3: 4.5})] * 2"
RIGHT = "def double(x):\n    return 2 * x\n"
WALLS: list[Mode] = ["bubblewrap", "namespaces"]


@pytest.fixture(params=WALLS)
def mode(request: pytest.FixtureRequest) -> Mode:
    reason = sandbox._why_not(request.param)
    if reason:
        pytest.skip(f"{request.param} does not work here: {reason}")
    walls: Mode = request.param
    return walls


def judged(source: str, mode: Mode, tests: str = TESTS, limits: Limits = SMALL) -> ProgramResult:
    return run_program(source, tests=tests, limits=limits, mode=mode)


def test_a_right_program_passes_and_a_wrong_one_fails(mode: Mode) -> None:
    result = judged(RIGHT, mode)
    assert result.passed and result.failure == "" and result.output == "" and 0 < result.seconds < 10
    wrong = judged("def double(x):\n    print('hm')\n    return 3 * x\n", mode)
    assert not wrong.passed and wrong.failure == "AssertionError" and wrong.output in ("hm\n", "")


@pytest.mark.parametrize(
    ("source", "failure", "detail"),
    [
        ("def double(x)\n    return x", "SyntaxError", "expected ':'"),
        ("def double(x):\nreturn x", "IndentationError", "expected an indented block"),
        ("def twice(x):\n    return 2 * x", "NameError", "name 'double' is not defined"),
        ("def double(x):\n    return y", "NameError", "name 'y' is not defined"),
        ("def double(x):\n    return x + None", "TypeError", "unsupported operand"),
        ("import nothing_of_that_name", "ModuleNotFoundError", "nothing_of_that_name"),
        ("def double(x):\n    return double(x)", "RecursionError", "maximum recursion depth"),
        ("class Own(Exception): pass\ndef double(x):\n    raise Own('why')", "Own", "why"),
        ("double = 8", "TypeError", "'int' object is not callable"),
        ("def double(x):\n    while True: pass", "timeout", ""),
    ],
)
def test_failures_are_told_apart(source: str, failure: str, detail: str, mode: Mode) -> None:
    result = judged(source, mode)
    assert not result.passed and result.failure == failure and detail in result.detail


FORGERIES = {
    "leaves": "import sys\nsys.exit(0)",
    "leaves when called": "def double(x):\n    raise SystemExit(0)",
    "leaves at once": "import os\nos._exit(0)",
    "leaves when called, at once": "import os\ndef double(x):\n    os._exit(0)",
    "prints marks": "print('passed', 'OK', '{\"passed\": true}')\ndef double(x): return 0",
    "writes to every descriptor": (
        'import os\nfor fd in range(64):\n    try: os.write(fd, b\'{"passed": true, "failure": "", "token": ""}\')\n'
        "    except OSError: pass\ndef double(x): return 0"
    ),
    "replaces builtins": (
        "import builtins\nbuiltins.AssertionError = type(None)\nbuiltins.isinstance = lambda *_: True\n"
        "builtins.set = builtins.len = lambda *_: 0\ndef double(x): return 0"
    ),
    "equals everything": (
        "class Any:\n    def __eq__(self, other): return True\n    __ne__ = lambda *_: False\n    __hash__ = None\n"
        "def double(x): return Any()"
    ),
    "is a list that equals everything": (
        "class Any(list):\n    def __eq__(self, other): return True\ndef double(x): return Any()"
    ),
    "exits late": "import atexit, os\natexit.register(os._exit, 0)\ndef double(x): return 0",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)\nos.kill(1, 9)\ndef double(x): return 0",
    "kills everybody": "import os, signal\nos.kill(-1, signal.SIGKILL)\ndef double(x): return 0",
    "reads the tests in its parent": (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.ptrace(16, os.getppid(), 0, 0) == -1 and libc.ptrace(16, 1, 0, 0) == -1\n"
        "assert not os.path.exists('/proc/1')\ndef double(x): return 0"
    ),
}


@pytest.mark.parametrize("source", FORGERIES.values(), ids=FORGERIES)
def test_a_pass_cannot_be_forged(source: str, mode: Mode) -> None:
    assert not judged(source, mode).passed


def test_a_pass_is_not_lost_by_what_a_program_breaks_in_its_own_process(mode: Mode) -> None:
    assert judged("import builtins\nbuiltins.AssertionError = None\n" + RIGHT, mode).passed


def test_a_fork_bomb_meets_its_limit_and_leaves_nobody(mode: Mode) -> None:
    marker = f"layercut-bomb-{os.getpid()}-{mode}"
    source = (
        "import os, time\ncount = 0\ntry:\n    for _ in range(200):\n        if os.fork() == 0: time.sleep(60)\n"
        f"        count += 1\nexcept BlockingIOError: print('{marker}', count, flush=True)\ntime.sleep(60)"
    )
    before = processes()
    result = run_program(source, limits=Limits(wall_seconds=3, cpu_seconds=2, memory_mb=256, processes=12), mode=mode)
    assert not result.passed and result.failure == "timeout"
    assert result.output.startswith(marker) and 0 < int(result.output.split()[1]) < 12
    deadline = time.monotonic() + 5
    while len(processes() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [line for line in processes() - before if "sandbox_child" in line]


def processes() -> set[str]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.add(f"{folder.name} {(folder / 'cmdline').read_text()}")
        except OSError:
            continue
    return {line for line in found if "sandbox_child" in line}


@pytest.mark.parametrize(
    ("source", "failures"),
    [
        ("data = []\nwhile True: data.append(bytearray(8 * 2**20))", "exit memory"),
        (
            "import os, time\nfor _ in range(4):\n    if os.fork() == 0: break\n"
            "data = bytearray(b'x') * (120 * 2**20)\ntime.sleep(20)",
            "memory",
        ),
        ("while True: print('x' * 1000)", "output"),
        ("import time\ntime.sleep(1000)", "timeout"),
        ("while True: pass", "timeout"),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", "exit memory timeout"),
    ],
    ids=["memory of one", "memory of many", "output", "sleep", "loop", "stack"],
)
def test_what_takes_too_much_is_ended(source: str, failures: str, mode: Mode) -> None:
    limits = Limits(wall_seconds=4, cpu_seconds=1, memory_mb=256, processes=12, disk_mb=4, output_kb=64)
    result = run_program(source, limits=limits, mode=mode)
    assert not result.passed and result.failure in failures.split(), result
    assert result.seconds < 8 and len(result.output) <= 64 * 1024


def test_the_disk_is_small_and_the_rest_cannot_be_written(mode: Mode, tmp_path: Path) -> None:
    source = f"""
import os
written = 0
try:
    for number in range(100):
        with open(f"/tmp/work/{{number}}", "wb") as file:
            written += file.write(bytes(2**20))
except OSError as error:
    print(written // 2**20, type(error).__name__)
for place in ("/", "/usr", "/dev", "/packages", {str(tmp_path)!r}, {str(Path(__file__).parent)!r}):
    try:
        open(os.path.join(place, "layercut-escaped"), "w").close()
        print("wrote to", place)
    except OSError:
        pass
"""
    result = run_program(source, limits=SMALL, mode=mode)
    assert result.passed and result.output in ("3 OSError\n", "4 OSError\n")
    assert not list(tmp_path.iterdir()) and not Path("/usr/layercut-escaped").exists()


def test_the_host_is_out_of_sight(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERCUT_TEST_SECRET", "hush")
    source = f"""
import os
print(sorted(os.environ), os.environ["HOME"], os.getcwd(), os.listdir(os.environ["HOME"]), os.listdir("."))
print([path for path in ("/proc/self", "/sys/kernel", "/etc/passwd", {str(Path(__file__))!r}) if os.path.exists(path)])
import ctypes
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
print(libc.getenv(b"LAYERCUT_TEST_SECRET"), os.getuid() != 0, libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
"""
    result = run_program(source, limits=SMALL, mode=mode)
    assert result.output == ("['HOME', 'LANG', 'PATH', 'TMPDIR'] /tmp/home /tmp/work [] []\n[]\nNone True -1\n")


def test_there_is_no_network(mode: Mode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = f"""
import socket
for host, port in (("127.0.0.1", {port}), ("192.0.2.1", 80)):
    try:
        socket.create_connection((host, port), timeout=2)
        print("connected to", host)
    except OSError as error:
        print(type(error).__name__)
"""
        result = run_program(source, limits=SMALL, mode=mode)
    assert result.passed and "connected" not in result.output and len(result.output.splitlines()) == 2


def test_a_script_reads_its_input_and_its_exit_code_counts(mode: Mode) -> None:
    said = run_program("print(input()[::-1])", stdin="abc\n", limits=SMALL, mode=mode)
    assert said.passed and said.output == "cba\n" and said.exit_code == 0
    left = run_program("raise SystemExit(3)", limits=SMALL, mode=mode)
    assert not left.passed and left.failure == "exit" and left.exit_code == 3
    broken = run_program("1 / 0", limits=SMALL, mode=mode)
    assert not broken.passed and broken.exit_code == 1 and "ZeroDivisionError" in broken.output


def test_values_travel_as_they_are_and_other_objects_stay_with_the_program(mode: Mode) -> None:
    source = """
import collections, decimal, fractions, re
def same(x): return x
def counted(x): return collections.Counter(x)
def numbers(): return [10**50, -3, 2.5, float("inf"), 1j, True, None, b"\\x00", decimal.Decimal("1.10"),
                       fractions.Fraction(1, 3), range(3), {1, 2}, frozenset("a"), collections.deque([1])]
def match(x): return re.match("a+", x)
def count(n): yield from range(n)
def kind_of(x): return type(x)
def without(x, kind): return [one for one in x if not isinstance(one, kind)]
class Node:
    def __init__(self, value): self.value, self.next = value, None
    def depth(self): return 1 + (self.next.depth() if self.next else 0)
"""
    tests = """
import collections, decimal, fractions
for value in ([1, [2.0, ("a", {"b": None})]], {(1, 2): [3]}, "\\ud800", "é", [True, 1], 2**9000, [float("inf")]):
    assert same(value) == value and type(same(value)) is type(value)
assert counted("aab") == {"a": 2, "b": 1}
assert numbers() == [10**50, -3, 2.5, float("inf"), 1j, True, None, b"\\x00", decimal.Decimal("1.10"),
                     fractions.Fraction(1, 3), range(3), {1, 2}, frozenset("a"), collections.deque([1])]
assert match("aab") and match("aab").group() == "aa" and match("b") is None
assert list(count(3)) == [0, 1, 2]
for kind in (int, str, float, list, dict, type, object, ValueError):
    assert same(kind) is kind and same([kind]) == [kind]
assert without((4, 5, 7.7, True), int) == [7.7] and kind_of(2.5) is float and kind_of(Node(1)) not in (object, type)
node = Node(1)
node.next = Node(2)
assert node.depth() == 2 and node.next.value == 2
try:
    same()
except TypeError:
    caught = True
assert caught
"""
    result = judged(source, mode, tests=tests)
    assert result.passed, result


def test_many_programs_come_back_in_their_order() -> None:
    if not sandbox._working()[0]:
        pytest.skip(f"no sandbox works here: {sandbox._working()[1]}")
    programs = [Program(f"def f(): return {n}", tests=f"assert f() == {n if n % 3 else -1}") for n in range(9)]
    results = run_programs(programs, limits=SMALL, workers=2)
    assert [result.passed for result in results] == [n % 3 > 0 for n in range(9)]


def test_nothing_runs_without_walls_unless_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_working", lambda: (None, ("bubblewrap: not installed",)))
    monkeypatch.setattr(sandbox, "_UNSAFE", set())
    with pytest.raises(InputError, match=r"safely here \(bubblewrap: not installed\).*--unsafe-exec"):
        run_program(RIGHT)
    sandbox.allow_unsafe()
    assert sandbox.in_force() == "none" and "no walls" in sandbox.describe()
    assert run_program(RIGHT, tests=TESTS, limits=SMALL).passed
    assert not run_program(FORGERIES["leaves when called"], tests=TESTS, limits=SMALL).passed


def test_programs_end_when_layercut_is_killed(mode: Mode) -> None:
    source = "import time\ntime.sleep(100)"
    code = f"from layercut.tasks.sandbox import run_program\nrun_program({source!r}, mode={mode!r})"
    before = processes()
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        deadline = time.monotonic() + 15
        while len(processes() - before) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        assert processes() - before
        parent.kill()
    deadline = time.monotonic() + 10
    while processes() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes() - before


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(InputError, match="the limit memory_mb is 0; use a positive number"):
        Limits(memory_mb=0)
