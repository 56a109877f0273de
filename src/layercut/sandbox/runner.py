"""Run generated programs in isolation, and judge them where they cannot forge a pass.

Each program gets a process of its own without network, with an empty home, an empty working folder and a keyring of its
own. Its environment has four harmless variables, and it may make a short list of system calls (``filter.py``). Limits
hold on memory, processor time, processes, files, output and wall clock; the shutdown also ends all of its
children. The isolation is bubblewrap, which is first tested with a program that probes for holes. Without it, programs
are run only after ``allow_unsafe`` (``--unsafe-exec``): then the limits hold without isolation. ``judge.py`` explains
how a program is judged and why it cannot forge a pass.

    run_program("def double(x):\\n    return 2 * x", tests="assert double(4) == 8").passed

docs/explanation/threat_model.md says what each mode guarantees. The kernel is shared, so a hole in it is a hole here
too. On machines with secrets, or for hostile programs, use a virtual machine.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from layercut.errors import InputError
from layercut.sandbox.isolation import Limits, Mode, find_bubblewrap, isolated_command, visible_paths, watch_process

_UNSAFE: set[bool] = set()
_SET_UP_FAILED = 99


class Program(NamedTuple):
    """A program to run."""

    source: str
    tests: str  # a program that uses the names of ``source``
    names: tuple[str, ...] = ()  # names that the tests take from the source even if they are builtins


class ProgramResult(NamedTuple):
    """The outcome of a program."""

    passed: bool  # all tests ran to their end
    failure: str
    """Empty if it passed; else the class of the exception (AssertionError, SyntaxError, NameError, ...), ``exit`` (it
    left or crashed before the end of the tests), ``timeout``, ``memory``, ``output`` or ``unwatched``.
    """
    detail: str  # a line about the failure, such as the message of the exception
    exit_code: int | None  # None unless the program ended by itself; negative for the signal that ended it
    output: str  # standard output and error, up to the limit
    seconds: float  # wall clock, including the start of the process


class SandboxError(RuntimeError):
    """The sandbox itself failed; this says nothing about the program."""


def allow_unsafe() -> None:
    """Allow programs without isolation in this process from now on, where no sandbox works."""
    _UNSAFE.add(True)


def isolation_in_force() -> Mode:
    """The isolation on this machine; InputError if no sandbox works without ``allow_unsafe``, or not even with it."""
    reason = _why_not("bubblewrap")
    if not reason:
        return "bubblewrap"
    if not _UNSAFE:
        raise InputError(
            f"generated programs cannot be run safely here (bubblewrap: {reason}). Install it (pip install "
            "'.[code]', or the system's package), allow unprivileged user namespaces, or use --unsafe-exec to run them "
            "with limits but without isolation."
        )
    if broken := _why_not("none"):
        raise InputError(f"--unsafe-exec cannot run programs here ({broken}). Run layercut as a user other than root.")
    return "none"


def describe_isolation() -> str:
    """The isolation in force, for users."""
    if isolation_in_force() == "none":
        return "limits only, no isolation (--unsafe-exec)"
    return "bubblewrap and limits"


def describe_or_why_not() -> str:
    """The isolation in force, or why there is none."""
    try:
        return describe_isolation()
    except InputError as error:
        return f"none: {error}"


def run_program(
    source: str, *, tests: str = "", names: Sequence[str] = (), limits: Limits | None = None, mode: Mode | None = None
) -> ProgramResult:
    """Run one program.

    Args:
        tests: Python that calls what the source defines and raises where it is not satisfied. Functions take and return
            plain values (numbers, text, lists, tuples, sets, dictionaries, ...); other objects stay with the program
            and can be called, inspected and passed back.
        names: names that the tests take from the source even if they are builtins.
        mode: the isolation; that of ``isolation_in_force`` if left out.

    Raises SandboxError: the sandbox failed this time.
    """
    limits = limits or Limits()
    mode = mode or isolation_in_force()
    token = secrets.token_hex(16)
    job = {"token": token, "source": source, "tests": tests, "names": list(names)}
    with tempfile.TemporaryFile() as file, tempfile.TemporaryDirectory(prefix="layercut-") as folder:
        file.write(json.dumps(job).encode())
        file.seek(0)
        verdict_read, verdict_write = os.pipe()
        alive_read, alive_write = os.pipe()
        start = time.monotonic()
        try:
            process = subprocess.Popen(
                isolated_command(mode, limits, verdict_write, alive_read),
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(verdict_write, alive_read),
                env={"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            os.close(verdict_read)
            os.close(alive_write)
            raise SandboxError(f"{mode}: {error}") from error
        finally:
            os.close(verdict_write)
            os.close(alive_read)
        seen = watch_process(process, verdict_read, alive_write, limits)
    seconds = time.monotonic() - start
    output = seen.output.decode("utf-8", "replace")
    if seen.stopped:
        return ProgramResult(False, seen.stopped, _STOPPED[seen.stopped], None, output, seconds)
    try:
        verdict = json.loads(seen.verdict)
    except ValueError:
        if process.returncode == _SET_UP_FAILED:
            raise SandboxError(f"{mode}: {output.strip() or f'exit code {process.returncode}'}") from None
        return ProgramResult(False, "exit", "ended without a verdict", None, output, seconds)
    assert secrets.compare_digest(verdict["token"], token), "a verdict on another program"
    failure = {"MemoryError": "memory"}.get(verdict["failure"], verdict["failure"])
    code = verdict["exit_code"]
    if code is not None and code in _BY_CPU_LIMIT and seconds >= limits.cpu_seconds:
        failure = "timeout"
    return ProgramResult(verdict["passed"], failure, verdict["detail"], code, output, seconds)


def run_programs(
    programs: Sequence[Program], *, limits: Limits | None = None, workers: int | None = None
) -> list[ProgramResult]:
    """Run many programs, as many at a time as there are cores; results in the order of the programs."""
    mode = isolation_in_force()

    def run(program: Program) -> ProgramResult:
        source, tests, names = program
        return run_program(source, tests=tests, names=names, limits=limits, mode=mode)

    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(workers or num_cores) as pool:
        return list(pool.map(run, programs))


_STOPPED = {
    "timeout": "still running at the end of its time",
    "memory": "its processes used more memory than allowed",
    "output": "wrote more output than allowed",
    "unwatched": "its processes could not be watched",
}
_BY_CPU_LIMIT = (-9, -24)  # SIGKILL or SIGXCPU; Linux sends the former where both limits are equal

_PROBE = """
import os, socket, threading
def holes(home, shown):
    found = []
    if os.path.exists(home) and set(os.listdir(home)) - set(shown):
        found.append(f"{home} can be read")
    if set(os.environ) - {"HOME", "TMPDIR", "PATH", "LANG"}:
        found.append("the environment is inherited")
    try:
        names = socket.if_nameindex()
    except OSError:
        names = []
    if [name for _, name in names if name != "lo" and "tunl" not in name and "sit" not in name
            and "gre" not in name and "vti" not in name and "ip6" not in name and "erspan" not in name]:
        found.append("there is a network")
    if os.path.exists("/proc/1"):
        found.append("processes can be seen")
    try:
        open("/usr/layercut-hole", "w").close()
        found.append("/usr can be written")
    except OSError:
        pass
    children = []
    try:
        for _ in range(20):
            child = os.fork()
            if not child:
                threading.Event().wait(20)
            children.append(child)
        found.append("processes are not limited")
    except OSError:
        pass
    return found
"""


@functools.cache
def _why_not(mode: Mode) -> str:
    """Reason why programs cannot be run in this way here; empty if they can."""
    if mode != "none" and sys.platform != "linux":
        return "needs Linux"
    if mode == "bubblewrap" and find_bubblewrap() is None:
        return "not installed"
    home = Path.home()
    shown = [Path(path).relative_to(home).parts[0] for path in visible_paths()[0] if Path(path).is_relative_to(home)]
    tests = f"found = holes({str(home)!r}, {shown!r})\nassert not found, ', '.join(found)"
    limits = Limits(wall_seconds=20, processes=8, memory_mb=512)
    try:
        if mode == "none":
            result = run_program("", mode=mode)
        else:
            result = run_program(_PROBE, tests=tests, limits=limits, mode=mode)
    except SandboxError as error:
        text = str(error).removeprefix(f"{mode}: ")
        return " ".join((text.removeprefix("sandbox: ") if mode == "none" else text).split())
    return "" if result.passed else result.detail or result.failure
